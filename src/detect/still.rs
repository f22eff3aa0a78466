//! What a stall is tied to, so that nobody tells of one that is over.

use std::sync::Arc;

use crate::measure::pool::Seat;
use crate::measure::slot::Reading;
use crate::measure::thread::ThreadState;
use crate::sys;

/// What a stall is tied to: it goes on as long as this holds.
#[derive(Clone, Debug)]
pub(crate) enum Still {
    /// The poll with this push number.
    Poll(u64),
    /// A worker that is in nobody's frame.
    Worker(Worker),
}

/// A worker that has neither parked nor been in a frame since; one that stands, has not run either.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) seat: Arc<Seat>,
    /// Its last unpark, and the state of its slot.
    pub(crate) mark: (u64, u64),
    /// The CPU time that its thread had used when it came to stand.
    pub(crate) cpu: Option<u64>,
}

impl Worker {
    pub(super) fn holds(&self, thread: &ThreadState) -> bool {
        let stands = |cpu| self.seat.tid.and_then(sys::thread_cpu_nanos) == Some(cpu);
        (self.seat.event().map_or(0, |event| event.word), thread.slot.state()) == self.mark
            && self.cpu.is_none_or(stands)
    }
}

impl Still {
    /// Whether it holds; from any thread.
    pub(crate) fn holds(&self, thread: &ThreadState) -> bool {
        match self {
            Still::Poll(number) => thread.slot.holds(*number),
            Still::Worker(worker) => worker.holds(thread),
        }
    }

    /// Whether it is the poll with this push number.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn is_poll(&self, number: u64) -> bool {
        matches!(self, Still::Poll(this) if *this == number)
    }

    /// Whether it holds by this reading of its thread's slot, and no part of it is meant to block.
    pub(crate) fn goes_on(&self, thread: &ThreadState, reading: Option<&Reading>) -> bool {
        match self {
            Still::Poll(number) => {
                reading.is_some_and(|r| r.polls().any(|(frame, _, stands)| frame.number == *number && stands.is_none()))
            }
            Still::Worker(worker) => worker.holds(thread),
        }
    }
}
