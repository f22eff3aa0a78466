//! The text of a span: `request{id=7 path="/x"}`, on one line, in a buffer of fixed size.
//!
//! A text is formatted when the span is created, and changed when a field is recorded. A recorded
//! field is appended, and its former value is cut out. So the fields are in the order in which they
//! were recorded last.
//!
//! Invariants of the buffer, whose parts are `name`, `fields`, `ending` and zeros:
//!
//! - `name_end <= body_end <= MAX_BODY`, and each is between two characters.
//! - The first field starts with `{`, each further one with a space.
//! - `ranges[i]` is where the field with index `i` is, from that character on. It is empty where
//!   the text does not have this field.
//! - While `truncated` is set, nothing is appended. Only the last part of the text is incomplete:
//!   whoever removes the last field makes room again.

use std::fmt::{self, Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::field::{Field, Visit};

use super::{MAX_TEXT_BYTES, TEXT_WORDS};

/// The size of name and fields in bytes. The rest is for the longest ending.
const MAX_BODY: usize = MAX_TEXT_BYTES - "…}".len();
/// The number of fields that can be recorded again, which is the most that tracing allows a span.
const MAX_FIELDS: usize = 32;
/// The number of bytes that a value may write after the buffer is full, before it gets an error.
/// Most values are shorter, and some `Debug` implementations panic on an error.
const MAX_DISCARDED: usize = 16 * 1024;

/// The first character of the text of a task's span. Other texts have no control characters.
pub(super) const TASK_MARK: char = '\u{1}';
/// The field in which tokio's span of a task has the name of the task.
const TASK_NAME_FIELD: &str = "task.name";

/// A range of bytes in the buffer.
#[derive(Clone, Copy, Debug, Default)]
struct ByteRange {
    start: u8,
    end: u8,
}

impl ByteRange {
    fn is_empty(self) -> bool {
        self.start >= self.end
    }

    fn indices(self) -> std::ops::Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }

    fn len(self) -> u8 {
        self.end - self.start
    }
}

/// The text of a span, bounded to [`MAX_TEXT_BYTES`].
#[derive(Debug)]
pub(crate) struct SpanText {
    bytes: [u8; MAX_TEXT_BYTES],
    /// The end of the name.
    name_end: u8,
    /// The end of the name and the fields.
    body_end: u8,
    /// The end of the text.
    len: u8,
    /// `true` if a part did not fit.
    truncated: bool,
    /// The fields, by their index in the span's metadata.
    ranges: [ByteRange; MAX_FIELDS],
}

impl SpanText {
    pub(crate) fn new(name: &str) -> SpanText {
        let mut text = SpanText {
            bytes: [0; MAX_TEXT_BYTES],
            name_end: 0,
            body_end: 0,
            len: 0,
            truncated: false,
            ranges: [ByteRange::default(); MAX_FIELDS],
        };
        text.append_escaped(name);
        text.name_end = text.body_end;
        text.write_ending();
        text
    }

    /// Returns the text of a span in which tokio polls a task: its mark, and the task's name, which
    /// is empty for most tasks.
    pub(crate) fn of_task(record: impl FnOnce(&mut dyn Visit)) -> SpanText {
        let mut text = SpanText::new("");
        text.append(TASK_MARK);
        record(&mut TaskName(&mut text));
        text.name_end = text.body_end;
        text.write_ending();
        text
    }

    /// Appends the fields that `record` passes to the visitor, in place of their former values.
    /// Calls the `Debug` implementations of the user's values, and catches their panics.
    pub(crate) fn record(&mut self, record: impl FnOnce(&mut dyn Visit)) {
        record(self);
        self.write_ending();
    }

    /// Appends the fields of another text, which has no name, in place of their former values. The
    /// result is the same as if they were recorded here.
    pub(crate) fn merge(&mut self, other: &SpanText) {
        for (index, &range) in other.ranges.iter().enumerate().filter(|(_, range)| !range.is_empty()) {
            self.remove_field(index);
            if self.truncated {
                continue;
            }
            let start = self.body_end;
            // Without its first character, of which this text may need the other one.
            let field = std::str::from_utf8(&other.bytes[range.indices()]).unwrap_or_default();
            for c in field.chars().skip(1) {
                if self.body_end == start {
                    self.append(self.field_opening());
                }
                self.append(c);
            }
            self.truncated |= other.truncated && range.end == other.body_end;
            self.ranges[index] = ByteRange { start, end: self.body_end };
        }
        self.write_ending();
    }

    /// Returns the text as words, the last one filled with zeros, and its length in bytes.
    pub(crate) fn words(&self) -> (impl Iterator<Item = u64>, u64) {
        let words = self.bytes.chunks_exact(8).take(usize::from(self.len).div_ceil(8));
        (words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())), u64::from(self.len))
    }

    /// Returns the text that has these words, and this length in bytes.
    pub(crate) fn decode(words: &[u64; TEXT_WORDS], len: u64) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take(len as usize).collect();
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// Writes what follows the body, and zeros up to the end of the buffer.
    fn write_ending(&mut self) {
        let mut len = usize::from(self.body_end);
        let mark = if self.truncated { "…" } else { "" };
        let brace = if self.has_fields() { "}" } else { "" };
        for part in [mark, brace] {
            self.bytes[len..len + part.len()].copy_from_slice(part.as_bytes());
            len += part.len();
        }
        self.len = len as u8;
        self.bytes[len..].fill(0);
    }

    fn has_fields(&self) -> bool {
        self.body_end > self.name_end
    }

    /// Returns the character that the next field starts with.
    fn field_opening(&self) -> char {
        if self.has_fields() { ' ' } else { '{' }
    }

    fn append(&mut self, c: char) {
        let (start, end) = (usize::from(self.body_end), usize::from(self.body_end) + c.len_utf8());
        self.truncated |= end > MAX_BODY;
        if !self.truncated {
            c.encode_utf8(&mut self.bytes[start..end]);
            self.body_end = end as u8;
        }
    }

    /// Appends text. Line breaks, terminal codes and all other invisible characters are escaped, so
    /// that a value cannot forge another log line. Quotes and backslashes are not.
    fn append_escaped(&mut self, text: &str) {
        let head = &text.as_bytes()[..text.len().min(MAX_TEXT_BYTES)];
        if !self.truncated && head.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            self.append_ascii(text, head);
            return;
        }
        for part in text.split_inclusive(['"', '\'', '\\']) {
            if self.truncated {
                return;
            }
            let (plain, mark) = match part.char_indices().next_back() {
                Some((at, mark @ ('"' | '\'' | '\\'))) => (&part[..at], Some(mark)),
                _ => (part, None),
            };
            for c in plain.escape_debug().chain(mark) {
                self.append(c);
                if self.truncated {
                    return;
                }
            }
        }
    }

    /// Appends text whose `head` is printable ASCII, which is the usual case. What `head` leaves
    /// out does not fit either.
    fn append_ascii(&mut self, text: &str, head: &[u8]) {
        let start = usize::from(self.body_end);
        let fitting = head.len().min(MAX_BODY - start);
        self.bytes[start..start + fitting].copy_from_slice(&head[..fitting]);
        self.body_end += fitting as u8;
        self.truncated = fitting < text.len();
    }

    fn record_field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Fields in which `tracing-log` carries the records of the crate `log`.
        if field.name().starts_with("log.") {
            return;
        }
        self.remove_field(field.index());
        if self.truncated {
            return;
        }
        let start = self.body_end;
        self.append(self.field_opening());
        if field.name() != "message" {
            self.append_escaped(field.name().strip_prefix("r#").unwrap_or(field.name()));
            self.append('=');
        }
        let mut writer = BoundedWriter { text: self, discarded: 0 };
        // An error means that the value was too long, which `truncated` says already.
        if catch_unwind(AssertUnwindSafe(|| writer.write_fmt(value).is_ok())).is_err() {
            self.append_escaped("<panicked>");
        }
        if let Some(range) = self.ranges.get_mut(field.index()) {
            *range = ByteRange { start, end: self.body_end };
        }
    }

    /// Removes the field with this index, if the text has it. Fields behind it move up.
    fn remove_field(&mut self, index: usize) {
        let Some(removed) = self.ranges.get_mut(index).map(std::mem::take).filter(|range| !range.is_empty()) else {
            return;
        };
        self.truncated &= removed.end != self.body_end;
        let behind = ByteRange { start: removed.end, end: self.body_end };
        self.bytes.copy_within(behind.indices(), usize::from(removed.start));
        self.body_end -= removed.len();
        for range in self.ranges.iter_mut().filter(|range| range.start >= removed.end) {
            range.start -= removed.len();
            range.end -= removed.len();
        }
        if self.has_fields() {
            self.bytes[usize::from(self.name_end)] = b'{';
        }
    }
}

impl Visit for SpanText {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_field(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // A little more than fits, so that formatting a long string does not take long.
        let end = value.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_TEXT_BYTES).last();
        let value = if value.len() > MAX_TEXT_BYTES { &value[..end.unwrap_or(0)] } else { value };
        self.record_field(field, format_args!("{value:?}"));
    }
}

/// Appends the value of one field, the name of a task, to a text.
struct TaskName<'a>(&'a mut SpanText);

impl Visit for TaskName<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == TASK_NAME_FIELD {
            // An error means that the name was too long.
            let _ = BoundedWriter { text: self.0, discarded: 0 }.write_fmt(format_args!("{value:?}"));
        }
    }
}

/// Appends a value to a text, and stops a value that writes far more than fits.
struct BoundedWriter<'a> {
    text: &'a mut SpanText,
    /// The number of bytes that were written while the text was full.
    discarded: usize,
}

impl Write for BoundedWriter<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if !self.text.truncated {
            self.text.append_escaped(part);
            return Ok(());
        }
        self.discarded = self.discarded.saturating_add(part.len());
        if self.discarded > MAX_DISCARDED { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
