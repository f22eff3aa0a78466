//! What is told of a span: `request{id=7 path="/x"}`, bounded, on one line, formatted once.

use std::fmt::{self, Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::field::{Field, Visit};

use super::{BYTES, WORDS};

/// Bytes for name and fields; the rest is for what closes them.
const ROOM: usize = BYTES - "…}".len();
/// Fields of a span that can be recorded once more; tracing allows no more at all.
const FIELDS: usize = 32;
/// What a value may write in vain before it is told to stop. Some do not expect that, and few write so much.
const PATIENCE: usize = 16 * 1024;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Text {
    bytes: [u8; BYTES],
    name: u8,
    /// Name and fields, without what closes them.
    body: u8,
    len: u8,
    /// Something did not fit.
    cut: bool,
    /// By the field's index: where it begins and ends.
    fields: [(u8, u8); FIELDS],
}

impl Text {
    pub(crate) fn new(name: &str) -> Text {
        let mut text = Text { bytes: [0; BYTES], name: 0, body: 0, len: 0, cut: false, fields: [(0, 0); FIELDS] };
        text.push_escaped(name);
        text.name = text.body;
        text.close();
        text
    }

    /// Takes up what `record` shows to a visitor; a field that is there already gets its new value. Calls user code, and
    /// survives its panics.
    pub(crate) fn record(&mut self, record: impl FnOnce(&mut dyn Visit)) {
        record(self);
        self.close();
    }

    /// Takes up the fields of a text without a name, as [`record`](Self::record) would.
    pub(crate) fn take_up(&mut self, more: &Text) {
        for (index, &(begin, end)) in more.fields.iter().enumerate().filter(|(_, (begin, end))| begin < end) {
            self.forget(index);
            if self.cut {
                continue;
            }
            let first = self.body;
            let field = &more.bytes[usize::from(begin)..usize::from(end)];
            for c in std::str::from_utf8(field).unwrap_or_default().chars().skip(1) {
                if self.body == first {
                    self.push(self.opening());
                }
                self.push(c);
            }
            self.cut |= more.cut && end == more.body;
            self.fields[index] = (first, self.body);
        }
        self.close();
    }

    /// As words, the last one filled up with zeros; and its length in bytes.
    pub(crate) fn words(&self) -> (impl Iterator<Item = u64>, u64) {
        let words = self.bytes.chunks_exact(8).take(usize::from(self.len).div_ceil(8));
        (words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())), u64::from(self.len))
    }

    /// The text back from its words.
    pub(crate) fn read(words: &[u64; WORDS], len: u64) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take(len as usize).collect();
        String::from_utf8(bytes).unwrap_or_default()
    }

    fn close(&mut self) {
        let mut len = usize::from(self.body);
        let mark = if self.cut { "…" } else { "" };
        let brace = if self.body > self.name { "}" } else { "" };
        for part in [mark, brace] {
            self.bytes[len..len + part.len()].copy_from_slice(part.as_bytes());
            len += part.len();
        }
        self.len = len as u8;
        // Of a longer text before.
        self.bytes[len..].fill(0);
    }

    /// What a field begins with.
    fn opening(&self) -> char {
        if self.body == self.name { '{' } else { ' ' }
    }

    fn push(&mut self, c: char) {
        let (begin, end) = (usize::from(self.body), usize::from(self.body) + c.len_utf8());
        self.cut |= end > ROOM;
        if !self.cut {
            c.encode_utf8(&mut self.bytes[begin..end]);
            self.body = end as u8;
        }
    }

    /// Without line breaks, terminal codes or anything else that is not seen, so that a value stays what it is.
    fn push_escaped(&mut self, text: &str) {
        let head = &text.as_bytes()[..text.len().min(BYTES)];
        if !self.cut && head.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            // Nearly all there is. What `head` leaves out does not fit either.
            let begin = usize::from(self.body);
            let fits = head.len().min(ROOM - begin);
            self.bytes[begin..begin + fits].copy_from_slice(&head[..fits]);
            self.body += fits as u8;
            self.cut = fits < text.len();
            return;
        }
        for part in text.split_inclusive(['"', '\'', '\\']) {
            if self.cut {
                return;
            }
            let (plain, mark) = match part.char_indices().next_back() {
                Some((at, mark @ ('"' | '\'' | '\\'))) => (&part[..at], Some(mark)),
                _ => (part, None),
            };
            for c in plain.escape_debug().chain(mark) {
                self.push(c);
                if self.cut {
                    return;
                }
            }
        }
    }

    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // What the `log` crate's records are carried in.
        if field.name().starts_with("log.") {
            return;
        }
        self.forget(field.index());
        if self.cut {
            return;
        }
        let begin = self.body;
        self.push(self.opening());
        if field.name() != "message" {
            self.push_escaped(field.name().strip_prefix("r#").unwrap_or(field.name()));
            self.push('=');
        }
        let mut writer = Writer { text: self, in_vain: 0 };
        // An error: it was told to stop.
        if catch_unwind(AssertUnwindSafe(|| writer.write_fmt(value).is_ok())).is_err() {
            self.push_escaped("<panicked>");
        }
        if let Some(place) = self.fields.get_mut(field.index()) {
            *place = (begin, self.body);
        }
    }

    /// Takes a field's former value out.
    fn forget(&mut self, index: usize) {
        let Some((begin, end)) = self.fields.get_mut(index).map(std::mem::take).filter(|(begin, end)| begin < end)
        else {
            return;
        };
        self.cut &= end != self.body;
        let gone = end - begin;
        self.bytes.copy_within(usize::from(end)..usize::from(self.body), usize::from(begin));
        self.body -= gone;
        for (first, last) in self.fields.iter_mut().filter(|(first, _)| *first >= end) {
            (*first, *last) = (*first - gone, *last - gone);
        }
        if self.body > self.name {
            self.bytes[usize::from(self.name)] = b'{';
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // More than fits: no need to look at all of a long one.
        let fits = value.char_indices().map(|(at, _)| at).take_while(|at| *at <= BYTES).last();
        let value = if value.len() > BYTES { &value[..fits.unwrap_or(0)] } else { value };
        self.field(field, format_args!("{value:?}"));
    }
}

struct Writer<'a> {
    text: &'a mut Text,
    in_vain: usize,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if !self.text.cut {
            self.text.push_escaped(part);
            return Ok(());
        }
        self.in_vain = self.in_vain.saturating_add(part.len());
        if self.in_vain > PATIENCE { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
