//! The source of the HTTP pages.

use std::collections::HashMap;
use std::sync::Arc;

use super::workers;
use crate::export::page_source::PageSource;
use crate::model::activity::{RuntimeActivity, StopReason, WatchdogStatus};
use crate::model::condition::Condition;
use crate::model::incident::{HealthProblem, Incident};
use crate::model::late_runtime::LateRuntime;
use crate::model::profile::Profile;
use crate::model::snapshot::StallSnapshot;
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadDump;
use crate::util::lock;
use crate::watchdog::WatchdogState;

impl PageSource for WatchdogState {
    fn stalls(&self, limit: usize) -> Vec<Stall> {
        lock(&self.stalls).recent(limit)
    }

    fn profile(&self) -> Profile {
        lock(&self.profile).snapshot()
    }

    fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot> {
        lock(&self.profile).spawned_stalls()
    }

    fn late_runtimes(&self) -> Vec<LateRuntime> {
        lock(&self.stalls).late_runtimes()
    }

    fn activity(&self) -> Vec<RuntimeActivity> {
        workers::activity(self)
    }

    fn health(&self) -> Vec<HealthProblem> {
        WatchdogState::health(self)
    }

    fn incidents(&self) -> Vec<Incident> {
        lock(&self.incidents.tracker).recent()
    }

    fn conditions(&self) -> Vec<Condition> {
        // Without scans it is not known whether they last.
        if self.status.is_running() { WatchdogState::conditions(self) } else { Vec::new() }
    }

    fn threads(&self) -> Arc<ThreadDump> {
        self.thread_dumps.dump()
    }

    fn status(&self) -> WatchdogStatus {
        WatchdogStatus { uptime: self.started.elapsed(), stopped: stop_reason(self) }
    }
}

fn stop_reason(state: &WatchdogState) -> Option<StopReason> {
    // Read in this order: `stopping` is set before a watchdog that is shut down ends.
    let is_running = state.status.is_running();
    if state.status.is_stopping() {
        return Some(StopReason::ShutDown);
    }
    (!is_running).then_some(StopReason::GaveUp)
}
