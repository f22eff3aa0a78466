//! The identity of a stall, so that nobody reports one that is over.

use std::sync::Arc;

use crate::measure::runtime::worker_threads::ThreadEntry;
use crate::measure::thread::ThreadState;
use crate::model::event::Liveness;
use crate::model::id::FrameNumber;
use crate::sys;

/// What makes up a stall: the stall lasts as long as this is current.
#[derive(Clone, Debug)]
pub(crate) enum StallIdentity {
    /// The poll with this frame number.
    Poll(FrameNumber),
    /// A worker that is in no measured frame.
    Worker(BlockedWorker),
}

/// A worker that has neither parked nor been in a measured frame since it was observed.
#[derive(Clone, Debug)]
pub(crate) struct BlockedWorker {
    pub(crate) seat: Arc<ThreadEntry>,
    /// The worker's last unpark, and the state of its thread's slot.
    pub(crate) mark: (u64, u64),
    /// The CPU time of a thread that waits: it has not run since. `None` for a thread that
    /// computes.
    pub(crate) cpu: Option<u64>,
}

impl BlockedWorker {
    pub(super) fn is_current(&self, thread: &ThreadState) -> bool {
        let has_not_run = |cpu| self.seat.tid.and_then(sys::thread_cpu_nanos) == Some(cpu);
        (self.seat.last_event().map_or(0, |event| event.packed), thread.slot.version()) == self.mark
            && self.cpu.is_none_or(has_not_run)
    }
}

impl StallIdentity {
    /// Returns whether the stall lasts. Any thread may ask.
    pub(crate) fn is_current(&self, thread: &ThreadState) -> bool {
        match self {
            StallIdentity::Poll(number) => thread.slot.has_frame(*number),
            StallIdentity::Worker(worker) => worker.is_current(thread),
        }
    }
}

/// A stall and its thread, for those who ask later whether it still lasts.
#[derive(Debug)]
pub(super) struct TrackedStall {
    pub(super) thread: Arc<ThreadState>,
    pub(super) identity: StallIdentity,
}

impl Liveness for TrackedStall {
    fn open_frames(&self) -> Option<Vec<FrameNumber>> {
        let reading = self.thread.slot.read();
        let is_current = match &self.identity {
            StallIdentity::Poll(number) => reading.as_ref().is_some_and(|reading| {
                let mut polls = reading.polls();
                polls.any(|poll| poll.frame.number == *number && poll.paused_since.is_none())
            }),
            StallIdentity::Worker(worker) => worker.is_current(&self.thread),
        };
        let numbers = || reading.iter().flat_map(|reading| reading.frames()).map(|frame| frame.number).collect();
        is_current.then(numbers)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::runtime::meter::Meter;

    #[test]
    fn a_poll_is_live_until_its_frame_is_popped() {
        let meter = Meter::of(1_000_000, 10);
        let thread = Arc::new(ThreadState::new(&meter, 1));
        let number = thread.slot.push(0, 0, 0, None);
        let stall = TrackedStall { thread: thread.clone(), identity: StallIdentity::Poll(number) };
        assert_eq!(stall.open_frames(), Some(vec![number]));
        let request = thread.slot.push(0, 0, 0, None);
        assert_eq!(stall.open_frames(), Some(vec![number, request]));
        thread.slot.pop();
        assert_eq!(stall.open_frames(), Some(vec![number]));
        thread.slot.pop();
        assert_eq!(stall.open_frames(), None);
        thread.slot.push(0, 0, 0, None);
        assert_eq!(stall.open_frames(), None, "another poll on the same thread");
    }
}
