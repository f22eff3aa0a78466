//! The slow polls of a thread that have ended: a ring that the thread fills and the watchdog
//! empties.
//!
//! A poll is pushed when it ends after at least the threshold. From the ring the watchdog learns
//! the exact duration of a stall, and learns of a stall that ended before a scan saw it.

use crate::sync::ring::Ring;

/// A poll that lasted at least the threshold and is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowPoll {
    /// Its frame's push number.
    pub(crate) number: u64,
    /// Clock reading at its begin.
    pub(crate) begin: u64,
    /// How long it took.
    pub(crate) nanos: u64,
    /// `FrameTag`, packed.
    pub(crate) what: u64,
    /// The task id's bits, 0 where there is none; of a request, the push number of the poll that it
    /// is a part of.
    pub(crate) task: u64,
    /// The worker that it was still blocking at its end, if it was.
    pub(crate) worker: Option<u16>,
}

/// The ring of one thread. The model uses a short one.
#[derive(Debug)]
pub(crate) struct SlowPollRing<const LEN: usize = 64>(Ring<6, LEN>);

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

    /// Returns how many polls did not fit.
    pub(crate) fn lost(&self) -> u64 {
        self.0.dropped()
    }
}

impl SlowPoll {
    fn to_words(self) -> [u64; 6] {
        let worker = self.worker.map_or(0, |worker| u64::from(worker) + 1);
        [self.number, self.begin, self.nanos, self.what, self.task, worker]
    }

    fn from_words([number, begin, nanos, what, task, worker]: [u64; 6]) -> SlowPoll {
        let worker = worker.checked_sub(1).map(|worker| worker as u16);
        SlowPoll { number, begin, nanos, what, task, worker }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_poll_survives_the_ring() {
        for worker in [None, Some(0), Some(u16::MAX)] {
            let poll = SlowPoll { number: 1, begin: 2, nanos: 3, what: 4, task: 5, worker };
            let (ring, mut taken) = (SlowPollRing::<64>::new(), Vec::new());
            ring.push(poll);
            ring.drain(|poll| taken.push(poll));
            assert_eq!(taken, [poll]);
        }
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;
    use crate::measure::thread::slot::Slot;

    /// A slow poll is pushed to the ring before its frame is popped, and the watchdog reads slots
    /// before rings. So a poll that a scan has seen is found in one of the two ever after, and no
    /// stall is taken for one that ended without a duration.
    #[test]
    fn a_poll_is_in_the_slot_or_in_the_ring() {
        type Model = (Slot, SlowPollRing<2>);
        let new = || (Slot::new(), SlowPollRing::new());
        let write = |(slot, ring): &Model| {
            let number = slot.push(1, 1, 1, None);
            ring.push(SlowPoll { number, begin: 1, nanos: 1, what: 1, task: 1, worker: Some(1) });
            slot.pop();
        };
        let read = |(slot, ring): &Model| {
            let scan = || {
                // Nothing is concluded of a slot that changes too fast to be read.
                let seen = slot.read().is_none_or(|reading| !reading.frames().is_empty());
                let mut pushed = 0;
                ring.drain(|_| pushed += 1);
                (seen, pushed)
            };
            let ((first, early), (second, late)) = (scan(), scan());
            assert!(early + late <= 1);
            assert!(!first || second || early + late == 1, "it was seen, and is in neither");
            first && !second
        };
        crate::sync::model_one_writer(new, write, read, |(slot, _)| assert_eq!(slot.depth(), 0));
    }
}
