//! Polls, as scans observe them.

use super::OpenRequest;
use crate::detect::time_account::{PollEnd, TimeAccount};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{FrameNumber, PollKey, RouteId, RuntimeId, SiteId, ThreadNumber, WorkerIndex};
use crate::model::time::Nanos;

/// An observed poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) key: PollKey,
    /// The moment at which the poll started.
    pub(crate) start: Nanos,
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    /// The innermost watched future inside the poll.
    pub(crate) watched: Option<SiteId>,
    /// The innermost request inside the poll.
    pub(crate) request: Option<OpenRequest>,
    /// The route of the request whose handler spawned the task.
    pub(crate) parent_route: Option<RouteId>,
    /// The bits of the task's id, 0 where it has none.
    pub(crate) task: TaskBits,
    /// The moment since which the poll is in a scope of allowed blocking, where its time does not
    /// count.
    pub(crate) allowed_since: Option<Nanos>,
    /// How the poll has spent its time. It is read once the poll has lasted for the threshold and
    /// until the poll is tracked; `None` where it is unknown.
    pub(crate) account: Option<TimeAccount>,
    /// True for the root of a multi-thread runtime, which is a stall though it occupies no worker.
    pub(crate) is_root: bool,
}

impl Poll {
    /// The unknown poll that a thread has been in since `start`, of a task that is not watched.
    pub(crate) fn unwatched(thread: ThreadNumber, runtime: RuntimeId, start: Nanos) -> Poll {
        Poll {
            key: PollKey { thread, number: FrameNumber::NONE },
            start,
            runtime,
            site: SiteId::OTHER,
            watched: None,
            request: None,
            parent_route: None,
            task: TaskBits::NONE,
            allowed_since: None,
            account: None,
            is_root: false,
        }
    }
}

/// A finished poll that lasted at least the threshold, as its thread published it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedPoll {
    pub(crate) poll: Poll,
    pub(crate) duration: Nanos,
    /// The worker that the poll blocked to its end.
    pub(crate) worker: Option<WorkerIndex>,
    pub(crate) end: PollEnd,
}

/// The effect of a poll on the workers of its runtime at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// The poll blocks this worker.
    OnWorker(WorkerIndex),
    /// The poll blocks no worker: its thread is none, or the worker has been handed on.
    OffWorker,
    Finished,
}
