//! The activity of the runtimes and of the watchdog at this moment. Pages show it beside a
//! snapshot.

use std::sync::Arc;
use std::time::Duration;

use crate::Site;

/// The activity of the workers of one runtime that has not been shut down.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeActivity {
    pub(crate) runtime: Arc<str>,
    /// The workers, by index.
    pub(crate) workers: Vec<WorkerActivity>,
}

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerState {
    /// The worker is in no measured poll.
    Idle,
    /// The worker is in a poll that is shorter than the threshold so far.
    Busy,
    /// The worker is in a poll that has lasted for the threshold or longer.
    Stalled,
}

/// The activity of one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerActivity {
    pub(crate) index: usize,
    /// The thread's name; known for every worker with `tokio_unstable`, else during a poll.
    pub(crate) thread: Option<Arc<str>>,
    pub(crate) state: WorkerState,
    /// The id of the poll's stall, once the watchdog has reported it.
    pub(crate) stall: Option<u64>,
    /// The duration of the poll so far.
    pub(crate) elapsed: Option<Duration>,
    pub(crate) site: Option<Site>,
    /// The site of the innermost watched future in the poll.
    pub(crate) watched: Option<Site>,
    /// The route of the innermost request in the poll.
    pub(crate) route: Option<Arc<str>>,
    /// The route whose handler spawned the task.
    pub(crate) parent_route: Option<Arc<str>>,
}

impl WorkerActivity {
    /// Returns a worker that is in no poll.
    pub(crate) fn idle(index: usize, thread: Option<Arc<str>>) -> WorkerActivity {
        WorkerActivity {
            index,
            thread,
            state: WorkerState::Idle,
            stall: None,
            elapsed: None,
            site: None,
            watched: None,
            route: None,
            parent_route: None,
        }
    }
}

/// The state of the watchdog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchdogStatus {
    /// The time since the watchdog was started.
    pub(crate) uptime: Duration,
    /// The reason why stalls are no longer detected; `None` while they are.
    pub(crate) stopped: Option<StopReason>,
}

/// The reason why stalls are no longer detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopReason {
    /// `shutdown` was called, or the last handle was dropped.
    ShutDown,
    /// The watchdog's thread panicked again and again.
    GaveUp,
}
