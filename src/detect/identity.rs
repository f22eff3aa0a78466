//! The identity of a stall: it shows whether a stall that was found earlier is still the same, so
//! that no report is about one that is over.

use std::sync::Arc;

use super::procfs;
use crate::measure::runtime::worker_threads::ThreadEntry;
use crate::measure::thread::ThreadState;
use crate::model::event::Liveness;
use crate::model::id::FrameNumber;
use crate::model::time::Nanos;

/// The identity of a stall. The stall lasts as long as its identity is current.
#[derive(Clone, Debug)]
pub(crate) enum StallIdentity {
    /// The poll with this frame number.
    Poll(FrameNumber),
    /// A worker that is in no measured frame.
    Worker(BlockedWorker),
}

/// A time in which a worker neither parks nor enters or leaves a measured frame. Two readings of a
/// worker that yield the same value belong to the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BusyPeriod {
    /// The published value of the thread's last park or unpark, 0 before the first.
    pub(crate) event: u64,
    pub(crate) slot_version: u64,
}

/// A worker in a busy period.
#[derive(Clone, Debug)]
pub(crate) struct BlockedWorker {
    pub(crate) entry: Arc<ThreadEntry>,
    pub(crate) period: BusyPeriod,
    /// The CPU time of a thread that waits: the stall ends when the thread runs. `None` for a
    /// thread that computes.
    pub(crate) cpu: Option<Nanos>,
}

impl BlockedWorker {
    pub(super) fn is_current(&self, thread: &ThreadState) -> bool {
        let event = self.entry.last_event().map_or(0, |event| event.packed);
        let has_not_run = |cpu| self.entry.tid.and_then(procfs::cpu_time) == Some(cpu);
        BusyPeriod { event, slot_version: thread.slot.version() } == self.period && self.cpu.is_none_or(has_not_run)
    }
}

/// What distinguishes the stalls of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IdentityKey {
    Poll(FrameNumber),
    Worker {
        period: BusyPeriod,
        /// The CPU time of a thread that waits. It alone distinguishes two waits in one period.
        cpu: Option<Nanos>,
    },
}

impl StallIdentity {
    /// Returns what distinguishes this stall from the others of its thread.
    pub(crate) fn key(&self) -> IdentityKey {
        match self {
            StallIdentity::Poll(number) => IdentityKey::Poll(*number),
            StallIdentity::Worker(worker) => IdentityKey::Worker { period: worker.period, cpu: worker.cpu },
        }
    }

    /// Returns whether the stall lasts. Any thread may call this.
    pub(crate) fn is_current(&self, thread: &ThreadState) -> bool {
        match self {
            StallIdentity::Poll(number) => thread.slot.has_frame(*number),
            StallIdentity::Worker(worker) => worker.is_current(thread),
        }
    }
}

/// A stall and its thread. It is the [`Liveness`] of the stall's event.
#[derive(Debug)]
pub(super) struct StallLiveness {
    pub(super) thread: Arc<ThreadState>,
    pub(super) identity: StallIdentity,
}

impl Liveness for StallLiveness {
    fn open_frames(&self) -> Option<Vec<FrameNumber>> {
        let reading = self.thread.slot.read();
        let is_current = match &self.identity {
            StallIdentity::Poll(number) => reading.as_ref().is_some_and(|reading| {
                let mut polls = reading.polls();
                polls.any(|poll| poll.frame.number == *number && poll.allowed_since.is_none())
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
    use crate::model::id::ThreadNumber;

    #[test]
    fn a_poll_is_live_until_its_frame_is_popped() {
        let meter = Meter::of(Nanos::from_millis(1), 10);
        let thread = Arc::new(ThreadState::new(&meter, ThreadNumber(1)));
        let number = thread.slot.push(0, 0, 0, None);
        let stall = StallLiveness { thread: thread.clone(), identity: StallIdentity::Poll(number) };
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
