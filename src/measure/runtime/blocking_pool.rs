//! The load of a runtime's pool for blocking work, as tokio publishes it.
//!
//! What tokio does: a call of `spawn_blocking` is queued. If no thread of the pool is idle, tokio
//! starts one, up to `max_blocking_threads`, which it does not publish. While no thread is idle, no
//! new one is started and calls are queued, the pool is full. Only with `tokio_unstable` does tokio
//! publish the number of threads and of queued calls.

use tokio::runtime::RuntimeMetrics;

/// True if tokio publishes the load of its pools in this build.
pub(crate) const PUBLISHED: bool = cfg!(tokio_unstable);

/// The load of a pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolCounts {
    /// The threads, without those that tokio counts as workers.
    pub(crate) threads: usize,
    pub(crate) idle: usize,
    /// The calls that wait for a thread.
    pub(crate) queued: usize,
}

impl PoolCounts {
    /// Returns the load of a runtime's pool: three atomic loads.
    #[cfg(tokio_unstable)]
    pub(crate) fn of(metrics: &RuntimeMetrics) -> Option<PoolCounts> {
        Some(PoolCounts {
            threads: metrics.num_blocking_threads(),
            idle: metrics.num_idle_blocking_threads(),
            queued: metrics.blocking_queue_depth(),
        })
    }

    /// Returns `None`: tokio does not publish the load.
    #[cfg(not(tokio_unstable))]
    pub(crate) fn of(_: &RuntimeMetrics) -> Option<PoolCounts> {
        None
    }

    /// Returns whether calls wait, and no thread is idle.
    pub(crate) fn has_waiting(self) -> bool {
        self.threads > 0 && self.idle == 0 && self.queued > 0
    }

    /// Returns whether a thread runs a call.
    pub(crate) fn is_busy(self) -> bool {
        self.threads > self.idle
    }
}
