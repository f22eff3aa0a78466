//! The ring of a thread's finished slow polls, which the thread fills and the watchdog empties.
//!
//! A poll is pushed when it ends after at least the threshold. The entry has the exact duration of
//! the stall. It is also the only trace of a stall that ended before a scan observed it.

use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::frame::{FrameKind, PackedTag};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{FrameNumber, WorkerIndex};
use crate::model::time::Nanos;
use crate::sync::ring::Ring;

/// A poll, or a request within one, that has ended after at least the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowPoll {
    /// The push number of its frame.
    pub(crate) number: FrameNumber,
    pub(crate) start: Ticks,
    pub(crate) duration: Nanos,
    /// The tag of its frame. The kind `Route` distinguishes requests from polls.
    pub(crate) tag: PackedTag,
    pub(crate) subject: SlowSubject,
}

/// The part of a [`SlowPoll`] that depends on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowSubject {
    Poll {
        task: TaskBits,
        /// The worker that the poll still blocked at its end.
        worker: Option<WorkerIndex>,
        /// The CPU time that the thread had used by then, over its whole life; zero where it is
        /// unknown.
        cpu: Nanos,
    },
    Request {
        /// The poll that the request is a part of.
        poll: FrameNumber,
    },
}

/// The ring of one thread. The model uses a short one.
#[derive(Debug)]
pub(crate) struct SlowPollRing<const LEN: usize = 64>(Ring<7, LEN>);

impl<const LEN: usize> SlowPollRing<LEN> {
    pub(crate) fn new() -> Self {
        SlowPollRing(Ring::new())
    }

    /// Adds a poll; the owning thread only.
    pub(crate) fn push(&self, poll: SlowPoll) {
        self.0.push(poll.to_words());
    }

    /// Takes all polls, the oldest first; one reader at a time (the watchdog).
    pub(crate) fn drain(&self, mut take: impl FnMut(SlowPoll)) {
        self.0.drain(|words| take(SlowPoll::from_words(words)));
    }

    /// Returns whether the watchdog has taken every poll.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many polls the watchdog has not taken.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns how many polls did not fit.
    pub(crate) fn lost(&self) -> u64 {
        self.0.dropped()
    }
}

impl SlowPoll {
    fn to_words(self) -> [u64; 7] {
        let [subject, worker, cpu] = match self.subject {
            SlowSubject::Poll { task, worker, cpu } => {
                [task.0, worker.map_or(0, |worker| u64::from(worker.0) + 1), cpu.0]
            }
            SlowSubject::Request { poll } => [poll.0, 0, 0],
        };
        [self.number.0, self.start.0, self.duration.0, self.tag.0, subject, worker, cpu]
    }

    fn from_words([number, start, duration, tag, subject, worker, cpu]: [u64; 7]) -> SlowPoll {
        let tag = PackedTag(tag);
        let subject = match tag.unpack().kind {
            FrameKind::Route => SlowSubject::Request { poll: FrameNumber(subject) },
            _ => {
                let worker = worker.checked_sub(1).map(|worker| WorkerIndex(worker as u16));
                SlowSubject::Poll { task: TaskBits(subject), worker, cpu: Nanos(cpu) }
            }
        };
        SlowPoll { number: FrameNumber(number), start: Ticks(start), duration: Nanos(duration), tag, subject }
    }
}

#[cfg(test)]
impl SlowPoll {
    /// Returns a poll of these words, for tests.
    pub(crate) fn of_words(
        number: FrameNumber,
        start: u64,
        duration: u64,
        task: u64,
        worker: Option<WorkerIndex>,
    ) -> SlowPoll {
        let subject = SlowSubject::Poll { task: TaskBits(task), worker, cpu: Nanos(6) };
        SlowPoll { number, start: Ticks(start), duration: Nanos(duration), tag: PackedTag(4), subject }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_poll_survives_the_ring() {
        let poll = |worker| SlowPoll::of_words(FrameNumber(1), 2, 3, 5, worker);
        let tag = PackedTag(4).with(FrameKind::Route, None);
        let request = SlowPoll { tag, subject: SlowSubject::Request { poll: FrameNumber(5) }, ..poll(None) };
        for pushed in [poll(None), poll(Some(WorkerIndex(0))), poll(Some(WorkerIndex(u16::MAX))), request] {
            let (ring, mut taken) = (SlowPollRing::<64>::new(), Vec::new());
            ring.push(pushed);
            ring.drain(|poll| taken.push(poll));
            assert_eq!(taken, [pushed]);
        }
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;
    use crate::measure::thread::slot::Slot;

    /// A slow poll is pushed to the ring before its frame is popped, and the watchdog reads slots
    /// before rings. So a poll that one scan has found in the slot is in the slot or in the ring at
    /// the next scan: no stall ends without its duration.
    #[test]
    fn a_poll_is_in_the_slot_or_in_the_ring() {
        type Model = (Slot, SlowPollRing<2>);
        let new = || (Slot::new(), SlowPollRing::new());
        let write = |(slot, ring): &Model| {
            let number = slot.push(1, 1, 1, None);
            ring.push(SlowPoll::of_words(number, 1, 1, 1, Some(WorkerIndex(1))));
            slot.pop();
        };
        let read = |(slot, ring): &Model| {
            let scan = || {
                // A slot that changes too fast to be read says nothing.
                let in_slot = slot.read().is_none_or(|reading| !reading.frames().is_empty());
                let mut pushed = 0;
                ring.drain(|_| pushed += 1);
                (in_slot, pushed)
            };
            let ((first, early), (second, late)) = (scan(), scan());
            assert!(early + late <= 1);
            assert!(!first || second || early + late == 1, "a scan found it, and now it is in neither");
            first && !second
        };
        crate::sync::model_one_writer(new, write, read, |(slot, _)| assert_eq!(slot.depth(), 0));
    }
}
