//! The source of what incidents are made of; implemented by the watchdog.

use std::sync::Arc;
use std::time::Duration;

use crate::model::incident::{HealthProblem, IncidentKind};
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadDump;

/// The error of an age. Ages of workers that are observed from outside are estimates.
pub(super) const AGE_JITTER: Duration = Duration::from_millis(20);

/// A condition of a runtime that holds at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IncidentCondition {
    pub(crate) kind: IncidentKind,
    pub(crate) runtime: Arc<str>,
    /// The time for which it has lasted.
    pub(crate) age: Duration,
    /// The time for which it had lasted when a reading last found that it holds; `None` where each
    /// step finds that anew. It may have ended since.
    pub(crate) confirmed_age: Option<Duration>,
    /// The condition in a few words, with its age.
    pub(crate) reason: String,
    /// The stall that causes it, where that is known.
    pub(crate) stall: Option<u64>,
}

impl IncidentCondition {
    /// Returns whether both are of the same kind and runtime.
    pub(crate) fn is_same_kind(&self, other: &IncidentCondition) -> bool {
        self.kind == other.kind && self.runtime == other.runtime
    }

    /// Returns whether the condition has held for `time` since an earlier moment, at which it was
    /// `earlier`. Its age has grown by that time, or is longer: if two of three blocked workers are
    /// enough, the age is that of the second longest block, and falls when the longest ends.
    pub(crate) fn has_held_since(&self, earlier: &IncidentCondition, time: Duration) -> bool {
        self.age + AGE_JITTER >= earlier.age + time || self.age >= time
    }
}

/// The source of conditions. It is read by several threads, and needs neither the watchdog thread
/// nor the log.
pub(crate) trait IncidentSource: Send + Sync {
    /// Returns the conditions that hold now, each kind once for each runtime.
    fn incident_conditions(&self) -> Vec<IncidentCondition>;

    /// Asks for a reading of the conditions, whose result a later step finds.
    fn request_confirmation(&self);

    /// Returns whether any stall is ongoing, so that a condition may follow.
    fn has_ongoing_stalls(&self) -> bool;

    /// Returns the ongoing stalls of the condition's runtime, the one that causes it first, then
    /// the longest. Those of the same age are in the order of their ids.
    fn stalls_of(&self, condition: &IncidentCondition) -> Vec<Stall>;

    /// Returns why the process is unhealthy, as `/healthz` says; empty while it is not.
    fn health(&self) -> Vec<HealthProblem>;

    /// Returns the threads of the process. It takes a bounded time.
    fn threads(&self) -> Arc<ThreadDump>;
}
