//! The span slot: the tracing spans that one thread is in, published for the watchdog.
//!
//! A stack of at most [`MAX_SPANS`] entries behind a seqlock ([`crate::sync::seqlock`]) with one
//! writer, the thread. Spans need not be exited in the reverse order of their entry, so entries are
//! also removed from the middle. The version of the seqlock packs three numbers:
//!
//! | bits | content |
//! |---|---|
//! | 0 to 7 | the number of visible entries |
//! | 8 to 23 | the number of spans beyond [`MAX_SPANS`], of which only the number is published |
//! | 24 to 63 | the number of changes, so that no two versions are equal |
//!
//! Invariant: the thread writes only to entries that the current version hides. To change a visible
//! entry, it first publishes a version that hides this entry and all above it.

use text::SpanText;

pub(crate) mod text;
use super::task_id::TaskBits;
use crate::model::id::FrameNumber;
use crate::sync::seqlock::{Field, Version};

/// The number of spans that are published: the outermost ones.
pub(crate) const MAX_SPANS: usize = 16;
/// The length of a span's text in words.
pub(crate) const TEXT_WORDS: usize = 23;
/// The length of a span's text in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = TEXT_WORDS * 8;

const LEN_BITS: u32 = 8;
const LEN_MASK: u64 = (1 << LEN_BITS) - 1;
const EXCESS_BITS: u32 = 16;
const MAX_EXCESS: u64 = (1 << EXCESS_BITS) - 1;
const EXCESS_MASK: u64 = MAX_EXCESS << LEN_BITS;
/// One change, in a version.
const CHANGE: u64 = 1 << (LEN_BITS + EXCESS_BITS);

/// The identity of a span. A registry gives its spans ids, and each layer belongs to one registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpanKey {
    pub(crate) layer: u64,
    pub(crate) span: u64,
}

/// The work during which a span was entered. It decides which stalls the span belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnteredDuring {
    /// A measured poll, by the number of its frame, which is not 0.
    Poll(FrameNumber),
    /// A poll that is not measured, by the bits of its task's id, which are not 0.
    Task(TaskBits),
    /// No task.
    NoTask,
}

/// A copy of one published span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedSpan {
    pub(crate) key: SpanKey,
    pub(crate) during: EnteredDuring,
    text: [u64; TEXT_WORDS],
    /// The length of the text in bytes.
    len: u64,
}

/// The content of a published span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpanLabel {
    /// The text of a span.
    Span(String),
    /// The name of the task whose polls tokio puts into this span; empty for a task without one.
    Task(String),
}

impl PublishedSpan {
    fn text(&self) -> String {
        SpanText::decode(&self.text, self.len)
    }

    pub(crate) fn label(&self) -> SpanLabel {
        let text = self.text();
        match text.strip_prefix(text::TASK_MARK) {
            Some(name) => SpanLabel::Task(name.into()),
            None => SpanLabel::Span(text),
        }
    }
}

/// A consistent copy of a span slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpanStack {
    /// The published spans, the outermost first.
    pub(crate) spans: Vec<PublishedSpan>,
    /// The number of spans within those.
    pub(crate) excess: u64,
}

#[derive(Debug)]
struct SpanEntry {
    layer: Field,
    span: Field,
    /// The frame number of [`EnteredDuring::Poll`], otherwise 0.
    poll: Field,
    /// The bits of [`EnteredDuring::Task`], otherwise 0.
    task: Field,
    /// The length of the text in bytes.
    len: Field,
    /// The text. Words beyond its length are not written, and hold former texts.
    text: [Field; TEXT_WORDS],
}

/// The spans of one thread. Only that thread may call the methods; [`read`](Self::read) is for any
/// thread. The loom models have fewer entries.
#[derive(Debug)]
pub(crate) struct SpanSlot<const N: usize = MAX_SPANS> {
    version: Version,
    entries: [SpanEntry; N],
}

impl<const N: usize> SpanSlot<N> {
    pub(crate) fn new() -> SpanSlot<N> {
        SpanSlot {
            version: Version::new(),
            entries: std::array::from_fn(|_| SpanEntry {
                layer: Field::new(),
                span: Field::new(),
                poll: Field::new(),
                task: Field::new(),
                len: Field::new(),
                text: std::array::from_fn(|_| Field::new()),
            }),
        }
    }

    /// Returns the number of published spans.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        visible_len(self.version.get()).min(N)
    }

    fn visible(&self) -> &[SpanEntry] {
        &self.entries[..self.len()]
    }

    /// Returns the innermost entry of a span.
    #[inline]
    pub(crate) fn find(&self, key: SpanKey) -> Option<usize> {
        self.visible().iter().rposition(|entry| entry.key() == key)
    }

    /// Returns the work during which the innermost span was entered.
    #[inline]
    pub(crate) fn innermost_during(&self) -> Option<EnteredDuring> {
        Some(self.visible().last()?.during())
    }

    /// Publishes a span as the innermost one. Returns `false` where there is no room for it.
    #[inline]
    pub(crate) fn push(&self, key: SpanKey, during: EnteredDuring, text: &SpanText) -> bool {
        let len = self.len();
        let Some(entry) = self.entries.get(len) else { return false };
        entry.set(key, during);
        entry.set_text(text);
        self.publish(len + 1);
        true
    }

    /// Removes an entry. Those above it move down.
    #[inline]
    pub(crate) fn remove(&self, index: usize) {
        let len = self.len();
        if index + 1 == len {
            self.publish(index);
        } else if index < len {
            self.retain(|i, _| i != index);
        }
    }

    /// Removes the entries for which `keep` returns `false`.
    #[cold]
    #[inline(never)]
    pub(crate) fn retain(&self, mut keep: impl FnMut(usize, EnteredDuring) -> bool) {
        let len = self.len();
        let mut kept = 0;
        for (i, entry) in self.entries[..len].iter().enumerate() {
            if !keep(i, entry.during()) {
                continue;
            }
            if kept < i {
                // The first gap: hide everything above it until all entries have moved.
                if self.len() > kept {
                    self.publish(kept);
                }
                entry.copy_to(&self.entries[kept]);
            }
            kept += 1;
        }
        self.publish(kept);
    }

    /// Replaces the text of an entry.
    pub(crate) fn replace_text(&self, index: usize, text: &SpanText) {
        let len = self.len();
        if index < len {
            self.publish(index);
            self.entries[index].set_text(text);
            self.publish(len);
        }
    }

    /// Publishes the number of spans that have no entry, at most 65,535.
    pub(crate) fn set_excess(&self, excess: usize) {
        let excess = (excess as u64).min(MAX_EXCESS);
        self.set_version(self.version.get() & !EXCESS_MASK | excess << LEN_BITS);
    }

    /// Makes the first `len` entries visible, and hides the others.
    #[inline]
    fn publish(&self, len: usize) {
        self.set_version(self.version.get() & !LEN_MASK | len as u64);
    }

    #[inline]
    fn set_version(&self, version: u64) {
        self.version.publish(version.wrapping_add(CHANGE));
    }

    /// Returns a consistent copy, for any thread. Returns `None` when the owner enters and exits
    /// spans faster than they can be copied.
    pub(crate) fn read(&self) -> Option<SpanStack> {
        let copy = |version| self.entries[..visible_len(version).min(N)].iter().map(SpanEntry::load).collect();
        let (version, spans) = self.version.read(copy)?;
        Some(SpanStack { spans, excess: (version & EXCESS_MASK) >> LEN_BITS })
    }
}

/// Returns the number of entries that are visible in a version.
#[inline]
fn visible_len(version: u64) -> usize {
    (version & LEN_MASK) as usize
}

/// Returns the number of words that a text of `len` bytes takes.
fn words_of(len: u64) -> usize {
    len.div_ceil(8) as usize
}

impl SpanEntry {
    #[inline]
    fn key(&self) -> SpanKey {
        SpanKey { layer: self.layer.get(), span: self.span.get() }
    }

    #[inline]
    fn during(&self) -> EnteredDuring {
        match (self.poll.get(), self.task.get()) {
            (0, 0) => EnteredDuring::NoTask,
            (0, task) => EnteredDuring::Task(TaskBits(task)),
            (poll, _) => EnteredDuring::Poll(FrameNumber(poll)),
        }
    }

    #[inline]
    fn set(&self, key: SpanKey, during: EnteredDuring) {
        let (poll, task) = match during {
            EnteredDuring::Poll(number) => (number.0, 0),
            EnteredDuring::Task(bits) => (0, bits.0),
            EnteredDuring::NoTask => (0, 0),
        };
        self.layer.set(key.layer);
        self.span.set(key.span);
        self.poll.set(poll);
        self.task.set(task);
    }

    #[inline]
    fn set_text(&self, text: &SpanText) {
        let (words, len) = text.words();
        self.len.set(len);
        for (field, word) in self.text.iter().zip(words) {
            field.set(word);
        }
    }

    fn copy_to(&self, to: &SpanEntry) {
        to.set(self.key(), self.during());
        let len = self.len.get();
        to.len.set(len);
        for (from, to) in self.text.iter().zip(&to.text).take(words_of(len)) {
            to.set(from.get());
        }
    }

    fn load(&self) -> PublishedSpan {
        let len = self.len.get().min(MAX_TEXT_BYTES as u64);
        let mut text = [0; TEXT_WORDS];
        for (word, field) in text.iter_mut().zip(&self.text).take(words_of(len)) {
            *word = field.get();
        }
        PublishedSpan { key: self.key(), during: self.during(), text, len }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    type SmallSlot = SpanSlot<2>;

    /// The length of the texts: two words, so that a mixture of two texts is possible.
    const TEXT_LEN: usize = 16;

    fn text(n: u64) -> String {
        n.to_string().repeat(TEXT_LEN)
    }

    fn push(slot: &SmallSlot, n: u64) {
        assert!(slot.push(
            SpanKey { layer: n, span: n },
            EnteredDuring::Poll(FrameNumber(n)),
            &SpanText::new(&text(n))
        ));
    }

    /// Checks that no copy has a mixture of two spans, or a span twice, while entries move and
    /// texts change. The text of 9 may replace any other.
    fn model(new: fn() -> SmallSlot, write: fn(&SmallSlot)) {
        let read = |slot: &SmallSlot| {
            let Some(copy) = slot.read() else { return false };
            for (i, entry) in copy.spans.iter().enumerate() {
                let n = entry.key.span;
                assert_eq!(
                    (entry.key.layer, entry.during, entry.len),
                    (n, EnteredDuring::Poll(FrameNumber(n)), TEXT_LEN as u64),
                    "{entry:?}"
                );
                assert!([n, 9].iter().any(|&n| entry.text() == text(n)), "{entry:?}");
                assert!(copy.spans[..i].iter().all(|outer| outer.key != entry.key), "{copy:?}");
            }
            !copy.spans.is_empty()
        };
        crate::sync::model_one_writer(new, write, read, |slot| assert_eq!(slot.len(), 0));
    }

    fn with_two() -> SmallSlot {
        let slot = SmallSlot::new();
        (1..=2).for_each(|n| push(&slot, n));
        slot
    }

    #[test]
    fn an_entry_belongs_to_one_span() {
        model(SmallSlot::new, |slot| {
            for n in 1..=2 {
                push(slot, n);
                slot.remove(0);
            }
        });
    }

    #[test]
    fn entries_move_while_hidden() {
        model(with_two, |slot| {
            slot.remove(0);
            slot.remove(0);
        });
    }

    #[test]
    fn texts_change_while_hidden() {
        model(with_two, |slot| {
            slot.replace_text(0, &SpanText::new(&text(9)));
            slot.retain(|_, _| false);
        });
    }
}
