//! Observations of workers, and the conclusions that the [detector](super::detector) draws.

use super::functions::StackRole;
use crate::detect::identity::BusyPeriod;
use crate::model::cause::Certainty;
use crate::model::time::Nanos;

/// The id of a thread's entry in the list of a runtime's threads, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryId(pub(crate) u64);

/// A worker that has not parked and is in no measured frame, as one scan observed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerObservation {
    pub(crate) thread: EntryId,
    /// The busy period. Observations of different periods are not compared.
    pub(crate) period: BusyPeriod,
    /// The sum of the metrics that tokio publishes of the worker: it changes with each publication.
    pub(crate) published: u64,
    /// The CPU time that the thread had used at the moment `at`.
    pub(crate) cpu: Nanos,
    /// The moment at which `cpu` was read, no earlier than the start of the scan.
    pub(crate) at: Nanos,
}

/// The wait of a thread that is blocked in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockedIn {
    /// A digest of the system call and of how often the thread has been given a CPU. Two different
    /// waits have different digests.
    pub(crate) digest: u64,
    /// True in a system call. Otherwise the thread waits for a page of memory.
    pub(crate) in_syscall: bool,
    /// True if the thread's stack is too shallow to run a worker.
    pub(crate) is_shallow: bool,
}

/// Readings of a thread that cost more than an observation. The detector requests them only of
/// workers that may be blocked.
pub(crate) trait Inspector {
    /// Returns the wait that the thread is blocked in, or `None` when it is not blocked.
    fn blocked_in(&mut self, thread: EntryId) -> Option<BlockedIn>;
    /// Returns what the stack of a waiting thread shows, or `None` where that is unknown.
    fn stack_role(&mut self, thread: EntryId) -> Option<StackRole>;
    /// Returns whether the thread still drives its worker for certain: `block_in_place` cannot have
    /// handed the worker on.
    fn is_confirmed_owner(&mut self, thread: EntryId) -> bool;
    /// Returns how long the thread was ready to run without a CPU, over its whole life. `None`
    /// where that cannot be read.
    fn run_delay(&mut self, thread: EntryId) -> Option<Nanos>;
    /// Returns a digest of the code that the thread's task is in, or `None` where that is unknown.
    fn location(&mut self, thread: EntryId) -> Option<u64>;
}

/// The run delay of a thread at one moment; `None` where it could not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunDelayReading(pub(super) Option<Nanos>);

impl RunDelayReading {
    /// Returns how long the thread was ready to run without a CPU since an earlier reading. `None`
    /// if one of the two could not be read.
    pub(super) fn since(self, earlier: RunDelayReading) -> Option<Nanos> {
        Some(self.0?.saturating_sub(earlier.0?))
    }
}

/// The activity of a blocked worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// The worker's thread has not run since the stall started.
    Waiting,
    /// The worker's thread computes in one location.
    Computing,
}

/// A change that a scan makes to a worker. `elapsed` excludes pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerChange {
    Started {
        thread: EntryId,
        certainty: Certainty,
        activity: Activity,
        /// The moment since which the worker is known to be blocked.
        start: Nanos,
        elapsed: Nanos,
    },
    /// The stall is ongoing, and a further report is due.
    ReportDue {
        thread: EntryId,
        elapsed: Nanos,
    },
    /// The stall is ongoing.
    StillOngoing {
        thread: EntryId,
        elapsed: Nanos,
    },
    Ended {
        thread: EntryId,
        elapsed: Nanos,
    },
}
