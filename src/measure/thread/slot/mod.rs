//! The slot: the frames that one thread is polling now, published for the watchdog in a seqlock.
//!
//! The version of the seqlock holds the number of the last push and the depth. A push stores a
//! frame that is not visible yet and publishes the next version; a pop publishes a lower depth.
//! Every push has a version of its own, so that a frame that replaced another at the same depth is
//! told apart.
//!
//! One field of a visible frame is changed in place: `begin`, by time that does not count as the
//! frame's own. A reader sees the value before or after that.

mod owner;
mod reading;

use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters};
use crate::sync::seqlock::{Field, Version};
use crate::sync::{AtomicPtr, Ordering};

pub(crate) use crate::measure::primitives::frame::{FrameKind, FrameTag};
pub(crate) use reading::Reading;

/// The number of frames that are published. Deeper ones are only counted in the depth.
pub(crate) const MAX_FRAMES: usize = 16;

const DEPTH_BITS: u32 = 16;
const DEPTH_MASK: u64 = (1 << DEPTH_BITS) - 1;

/// A copy of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The push number: unique on this thread, never 0, and higher for later frames.
    pub(crate) number: u64,
    /// The clock reading at the push, plus all time within the frame that is not its own.
    pub(crate) begin: u64,
    /// [`FrameTag`], packed.
    pub(crate) what: u64,
    /// The bits of the task's id, 0 where there is none.
    pub(crate) task: u64,
    /// The worker that a wrapper observed at the push; see `runtime::ownership`.
    pub(crate) place: u64,
}

/// The memory of one frame.
#[derive(Debug)]
pub(crate) struct FrameCell {
    number: Field,
    begin: Field,
    what: Field,
    task: Field,
    place: Field,
    /// The counters of a poll, `NO_COUNTERS` for a part of one. Only the owning thread reads it,
    /// and saves the lookup at the end of a poll.
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
                begin: Field::new(),
                what: Field::new(),
                task: Field::new(),
                place: Field::new(),
                counters: AtomicPtr::new(std::ptr::from_ref(&NO_COUNTERS).cast_mut()),
            }),
        }
    }

    /// Publishes a frame that is counted nowhere; the owning thread only. Returns its push number,
    /// or 0 for a frame too deep to be published.
    #[cfg(test)]
    pub(crate) fn push(&self, begin: u64, what: u64, task: u64, place: Option<u64>) -> u64 {
        self.push_poll(begin, what, task, place, &NO_COUNTERS)
    }

    /// Publishes the frame of a poll with its counters, otherwise like [`push`](Self::push).
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        begin: u64,
        what: u64,
        task: u64,
        place: Option<u64>,
        counters: &SiteCounters,
    ) -> u64 {
        let version = self.version.get();
        let next = version.wrapping_add((1 << DEPTH_BITS) + 1);
        let mut number = 0;
        if let Some(frame) = self.frames.get((version & DEPTH_MASK) as usize) {
            // The whole version serves as the number: it is as unique, and needs no masking.
            number = next;
            frame.number.set(number);
            frame.begin.set(begin);
            frame.what.set(what);
            frame.task.set(task);
            frame.counters.store(std::ptr::from_ref(counters).cast_mut(), Ordering::Relaxed);
            if let Some(place) = place {
                frame.place.set(place);
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

    /// Returns whether the frame with this push number is still there.
    pub(crate) fn has_frame(&self, number: u64) -> bool {
        self.read().is_some_and(|reading| reading.frames().iter().any(|f| f.number == number))
    }

    /// Returns a consistent copy, or `None` when the thread pushes and pops faster than it can be
    /// read. Such a thread is not blocked.
    pub(crate) fn read(&self) -> Option<Reading> {
        let (state, (frames, len)) = self.version.read(|version| {
            let len = ((version & DEPTH_MASK) as usize).min(MAX_FRAMES);
            let mut frames = [Frame::default(); MAX_FRAMES];
            for (copy, frame) in frames.iter_mut().zip(&self.frames).take(len) {
                *copy = frame.load();
            }
            (frames, len)
        })?;
        Some(Reading { state, frames, len })
    }
}

/// For the owning thread only, except for [`load`](Self::load).
impl FrameCell {
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number.get()
    }

    #[inline]
    pub(crate) fn begin(&self) -> u64 {
        self.begin.get()
    }

    #[inline]
    pub(crate) fn what(&self) -> u64 {
        self.what.get()
    }

    #[cfg(tokio_unstable)]
    #[inline]
    pub(crate) fn task(&self) -> u64 {
        self.task.get()
    }

    /// Returns the counters that were pushed with the frame.
    #[inline]
    pub(crate) fn counters(&self) -> *const SiteCounters {
        self.counters.load(Ordering::Relaxed)
    }

    /// Moves the start of the frame, which leaves time within it out of its duration.
    fn delay(&self, ticks: u64) {
        self.begin.set(self.begin.get().saturating_add(ticks));
    }

    #[inline]
    pub(crate) fn load(&self) -> Frame {
        Frame {
            number: self.number.get(),
            begin: self.begin.get(),
            what: self.what.get(),
            task: self.task.get(),
            place: self.place.get(),
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
        assert!(first > 0 && slot.push(20, 8, 2, Some(5)) > first);
        let reading = slot.read().unwrap();
        assert_eq!(reading.frames().iter().map(|f| f.begin).collect::<Vec<_>>(), [10, 20]);
        assert_eq!(slot.top().unwrap().load().place, 5);
        let outer = reading.frames()[0].number;
        slot.pop();
        assert!(slot.has_frame(outer));
        slot.push(30, 9, 3, None);
        assert_ne!(slot.version(), reading.state, "another frame at the same depth is another state");
        slot.pop();
        slot.pop();
        assert!(!slot.has_frame(outer));
    }

    #[test]
    fn deeper_than_published_is_still_balanced() {
        let slot = Slot::new();
        for i in 0..MAX_FRAMES as u64 + 4 {
            let number = slot.push(i, 0, 0, None);
            assert_eq!(number != 0, i < MAX_FRAMES as u64);
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
                assert_eq!(f.number, f.place, "{f:?}");
                assert!([f.begin, f.what, f.task].iter().all(|word| *word == f.number >> DEPTH_BITS), "{f:?}");
            }
            !reading.frames().is_empty()
        };
        crate::sync::model_one_writer(Slot::new, write, read, |slot| assert_eq!(slot.depth(), 0));
    }
}
