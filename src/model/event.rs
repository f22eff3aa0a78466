//! Events: the findings of the watchdog thread, on their way from `detect` to `report`.
//!
//! An event is plain data with all names resolved. Only [`Liveness`] reaches back to the blocked
//! thread: `report` adds up the time of ongoing stalls, and has to know at that moment whether they
//! are still ongoing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::RawStack;

use super::cause::{Cause, Syscall};
#[cfg(feature = "server")]
use super::id::PollKey;
use super::id::{FrameNumber, RouteId, RuntimeId, SiteId, StallId};
use super::site::Site;
use super::stall::Stall;
use super::time::Nanos;

/// A finding of the watchdog thread.
pub(crate) enum Event {
    /// A stall was found while it lasts.
    StallStarted(Box<StallStarted>),
    /// An ongoing stall was examined again.
    StallProgress(Box<StallProgress>),
    /// An ongoing stall was found by a scan, and not examined.
    StallStillOngoing {
        id: StallId,
        elapsed: Duration,
        /// The moment at which `elapsed` was measured.
        at: Nanos,
    },
    /// A stall that was reported as started is over.
    StallEnded { id: StallId, elapsed: Duration },
    /// A stall was over before it was found.
    StallEndedUnseen { stall: Box<Stall>, origin: StallOrigin },
    /// A request that is part of a stall has reached the threshold by itself.
    RequestBlocked(BlockedRequest),
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
}

/// A stall that was found while it lasts.
pub(crate) struct StallStarted {
    pub(crate) stall: Stall,
    pub(crate) origin: StallOrigin,
    /// The poll, where it is a measured one.
    #[cfg(feature = "server")]
    pub(crate) poll: Option<PollKey>,
    /// The moment at which `stall.elapsed` was measured.
    pub(crate) at: Nanos,
    pub(crate) liveness: Arc<dyn Liveness>,
    pub(crate) stack: Option<RawStack>,
}

/// The result of a further examination of an ongoing stall.
pub(crate) struct StallProgress {
    pub(crate) id: StallId,
    pub(crate) elapsed: Duration,
    /// The moment at which `elapsed` was measured.
    pub(crate) at: Nanos,
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    /// `None` when the stall was over by the time of the examination.
    pub(crate) spans: Option<Vec<Arc<str>>>,
    pub(crate) stack: Option<RawStack>,
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

/// A finding that is only logged.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The whole process was stopped for this time.
    ProcessPaused(Duration),
    /// A task of [`Watchdog::spawn`](crate::Watchdog::spawn) panicked.
    TaskPanicked { group: TaskGroup, task: Option<tokio::task::Id>, message: String },
    /// The tasks of a site have become more than the limit.
    TasksGrew { group: TaskGroup, alive: u64, limit: u64 },
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
