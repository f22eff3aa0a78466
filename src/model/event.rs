//! Events: what the watchdog thread finds out, on its way from `detect` to `report`.
//!
//! An event is plain data with all names resolved. Only [`Liveness`] reaches back: whoever adds up
//! the time of an ongoing stall has to know whether it is still ongoing at that very moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::RawStack;

use super::cause::{Cause, Syscall};
#[cfg(feature = "server")]
use super::id::PollKey;
use super::id::{FrameNumber, RouteId, RuntimeId, SiteId};
use super::site::Site;
use super::stall::Stall;
use super::time::Nanos;

/// Something that the watchdog thread found out.
pub(crate) enum Event {
    /// A stall was found while it lasts.
    StallStarted(Box<StallStarted>),
    /// An ongoing stall was examined again.
    StallProgress(Box<StallProgress>),
    /// An ongoing stall was seen, and not examined.
    StallUnchanged {
        id: u64,
        elapsed: Duration,
        /// The moment at which `elapsed` was measured.
        at: Nanos,
    },
    /// A stall that was reported as started is over.
    StallEnded { id: u64, elapsed: Duration },
    /// A stall was over before it was found.
    StallEndedUnseen { stall: Box<Stall>, origin: StallOrigin },
    /// A request that is part of a stall has reached the threshold by itself.
    RequestBlocked(BlockedRequest),
    /// Something else that the log has to say.
    Notice(Notice),
}

/// What a stall is counted under, and its log lines are limited by, beside its cause and certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StallOrigin {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    /// The route apart from the site, since all connections of a web server are tasks of one site.
    pub(crate) route: Option<RouteId>,
}

/// A stall, found while it lasts.
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

/// What an examination of an ongoing stall found.
pub(crate) struct StallProgress {
    pub(crate) id: u64,
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
    /// The stall's id.
    pub(crate) stall: u64,
    /// The number of the request's frame, which distinguishes it from others of the same stall.
    pub(crate) frame: FrameNumber,
    pub(crate) route: RouteId,
    pub(crate) route_name: Arc<str>,
    pub(crate) elapsed: Nanos,
    /// The moment at which `elapsed` was measured.
    pub(crate) at: Nanos,
    pub(crate) is_over: bool,
}

/// Something that is only logged.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The whole process stood still.
    ProcessPaused(Duration),
    /// A task of [`Watchdog::spawn`](crate::Watchdog::spawn) panicked.
    TaskPanicked { group: TaskGroup, task: Option<tokio::task::Id>, message: String },
    /// The tasks of a site have become more than the limit.
    TasksGrew { group: TaskGroup, alive: u64, limit: u64 },
    /// Something that pollwatch cannot do.
    Degraded(String),
}

/// The tasks that one runtime has from one site, by name and by key.
#[derive(Clone, Debug)]
pub(crate) struct TaskGroup {
    pub(crate) runtime: Arc<str>,
    pub(crate) site: Site,
    pub(crate) key: (RuntimeId, SiteId),
}

/// Whether an ongoing stall is still ongoing at this moment, whatever the watchdog thread has seen
/// so far.
pub(crate) trait Liveness: fmt::Debug + Send + Sync {
    /// Returns the numbers of the frames that the stalled thread is in, or `None` when the stall is
    /// over or in a part that is meant to block.
    fn open_frames(&self) -> Option<Vec<FrameNumber>>;
}
