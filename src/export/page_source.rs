//! The interface through which the pages get their data.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::MetricsSource;
use crate::model::activity::{BlockedWorkers, RuntimeActivity, WatchdogStatus};
use crate::snapshot::StallSnapshot;
use crate::{Profile, Stall};

/// The source of the HTTP pages; implemented by the watchdog.
pub(crate) trait PageSource: MetricsSource {
    /// Returns the recent stalls, the most recent one last.
    fn stalls(&self) -> Vec<Stall>;

    /// Returns the blocked time by site, cause and stack.
    fn profile(&self) -> Profile;

    /// Returns the stalls of the tasks that each route's handlers spawned.
    fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot>;

    /// Returns the living runtimes and what their workers are doing.
    fn activity(&self) -> Vec<RuntimeActivity>;

    /// Returns the living runtimes and their blocked workers.
    fn blocked_workers(&self) -> Vec<BlockedWorkers>;

    /// Returns the state of the watchdog itself.
    fn status(&self) -> WatchdogStatus;
}
