//! Events: the findings of the watchdog thread, on their way from `detect` to `report`.
//!
//! An event is plain data with all names resolved. Only [`Liveness`] reaches back to the blocked
//! thread: `report` adds up the time of ongoing stalls, and has to know at that moment whether they
//! are still ongoing.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use pollwatch_stack::RawStack;

use super::cause::{Cause, Syscall};
use super::condition::{Condition, ConditionChange};
#[cfg(feature = "server")]
use super::id::PollKey;
use super::id::{FrameNumber, RouteId, RuntimeId, SiteId, StallId};
use super::incident::Incident;
use super::kernel_time::KernelUsage;
use super::late_runtime::LateRuntime;
use super::lock::{Deadlock, LockWait};
use super::no_stack::NoStack;
use super::site::Site;
use super::stall::Stall;
use super::time::Nanos;
use super::victims::Victims;

/// A finding of the watchdog thread.
pub(crate) enum Event {
    /// A stall was found while it lasts.
    StallStarted(Box<StallStarted>),
    /// An ongoing stall was examined again.
    StallProgress(Box<StallProgress>),
    /// The thread of a stall has returned from the kernel, and has copied its stack there. It was
    /// asked for it at the latest examination, whose cause it belongs to.
    StackTaken { id: StallId, stack: RawStack },
    /// An ongoing stall was found by a scan, and not examined.
    StallStillOngoing {
        id: StallId,
        elapsed: Duration,
        /// The moment at which `elapsed` was measured.
        at: Nanos,
    },
    /// A stall that was reported as started is over.
    StallEnded { id: StallId, end: StallEnd },
    /// More tasks are known to have waited behind a stall that has ended.
    VictimsFound { id: StallId, victims: Box<Victims> },
    /// A stall was over before it was found.
    StallEndedUnseen { stall: Box<Stall>, origin: StallOrigin },
    /// A request that is part of a stall has reached the threshold by itself.
    RequestBlocked(BlockedRequest),
    /// A condition of a whole runtime has started, continues, or has ended.
    Condition(Box<ConditionChange>),
    /// A runtime is late, and no stall explains it.
    RuntimeLate { id: RuntimeId, late: Box<LateRuntime> },
    /// A finding that is only logged.
    Notice(Notice),
}

/// The origin of a stall. Together with the stall's certainty it is the key of the log's rate
/// limit; with its cause and certainty it decides which totals include the stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StallOrigin {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    /// The route of the request. The site does not imply it: all connections of a web server are
    /// tasks of one site.
    pub(crate) route: Option<RouteId>,
    /// The route under which the task was spawned.
    pub(crate) parent_route: Option<RouteId>,
}

/// The verdict about a whole stall so far, by the CPU time and the run delay of its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CpuVerdict {
    /// Without its run delay, the poll would have been shorter than the threshold. The task is not
    /// to blame.
    Starved,
    /// The poll was on a CPU for at least the threshold.
    Computed,
    /// The poll lasted at least the threshold without its run delay, but was on a CPU for less; or
    /// the kernel reports no run delays.
    #[default]
    Other,
}

/// A stall that was found while it lasts.
pub(crate) struct StallStarted {
    /// The stall, with the results of its first examination.
    pub(crate) stall: Stall,
    pub(crate) origin: StallOrigin,
    /// The poll, where it is a measured one.
    #[cfg(feature = "server")]
    pub(crate) poll: Option<PollKey>,
    /// The moment at which `stall.elapsed` was measured.
    pub(crate) at: Nanos,
    pub(crate) liveness: Arc<dyn Liveness>,
    pub(crate) stack: Option<RawStack>,
    /// The futex in which the thread waits for a lock.
    pub(crate) lock_wait: Option<LockWait>,
    pub(crate) verdict: CpuVerdict,
}

/// The result of a further examination of an ongoing stall: a new segment, or the continuation of
/// the running one.
pub(crate) struct StallProgress {
    pub(crate) id: StallId,
    pub(crate) elapsed: Duration,
    /// The moment at which `elapsed` was measured.
    pub(crate) at: Nanos,
    /// The duration of the stall from which on the thread has done what this examination found, as
    /// far as scans show it. Earlier time belongs to what the previous examination found.
    pub(crate) since: Duration,
    /// True at 1, 2, 4, 8 ... thresholds, when the stall is reported again. Other examinations only
    /// update it.
    pub(crate) is_report: bool,
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    pub(crate) kernel: KernelUsage,
    pub(crate) spans: Vec<Arc<str>>,
    pub(crate) stack: Option<RawStack>,
    pub(crate) no_stack: Option<NoStack>,
    /// The futex in which the thread waits for a lock.
    pub(crate) lock_wait: Option<LockWait>,
    pub(crate) verdict: CpuVerdict,
}

/// The end of a stall that was reported as started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallEnd {
    pub(crate) elapsed: Duration,
    pub(crate) verdict: CpuVerdict,
    /// The time of the thread's longest fork during the stall. It may have outlasted the latest
    /// examination.
    pub(crate) fork: Option<Duration>,
}

/// A request that is part of a stall, and long enough by itself. Repeated at each scan while it
/// lasts.
#[derive(Clone, Debug)]
pub(crate) struct BlockedRequest {
    pub(crate) stall: StallId,
    /// The number of the request's frame, unique among the requests of the stall.
    pub(crate) frame: FrameNumber,
    pub(crate) route: RouteId,
    pub(crate) route_name: Arc<str>,
    pub(crate) elapsed: Nanos,
    /// The moment at which `elapsed` was measured.
    pub(crate) at: Nanos,
    pub(crate) is_over: bool,
}

/// A function that is called once a notice was logged, with `false` if the log panicked. It is not
/// called if the notice is lost.
pub(crate) struct OnLogged(pub(crate) Box<dyn Fn(bool) + Send>);

impl fmt::Debug for OnLogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnLogged")
    }
}

/// A finding that is only logged.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The whole process was stopped for this time.
    ProcessPaused(Duration),
    /// A task of [`Watchdog::spawn`](crate::Watchdog::spawn) panicked.
    TaskPanicked { group: TaskGroup, task: Option<tokio::task::Id>, message: String },
    /// The tasks of a site have become more than the limit.
    TasksGrew { group: TaskGroup, alive: u64, limit: u64 },
    /// Threads wait for locks of each other. Found by the search for holders of locks, and reported
    /// once.
    Deadlock(Deadlock),
    /// An incident has started or is over.
    Incident(Box<Incident>),
    /// The threads of the process during an incident, as text.
    IncidentThreads { incident: u64, text: String, on_logged: OnLogged },
    /// The process is about to end, for this reason. `_logged` is dropped once that is logged.
    ProcessEnds { text: String, _logged: SyncSender<()> },
    /// A condition of a whole runtime has started or ended, or a worker was woken to end it.
    Condition { runtime: RuntimeId, condition: Box<Condition> },
    /// A runtime is late, and no stall explains it.
    RuntimeLate(Box<LateRuntime>),
    /// A function of pollwatch is missing or limited, for this reason.
    Degraded(String),
}

/// The tasks of one site in one runtime.
#[derive(Clone, Debug)]
pub(crate) struct TaskGroup {
    pub(crate) runtime: Arc<str>,
    pub(crate) site: Site,
    pub(crate) key: (RuntimeId, SiteId),
}

/// Access to the thread of an ongoing stall: it shows whether the stall is ongoing at this moment,
/// however long ago the latest scan was.
pub(crate) trait Liveness: fmt::Debug + Send + Sync {
    /// Returns the numbers of the frames that the blocked thread is in. `None` when the stall is
    /// over, or in a part that is meant to block.
    fn open_frames(&self) -> Option<Vec<FrameNumber>>;
}
