//! When the watchdog first saw a frame: all that is known of the begin of one whose push read no clock (sampled timing).

use super::{FrameCell, MAX_FRAMES, Reading, Slot, UNTIMED};
use crate::sync::{AtomicU64, Ordering};

/// By depth; written by the watchdog, and cleared by the thread.
#[derive(Debug)]
pub(super) struct Notes([Note; MAX_FRAMES]);

#[derive(Debug)]
struct Note {
    /// The frame's push number; 0 for none.
    number: AtomicU64,
    at: AtomicU64,
}

impl Notes {
    pub(super) fn new() -> Notes {
        Notes(std::array::from_fn(|_| Note { number: AtomicU64::new(0), at: AtomicU64::new(0) }))
    }

    #[inline]
    pub(super) fn get(&self, index: usize, number: u64) -> Option<u64> {
        let note = self.0.get(index)?;
        (note.number.load(Ordering::Acquire) == number).then(|| note.at.load(Ordering::Relaxed))
    }

    /// The frame that was noted before at this depth is gone: nobody asks for it while this is half-way.
    fn set(&self, index: usize, number: u64, at: u64) {
        if let Some(note) = self.0.get(index) {
            note.at.store(at, Ordering::Relaxed);
            note.number.store(number, Ordering::Release);
        }
    }

    fn clear(&self, index: usize) {
        if let Some(note) = self.0.get(index) {
            note.number.store(0, Ordering::Relaxed);
        }
    }
}

impl Slot {
    /// Has the untimed frames of a reading, which was made before the clock was at `now`, begin then, unless they were noted earlier;
    /// the watchdog only.
    pub(crate) fn note(&self, reading: &mut Reading, now: u64) {
        for (index, frame) in reading.frames[..reading.len].iter_mut().enumerate() {
            if frame.begin == UNTIMED {
                frame.begin = now;
                self.notes.set(index, frame.number, now);
            }
        }
    }

    /// When the innermost frame, an untimed one at this depth, was first seen; the owning thread only.
    #[inline(always)]
    pub(crate) fn noted(&self, (index, top): (usize, &FrameCell)) -> Option<u64> {
        self.notes.get(index, top.number())
    }

    /// Has the frames beneath the innermost one forgotten: their time counts from when they are seen next. The watchdog may be
    /// noting one just now; that counts from just now, too.
    pub(super) fn forget_beneath(&self) {
        (0..self.depth().saturating_sub(1).min(MAX_FRAMES)).for_each(|index| self.notes.clear(index));
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_untimed_frame_begins_when_it_is_first_seen() {
        let slot = Slot::new();
        slot.push(UNTIMED, 1, 1, None);
        slot.push(50, 1, 2, None);
        let begins = |slot: &Slot| slot.read().unwrap().frames().iter().map(|f| f.begin).collect::<Vec<_>>();
        assert_eq!((begins(&slot), slot.noted(slot.top_at().unwrap())), (vec![UNTIMED, 50], None));
        let note = |now| {
            let mut reading = slot.read().unwrap();
            slot.note(&mut reading, now);
            assert_eq!(reading.frames().iter().map(|f| f.begin).collect::<Vec<_>>(), begins(&slot));
        };
        note(60);
        note(70);
        assert_eq!(begins(&slot), [60, 50]);
        slot.delay_beneath(1_000);
        assert_eq!(begins(&slot), [UNTIMED, 50], "what was meant to block is over: it counts from the next look");
        note(80);
        slot.pop();
        assert_eq!(slot.noted(slot.top_at().unwrap()), Some(80));
        slot.pop();
        slot.push(UNTIMED, 1, 3, None);
        assert_eq!(
            (begins(&slot), slot.noted(slot.top_at().unwrap())),
            (vec![UNTIMED], None),
            "another frame at the same depth"
        );
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    /// The owner takes a note for its frame only if it was made of it, whole.
    #[test]
    fn a_note_is_of_the_frame_that_it_was_made_of() {
        let write = |slot: &Slot| {
            for task in 1..=2 {
                let number = slot.push(UNTIMED, 1, task, None);
                if let Some(at) = slot.noted(slot.top_at().unwrap()) {
                    assert_eq!(at, number + 100);
                }
                slot.pop();
            }
        };
        let read = |slot: &Slot| {
            let Some(mut reading) = slot.read() else { return false };
            let Some(number) = reading.frames().first().map(|f| f.number) else { return false };
            slot.note(&mut reading, number + 100);
            true
        };
        crate::sync::model_one_writer(Slot::new, write, read, |slot| assert_eq!(slot.depth(), 0));
    }
}
