//! What is known of a tokio runtime from its build. Of a runtime that was attached, none of it is.

use std::sync::Arc;

use crate::measure::runtime::io_driver::IoDriver;
use crate::measure::runtime::worker_threads::WorkerThreads;

/// What is known of a tokio runtime from its build.
#[derive(Default)]
pub(crate) struct BuildFacts {
    /// `true` if pollwatch's hooks are installed there.
    pub(crate) hooked: bool,
    /// The runtime's threads, where they publish their parks.
    pub(crate) worker_threads: Option<Arc<WorkerThreads>>,
    /// The list of the pool's threads where they publish nothing.
    pub(crate) pool_threads: Option<Arc<WorkerThreads>>,
    pub(crate) io_driver: IoDriver,
    /// `true` if tokio is set to hand the driver on before it polls a task, `None` where it cannot.
    pub(crate) hands_driver_on: Option<bool>,
}
