//! The span slot: the spans that one thread has entered, published for the watchdog in a seqlock.
//!
//! The version of the seqlock holds the number of levels. A level that is or was visible is written
//! only after a version has withdrawn it.

use text::Text;

pub(crate) mod text;
use crate::sync::seqlock::{Field, Version};

/// Spans published at most, the outermost; further ones are only counted.
pub(crate) const LEVELS: usize = 16;
pub(crate) const WORDS: usize = 23;
/// The longest text.
pub(crate) const BYTES: usize = WORDS * 8;

const LEVEL_BITS: u32 = 8;
const DEEPER_BITS: u32 = 16;

/// Which span, to the thread that has entered it. Ids are those of a registry: two layers may be on
/// two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) layer: u64,
    pub(crate) span: u64,
}

/// Where a span was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The push number of the poll, 0 outside of any that is measured.
    pub(crate) poll: u64,
    /// The bits of the task's id, where there is no such poll.
    pub(crate) task: u64,
}

/// A copy of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) key: Key,
    pub(crate) place: Place,
    words: [u64; WORDS],
    len: u64,
}

impl Entered {
    pub(crate) fn text(&self) -> String {
        Text::read(&self.words, self.len)
    }
}

/// A consistent copy of a span slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The outermost first.
    pub(crate) entered: Vec<Entered>,
    /// How many there are beyond those.
    pub(crate) deeper: u64,
}

#[derive(Debug)]
struct Level {
    layer: Field,
    span: Field,
    poll: Field,
    task: Field,
    len: Field,
    words: [Field; WORDS],
}

/// See the module's text. All but `read` are for the owning thread alone. The models have fewer
/// levels.
#[derive(Debug)]
pub(crate) struct SpanSlot<const L: usize = LEVELS> {
    /// From the lowest bits: how many levels, how many deeper ones, the number of the last change.
    version: Version,
    levels: [Level; L],
}

impl<const L: usize> SpanSlot<L> {
    pub(crate) fn new() -> SpanSlot<L> {
        SpanSlot {
            version: Version::new(),
            levels: std::array::from_fn(|_| Level {
                layer: Field::new(),
                span: Field::new(),
                poll: Field::new(),
                task: Field::new(),
                len: Field::new(),
                words: std::array::from_fn(|_| Field::new()),
            }),
        }
    }

    /// How many levels there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        levels_of(self.version.get()).min(L)
    }

    fn keys(&self) -> impl DoubleEndedIterator<Item = Key> + ExactSizeIterator {
        self.levels[..self.len()].iter().map(Level::key)
    }

    /// The innermost level of a span.
    #[inline]
    pub(crate) fn find(&self, key: Key) -> Option<usize> {
        self.keys().rposition(|k| k == key)
    }

    /// Where the innermost one was entered.
    #[inline]
    pub(crate) fn top_place(&self) -> Option<Place> {
        Some(self.levels[..self.len()].last()?.place())
    }

    /// Publishes one more level; `false` when all are taken.
    #[inline]
    pub(crate) fn push(&self, key: Key, place: Place, text: &Text) -> bool {
        let len = self.len();
        let Some(level) = self.levels.get(len) else { return false };
        level.layer.set(key.layer);
        level.span.set(key.span);
        level.poll.set(place.poll);
        level.task.set(place.task);
        level.write(text);
        self.publish(len + 1);
        true
    }

    /// Withdraws a level; those above it move down.
    #[inline]
    pub(crate) fn remove(&self, at: usize) {
        let len = self.len();
        if at + 1 == len {
            self.publish(at);
        } else if at < len {
            self.retain(|level, _| level != at);
        }
    }

    /// Keeps the levels of which `keep` says so.
    #[cold]
    #[inline(never)]
    pub(crate) fn retain(&self, mut keep: impl FnMut(usize, Place) -> bool) {
        let len = self.len();
        let mut kept = 0;
        for (at, level) in self.levels[..len].iter().enumerate() {
            if !keep(at, level.place()) {
                continue;
            }
            if kept < at {
                // The first gap: what lies above it is out of sight until all is in its place.
                if self.len() > kept {
                    self.publish(kept);
                }
                level.copy_to(&self.levels[kept]);
            }
            kept += 1;
        }
        self.publish(kept);
    }

    /// Gives a level another text.
    pub(crate) fn rewrite(&self, at: usize, text: &Text) {
        let len = self.len();
        if at < len {
            self.publish(at);
            self.levels[at].write(text);
            self.publish(len);
        }
    }

    /// Notes how many there are beyond the levels.
    pub(crate) fn set_deeper(&self, deeper: usize) {
        let state = self.version.get();
        let deeper = (deeper as u64).min((1 << DEEPER_BITS) - 1);
        let rest = state & ((1 << LEVEL_BITS) - 1) | state >> (LEVEL_BITS + DEEPER_BITS) << (LEVEL_BITS + DEEPER_BITS);
        self.set_state(rest | deeper << LEVEL_BITS);
    }

    #[inline]
    fn publish(&self, len: usize) {
        let state = self.version.get();
        self.set_state(state >> LEVEL_BITS << LEVEL_BITS | len as u64);
    }

    #[inline]
    fn set_state(&self, state: u64) {
        self.version.publish(state.wrapping_add(1 << (LEVEL_BITS + DEEPER_BITS)));
    }

    /// A consistent copy, or `None` when the thread entered and left spans faster than they could
    /// be read.
    pub(crate) fn read(&self) -> Option<Reading> {
        let copy = |state| self.levels[..levels_of(state).min(L)].iter().map(Level::load).collect();
        let (state, entered) = self.version.read(copy)?;
        Some(Reading { entered, deeper: state >> LEVEL_BITS & ((1 << DEEPER_BITS) - 1) })
    }
}

#[inline]
fn levels_of(state: u64) -> usize {
    (state & ((1 << LEVEL_BITS) - 1)) as usize
}

impl Level {
    #[inline]
    fn key(&self) -> Key {
        Key { layer: self.layer.get(), span: self.span.get() }
    }

    #[inline]
    fn place(&self) -> Place {
        Place { poll: self.poll.get(), task: self.task.get() }
    }

    #[inline]
    fn write(&self, text: &Text) {
        let (words, len) = text.words();
        self.len.set(len);
        for (cell, word) in self.words.iter().zip(words) {
            cell.set(word);
        }
    }

    fn used(&self) -> usize {
        (self.len.get() as usize).div_ceil(8).min(WORDS)
    }

    fn copy_to(&self, to: &Level) {
        let pairs = [
            (&self.layer, &to.layer),
            (&self.span, &to.span),
            (&self.poll, &to.poll),
            (&self.task, &to.task),
            (&self.len, &to.len),
        ];
        for (from, to) in pairs.into_iter().chain(self.words.iter().zip(&to.words).take(self.used())) {
            to.set(from.get());
        }
    }

    fn load(&self) -> Entered {
        let len = self.len.get().min(BYTES as u64);
        let mut words = [0; WORDS];
        for (copy, word) in words.iter_mut().zip(&self.words).take((len as usize).div_ceil(8)) {
            *copy = word.get();
        }
        Entered { key: self.key(), place: self.place(), words, len }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    type Slot = SpanSlot<2>;

    /// Of two words, so that there are halves to mix.
    const LEN: usize = 16;

    fn push(slot: &Slot, n: u64) {
        let text = Text::new(&n.to_string().repeat(LEN));
        assert!(slot.push(Key { layer: n, span: n }, Place { poll: n, task: n }, &text));
    }

    /// No reader ever keeps a mixture of two spans, or a span twice, though levels move and texts
    /// change.
    fn model(new: fn() -> Slot, write: fn(&Slot)) {
        let read = |slot: &Slot| {
            let Some(reading) = slot.read() else { return false };
            for (at, e) in reading.entered.iter().enumerate() {
                let n = e.key.span;
                assert_eq!((e.key.layer, e.place, e.len), (n, Place { poll: n, task: n }, LEN as u64), "{e:?}");
                assert!([n, 9].iter().any(|n| e.text() == n.to_string().repeat(LEN)), "{e:?}");
                assert!(reading.entered[..at].iter().all(|outer| outer.key != e.key), "{reading:?}");
            }
            !reading.entered.is_empty()
        };
        crate::sync::model_one_writer(new, write, read, |slot| assert_eq!(slot.len(), 0));
    }

    fn with_two() -> Slot {
        let slot = Slot::new();
        (1..=2).for_each(|n| push(&slot, n));
        slot
    }

    #[test]
    fn a_level_is_of_one_span() {
        model(Slot::new, |slot| {
            for n in 1..=2 {
                push(slot, n);
                slot.remove(0);
            }
        });
    }

    #[test]
    fn levels_move_unseen() {
        model(with_two, |slot| {
            slot.remove(0);
            slot.remove(0);
        });
    }

    #[test]
    fn texts_change_unseen() {
        model(with_two, |slot| {
            slot.rewrite(0, &Text::new(&"9".repeat(LEN)));
            slot.retain(|_, _| false);
        });
    }
}
