//! The ring of a thread's delayed polls, which the thread fills and the watchdog empties.
//!
//! A poll is pushed at its end if it had waited for long since the wake of its task. The watchdog
//! finds out which stall it has waited behind.

use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::frame::PackedTag;
use crate::model::time::Nanos;
use crate::sync::ring::Ring;

/// A poll that started long after the wake of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DelayedPoll {
    /// The start of the poll.
    pub(crate) start: Ticks,
    /// The time from the wake to the start.
    pub(crate) delay: Nanos,
    /// The tag of the poll's frame. Its route is that of the first request that the poll worked on,
    /// or else the one under which the task was spawned.
    pub(crate) tag: PackedTag,
}

/// The delayed polls of one thread.
#[derive(Debug)]
pub(crate) struct DelayedPollRing(Ring<3, 512>);

impl DelayedPollRing {
    pub(crate) fn new() -> DelayedPollRing {
        DelayedPollRing(Ring::new())
    }

    /// Adds a poll; the owning thread only.
    #[cfg(any(all(test, not(pollwatch_loom)), all(tokio_unstable, feature = "delays")))]
    pub(crate) fn push(&self, poll: DelayedPoll) {
        self.0.push([poll.start.0, poll.delay.0, poll.tag.0]);
    }

    /// Takes all polls, the oldest first; one reader at a time (the watchdog).
    pub(crate) fn drain(&self, mut take: impl FnMut(DelayedPoll)) {
        self.0.drain(|[start, delay, tag]| {
            take(DelayedPoll { start: Ticks(start), delay: Nanos(delay), tag: PackedTag(tag) });
        });
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

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_poll_survives_the_ring() {
        let ring = DelayedPollRing::new();
        let poll = DelayedPoll { start: Ticks(1), delay: Nanos(2), tag: PackedTag(3) };
        ring.push(poll);
        assert!(!ring.is_empty());
        let mut taken = Vec::new();
        ring.drain(|poll| taken.push(poll));
        assert_eq!((taken, ring.lost(), ring.is_empty()), (vec![poll], 0, true));
    }
}
