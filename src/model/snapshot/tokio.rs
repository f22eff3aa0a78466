//! Tokio's own metrics of a runtime.

use std::time::Duration;

#[cfg(feature = "serde")]
use crate::model::serialize::as_seconds;

/// Tokio's own metrics of one runtime.
///
/// Counters are summed over all runtimes that have had the same name. `None` without
/// `tokio_unstable`, where tokio does not provide the figure. The definitions are those of the
/// Prometheus metrics `pollwatch_runtime_*`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TokioSnapshot {
    /// Times that a worker parked.
    pub parks: u64,
    /// Time during which the workers were not parked, in total.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds_total"))]
    pub busy: Duration,
    /// Times that a worker was unparked and found nothing to do.
    pub noops: Option<u64>,
    /// Tasks that workers stole from each other.
    pub steals: Option<u64>,
    /// Times that a worker stole at least one task.
    pub steal_operations: Option<u64>,
    /// Tasks scheduled from outside the runtime.
    pub remote_schedules: Option<u64>,
    /// Tasks scheduled from within the runtime.
    pub local_schedules: Option<u64>,
    /// Times that a worker's local queue was full.
    pub overflows: Option<u64>,
    /// Times that a task used up its cooperative budget.
    pub budget_forced_yields: Option<u64>,
    /// Readiness events of the I/O driver.
    pub io_driver_ready: Option<u64>,
    /// The number of worker threads.
    pub worker_threads: usize,
    /// Tasks that are alive; pollwatch's own is not counted.
    pub alive_tasks: usize,
    /// Tasks in the queue that all workers share.
    pub global_queue_depth: usize,
    /// Tasks in the workers' local queues, in total.
    pub local_queue_depth: Option<usize>,
    /// Closures waiting for a thread of the blocking pool.
    pub blocking_queue_depth: Option<usize>,
    /// Threads of the blocking pool.
    pub blocking_threads: Option<usize>,
    /// Idle threads of the blocking pool.
    pub idle_blocking_threads: Option<usize>,
    /// The share of the workers' time in which they were not parked, 0 to 1.
    pub busy_ratio: f64,
    /// The workers, by index.
    pub workers: Vec<TokioWorkerSnapshot>,
}

/// Tokio's own metrics of one worker.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TokioWorkerSnapshot {
    /// Time during which the worker was not parked.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds_total"))]
    pub busy: Duration,
    /// Times that the worker parked.
    pub parks: u64,
    /// Polls that tokio counted on the worker.
    pub polls: Option<u64>,
    /// Tasks that the worker stole.
    pub steals: Option<u64>,
    /// Tasks in the worker's local queue.
    pub local_queue_depth: Option<usize>,
}

/// The value of a figure that needs `tokio_unstable`, before anything was counted.
fn unstable<T: Default>() -> Option<T> {
    cfg!(tokio_unstable).then(T::default)
}

impl Default for TokioSnapshot {
    fn default() -> Self {
        TokioSnapshot {
            parks: 0,
            busy: Duration::ZERO,
            noops: unstable(),
            steals: unstable(),
            steal_operations: unstable(),
            remote_schedules: unstable(),
            local_schedules: unstable(),
            overflows: unstable(),
            budget_forced_yields: unstable(),
            io_driver_ready: unstable(),
            worker_threads: 0,
            alive_tasks: 0,
            global_queue_depth: 0,
            local_queue_depth: unstable(),
            blocking_queue_depth: unstable(),
            blocking_threads: unstable(),
            idle_blocking_threads: unstable(),
            busy_ratio: 0.0,
            workers: Vec::new(),
        }
    }
}

impl Default for TokioWorkerSnapshot {
    fn default() -> Self {
        TokioWorkerSnapshot {
            busy: Duration::ZERO,
            parks: 0,
            polls: unstable(),
            steals: unstable(),
            local_queue_depth: unstable(),
        }
    }
}
