//! The source of the HTTP pages.

use std::collections::HashMap;
use std::sync::Arc;

use super::workers;
use crate::export::page_source::PageSource;
use crate::model::activity::{BlockedWorkers, RuntimeActivity, StopReason, WatchdogStatus};
use crate::model::profile::Profile;
use crate::model::snapshot::StallSnapshot;
use crate::model::stall::Stall;
use crate::util::lock;
use crate::watchdog::WatchdogState;

impl PageSource for WatchdogState {
    fn stalls(&self) -> Vec<Stall> {
        lock(&self.stalls).recent()
    }

    fn profile(&self) -> Profile {
        lock(&self.profile).snapshot()
    }

    fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot> {
        lock(&self.profile).spawned_stalls()
    }

    fn activity(&self) -> Vec<RuntimeActivity> {
        workers::activity(self)
    }

    fn blocked_workers(&self) -> Vec<BlockedWorkers> {
        workers::blocked(self)
    }

    fn status(&self) -> WatchdogStatus {
        WatchdogStatus {
            uptime: self.started.elapsed(),
            stopped: stop_reason(self),
            unhealthy_after: self.config.unhealthy_after,
        }
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
