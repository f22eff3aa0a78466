//! The slot: the frames that one thread is polling now, published for the watchdog in a seqlock.
//!
//! The version of the seqlock holds the number of the last push and the depth. A push stores a
//! frame that is not visible yet and publishes the next version; a pop publishes a lower depth.
//! Every push has a version of its own, which distinguishes a frame from one that it replaced at
//! the same depth.
//!
//! One field of a visible frame is changed in place: `start`, by time that does not count as the
//! frame's own. A reader copies the value before the change or after it.

mod owner;
mod reading;

use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters};
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::frame::{OwnershipRecord, PackedTag};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::FrameNumber;
use crate::sync::seqlock::{Field, Version};
use crate::sync::{AtomicPtr, Ordering};

pub(crate) use crate::measure::primitives::frame::{FrameKind, FrameTag};
pub(crate) use reading::{PollFrame, SlotReading};

/// The number of frames that are published. Deeper ones are only counted in the depth.
pub(crate) const MAX_FRAMES: usize = 16;

const DEPTH_BITS: u32 = 16;
const DEPTH_MASK: u64 = (1 << DEPTH_BITS) - 1;

/// A copy of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The push number.
    pub(crate) number: FrameNumber,
    /// The clock reading at the push, plus all time within the frame that is not its own. A watched
    /// future within a poll has the start of the enclosing frame.
    pub(crate) start: Ticks,
    /// The identity of what is polled.
    pub(crate) tag: PackedTag,
    /// The task that is polled. A part of a poll and a poll outside of a task have none.
    pub(crate) task: TaskBits,
    /// The record that a wrapper made at the push. Frames that record none have the value of an
    /// earlier frame at the same depth.
    pub(crate) ownership: OwnershipRecord,
}

/// The memory of one frame: the fields of [`Frame`], each an atomic word, and the frame's counters.
#[derive(Debug)]
pub(crate) struct FrameCell {
    number: Field,
    start: Field,
    tag: Field,
    task: Field,
    ownership: Field,
    /// The counters of a poll, `NO_COUNTERS` for a part of one. Only the owning thread reads the
    /// pointer, which saves the lookup at the end of a poll.
    counters: AtomicPtr<SiteCounters>,
}

/// The slot of one thread. The version and the outermost frame, which is all that most polls write,
/// share a cache line.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    version: Version,
    frames: [FrameCell; MAX_FRAMES],
}

impl Slot {
    pub(crate) fn new() -> Slot {
        Slot {
            version: Version::new(),
            frames: std::array::from_fn(|_| FrameCell {
                number: Field::new(),
                start: Field::new(),
                tag: Field::new(),
                task: Field::new(),
                ownership: Field::new(),
                counters: AtomicPtr::new(std::ptr::from_ref(&NO_COUNTERS).cast_mut()),
            }),
        }
    }

    /// Publishes a frame of these words without counters, for tests.
    #[cfg(test)]
    pub(crate) fn push(&self, start: u64, tag: u64, task: u64, ownership: Option<u64>) -> FrameNumber {
        let ownership = ownership.map(OwnershipRecord);
        self.push_poll(Ticks(start), PackedTag(tag), TaskBits(task), ownership, &NO_COUNTERS)
    }

    /// Publishes a frame with its counters; the owning thread only. Returns its push number, or
    /// [`FrameNumber::NONE`] for a frame that is too deep to be published.
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        start: Ticks,
        tag: PackedTag,
        task: TaskBits,
        ownership: Option<OwnershipRecord>,
        counters: &SiteCounters,
    ) -> FrameNumber {
        let version = self.version.get();
        let next = version.wrapping_add((1 << DEPTH_BITS) + 1);
        let mut number = FrameNumber::NONE;
        if let Some(frame) = self.frames.get((version & DEPTH_MASK) as usize) {
            // The whole version serves as the number: it is as unique, and needs no masking.
            number = FrameNumber(next);
            frame.number.set(number.0);
            frame.start.set(start.0);
            frame.tag.set(tag.0);
            frame.task.set(task.0);
            frame.counters.store(std::ptr::from_ref(counters).cast_mut(), Ordering::Relaxed);
            if let Some(ownership) = ownership {
                frame.ownership.set(ownership.0);
            }
        }
        self.version.publish(next);
        number
    }

    /// Returns the innermost frame, for the owning thread; `None` when there is none, or when it is
    /// too deep to be published.
    #[inline(always)]
    pub(crate) fn top(&self) -> Option<&FrameCell> {
        self.frames.get(self.depth().wrapping_sub(1))
    }

    /// Withdraws the innermost frame; the owning thread only, and only after a push.
    #[inline]
    pub(crate) fn pop(&self) {
        let version = self.version.get();
        debug_assert!(version & DEPTH_MASK != 0, "pop without push");
        self.version.publish(version - 1);
    }

    /// Returns how many frames are pushed; exact on the owning thread.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        (self.version.get() & DEPTH_MASK) as usize
    }

    /// Returns the version: it is the same twice only if nothing was pushed or popped between.
    pub(crate) fn version(&self) -> u64 {
        self.version.observe()
    }

    /// Returns the word in memory that has the version.
    #[cfg(not(all(test, pollwatch_loom)))]
    pub(crate) fn version_word(&self) -> &std::sync::atomic::AtomicU64 {
        self.version.word()
    }

    /// Returns whether the frame with this push number has not been popped yet.
    pub(crate) fn has_frame(&self, number: FrameNumber) -> bool {
        self.read().is_some_and(|reading| reading.frames().iter().any(|f| f.number == number))
    }

    /// Returns a consistent copy, or `None` when the thread pushes and pops faster than it can be
    /// read. Such a thread is not blocked.
    pub(crate) fn read(&self) -> Option<SlotReading> {
        let (version, (frames, len)) = self.version.read(|version| {
            let len = ((version & DEPTH_MASK) as usize).min(MAX_FRAMES);
            let mut frames = [Frame::default(); MAX_FRAMES];
            for (copy, frame) in frames.iter_mut().zip(&self.frames).take(len) {
                *copy = frame.load();
            }
            (frames, len)
        })?;
        Some(SlotReading { version, frames, len })
    }
}

/// For the owning thread only, except for [`load`](Self::load).
impl FrameCell {
    #[inline]
    pub(crate) fn number(&self) -> FrameNumber {
        FrameNumber(self.number.get())
    }

    #[inline]
    pub(crate) fn start(&self) -> Ticks {
        Ticks(self.start.get())
    }

    #[inline]
    pub(crate) fn tag(&self) -> FrameTag {
        PackedTag(self.tag.get()).unpack()
    }

    #[cfg(tokio_unstable)]
    #[inline]
    pub(crate) fn task(&self) -> TaskBits {
        TaskBits(self.task.get())
    }

    /// Returns the counters that were pushed with the frame.
    #[inline]
    pub(crate) fn counters(&self) -> *const SiteCounters {
        self.counters.load(Ordering::Relaxed)
    }

    /// Moves the start of the frame, which excludes time within it from its duration.
    fn delay_start(&self, ticks: Ticks) {
        self.start.set(self.start().saturating_add(ticks).0);
    }

    #[inline]
    pub(crate) fn load(&self) -> Frame {
        Frame {
            number: self.number(),
            start: self.start(),
            tag: PackedTag(self.tag.get()),
            task: TaskBits(self.task.get()),
            ownership: OwnershipRecord(self.ownership.get()),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn nests_and_unwinds() {
        let slot = Slot::new();
        assert!(slot.read().unwrap().frames().is_empty());
        assert!(slot.top().is_none());
        let first = slot.push(10, 7, 1, None);
        assert!(first > FrameNumber::NONE && slot.push(20, 8, 2, Some(5)) > first);
        let reading = slot.read().unwrap();
        assert_eq!(reading.frames().iter().map(|f| f.start).collect::<Vec<_>>(), [Ticks(10), Ticks(20)]);
        assert_eq!(slot.top().unwrap().load().ownership, OwnershipRecord(5));
        let outer = reading.frames()[0].number;
        slot.pop();
        assert!(slot.has_frame(outer));
        slot.push(30, 9, 3, None);
        assert_ne!(slot.version(), reading.version, "another frame at the same depth has another version");
        slot.pop();
        slot.pop();
        assert!(!slot.has_frame(outer));
    }

    #[test]
    fn deeper_than_published_is_still_balanced() {
        let slot = Slot::new();
        for i in 0..MAX_FRAMES as u64 + 4 {
            let number = slot.push(i, 0, 0, None);
            assert_eq!(number != FrameNumber::NONE, i < MAX_FRAMES as u64);
        }
        assert!(slot.top().is_none());
        assert_eq!(slot.read().unwrap().frames().len(), MAX_FRAMES);
        for _ in 0..MAX_FRAMES + 4 {
            slot.pop();
        }
        assert_eq!(slot.depth(), 0);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    /// No reader ever keeps a mixture of two polls.
    #[test]
    fn a_reading_is_of_one_poll() {
        let write = |slot: &Slot| {
            for i in 1..=2 {
                slot.push(i, i, i, Some((i << DEPTH_BITS) + 1));
                slot.pop();
            }
        };
        let read = |slot: &Slot| {
            let Some(reading) = slot.read() else { return false };
            for f in reading.frames() {
                assert_eq!(f.number.0, f.ownership.0, "{f:?}");
                let words = [f.start.0, f.tag.0, f.task.0];
                assert!(words.iter().all(|word| *word == f.number.0 >> DEPTH_BITS), "{f:?}");
            }
            !reading.frames().is_empty()
        };
        crate::sync::model_one_writer(Slot::new, write, read, |slot| assert_eq!(slot.depth(), 0));
    }
}
