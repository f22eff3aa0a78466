//! The changes that the tracker reports.

use super::Poll;
use crate::detect::time_account::PollEnd;
use crate::model::cause::Cause;
use crate::model::id::{FrameNumber, RouteId, StallId, WorkerIndex};
use crate::model::time::Nanos;

/// A change that a scan makes to a stall. `elapsed` excludes pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Started {
        id: StallId,
        poll: Poll,
        /// The worker that the poll blocks; `None` for the root of a multi-thread runtime.
        worker: Option<WorkerIndex>,
        elapsed: Nanos,
        /// The route of a request in the poll that has lasted at least the threshold by itself.
        route: Option<RouteId>,
    },
    /// The stall is ongoing, and a further report is due.
    ReportDue { id: StallId, elapsed: Nanos },
    /// The stall is ongoing.
    StillOngoing { id: StallId, elapsed: Nanos },
    Ended {
        id: StallId,
        elapsed: Nanos,
        /// The end of the poll, if it is known.
        end: Option<PollEnd>,
        /// The duration by which the stall is judged: that of the whole poll, if it is known.
        whole: Nanos,
    },
    /// A request in the stall has lasted at least the threshold by itself. Repeated at each scan
    /// until the request is over.
    RequestBlocked { id: StallId, frame: FrameNumber, route: RouteId, elapsed: Nanos, is_over: bool },
    /// The stall was over before a scan found it. Its cause follows from pauses, CPU time and run
    /// delay alone. If the task is not to blame, `elapsed` is the poll's whole duration, pauses
    /// included.
    EndedUnseen {
        id: StallId,
        poll: Poll,
        worker: Option<WorkerIndex>,
        elapsed: Nanos,
        route: Option<RouteId>,
        cause: Cause,
    },
}
