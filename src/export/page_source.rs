//! The interface through which the pages get their data.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::MetricsSource;
use crate::model::activity::{RuntimeActivity, WatchdogStatus};
use crate::model::incident::HealthProblem;
use crate::snapshot::StallSnapshot;
use crate::{Condition, Incident, LateRuntime, Profile, Stall, ThreadDump};

/// The source of the HTTP pages; implemented by the watchdog.
pub(crate) trait PageSource: MetricsSource {
    /// Returns the recent stalls, at most `limit`, the most recent one last. Where there are more,
    /// those that are over go first, and the first and the longest of each kind last.
    fn stalls(&self, limit: usize) -> Vec<Stall>;

    /// Returns the blocked time by site, cause and stack.
    fn profile(&self) -> Profile;

    /// Returns the stalls of the tasks that each route's handlers spawned.
    fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot>;

    /// Returns the latest reports of late runtimes, the most recent one last.
    fn late_runtimes(&self) -> Vec<LateRuntime>;

    /// Returns the living runtimes and what their workers are doing.
    fn activity(&self) -> Vec<RuntimeActivity>;

    /// Returns why the process is unhealthy; empty while it is not. Has the watchdog check the
    /// runtimes that may hang.
    fn health(&self) -> Vec<HealthProblem>;

    /// Returns the recent incidents, the most recent one last.
    fn incidents(&self) -> Vec<Incident>;

    /// Returns the ongoing conditions of whole runtimes, the oldest first.
    fn conditions(&self) -> Vec<Condition>;

    /// Returns a recent thread dump, or takes one, which blocks for up to 2.5 s.
    fn threads(&self) -> Arc<ThreadDump>;

    /// Returns the state of the watchdog itself.
    fn status(&self) -> WatchdogStatus;
}
