//! The changes that the tracker reports.

use super::Poll;
use crate::model::id::{FrameNumber, RouteId, StallId, WorkerIndex};
use crate::model::time::Nanos;

/// A change that a scan makes to a stall. `elapsed` excludes pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Started {
        id: StallId,
        poll: Poll,
        worker: WorkerIndex,
        elapsed: Nanos,
        /// The route of a request in the poll that has lasted at least the threshold by itself.
        route: Option<RouteId>,
    },
    /// The stall is ongoing, and a further report is due.
    ReportDue {
        id: StallId,
        elapsed: Nanos,
    },
    /// The stall is ongoing.
    StillOngoing {
        id: StallId,
        elapsed: Nanos,
    },
    Ended {
        id: StallId,
        elapsed: Nanos,
    },
    /// A request in the stall has lasted at least the threshold by itself. Repeated at each scan
    /// until the request is over.
    RequestBlocked {
        id: StallId,
        frame: FrameNumber,
        route: RouteId,
        elapsed: Nanos,
        is_over: bool,
    },
    /// The stall was over before a scan found it. If the task is not to blame, `elapsed` is the
    /// poll's whole duration, pauses included.
    EndedUnseen {
        id: StallId,
        poll: Poll,
        worker: WorkerIndex,
        elapsed: Nanos,
        route: Option<RouteId>,
        not_blamed: Option<NotBlamed>,
    },
}

/// The reason why a task is not to blame for its stall: the poll was short but for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBlamed {
    /// The process was stopped.
    Paused,
    /// The thread was given no CPU.
    Starved,
}
