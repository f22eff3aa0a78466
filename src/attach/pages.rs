//! The source of the HTTP pages, and of incidents.

use std::collections::HashMap;
use std::sync::Arc;

use super::snapshot;
use super::state::AttachState;
use crate::export::page_source::PageSource;
use crate::export::source::MetricsSource;
use crate::export::user_collectors::UserCollectors;
use crate::model::activity::{RuntimeActivity, StopReason, WatchdogStatus, WorkerActivity, WorkerState};
use crate::model::condition::Condition;
use crate::model::incident::{HealthProblem, Incident, IncidentKind};
use crate::model::late_runtime::LateRuntime;
use crate::model::profile::Profile;
use crate::model::snapshot::{Snapshot, StallSnapshot};
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadDump;
use crate::model::time::Millis;
use crate::report::incidents::source::{IncidentCondition, IncidentSource};
use crate::util::lock;

impl MetricsSource for AttachState {
    fn snapshot(&self) -> Snapshot {
        snapshot::snapshot(self)
    }

    fn collectors(&self) -> &UserCollectors {
        &self.collectors
    }
}

impl PageSource for AttachState {
    fn stalls(&self, limit: usize) -> Vec<Stall> {
        lock(&self.stalls).recent(limit)
    }

    fn profile(&self) -> Profile {
        lock(&self.profile).snapshot()
    }

    fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot> {
        HashMap::new()
    }

    fn late_runtimes(&self) -> Vec<LateRuntime> {
        Vec::new()
    }

    fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }

    fn activity(&self) -> Vec<RuntimeActivity> {
        let runtimes: Vec<_> = lock(&self.runtimes).all().map(|(_, found)| found.clone()).collect();
        let alive = runtimes.into_iter().filter(|found| !found.threads.is_empty());
        let activity = |found: super::runtimes::FoundRuntime| {
            // Which worker a thread drives is not known: the blocked ones come first.
            let stalls = lock(&self.stalls).ongoing_of(&found.name);
            let blocked = stalls.iter().enumerate().map(|(index, stall)| WorkerActivity {
                state: WorkerState::Stalled,
                stall: Some(stall.id),
                elapsed: Some(stall.elapsed),
                ..WorkerActivity::idle(index, Some(stall.thread.clone()))
            });
            let idle = (stalls.len()..found.threads.len()).map(|index| WorkerActivity::idle(index, None));
            RuntimeActivity { workers: blocked.chain(idle).collect(), runtime: found.name }
        };
        alive.map(activity).collect()
    }

    fn health(&self) -> Vec<HealthProblem> {
        IncidentSource::health(self)
    }

    fn incidents(&self) -> Vec<Incident> {
        lock(&self.incidents.tracker).recent()
    }

    fn threads(&self) -> Arc<ThreadDump> {
        IncidentSource::threads(self)
    }

    fn status(&self) -> WatchdogStatus {
        let stopped = self.lifetime.ended().map(|_| StopReason::ShutDown);
        WatchdogStatus { uptime: self.started.elapsed(), stopped }
    }
}

impl IncidentSource for AttachState {
    fn incident_conditions(&self) -> Vec<IncidentCondition> {
        let runtimes: Vec<_> = lock(&self.runtimes).all().map(|(id, found)| (id, found.clone())).collect();
        let mut conditions = Vec::new();
        for (id, found) in runtimes {
            let blocked = snapshot::blocked(self, id);
            let Some(age) = blocked.iter().map(|worker| worker.elapsed.to_duration()).min() else { continue };
            if blocked.len() < found.threads.len() {
                continue;
            }
            let reason = match blocked.len() {
                1 => format!("the only thread of {:?} is blocked, for {} or longer", found.name, Millis(age)),
                all => format!("all {all} threads of {:?} are blocked, for {} or longer", found.name, Millis(age)),
            };
            let kind = IncidentKind::WorkersBlocked;
            conditions.push(IncidentCondition {
                kind,
                runtime: found.name,
                age,
                confirmed_age: None,
                reason,
                stall: None,
            });
        }
        conditions
    }

    /// Each step finds anew which threads are blocked.
    fn request_confirmation(&self) {}

    fn has_ongoing_stalls(&self) -> bool {
        self.lifetime.ended().is_none() && lock(&self.stalls).has_ongoing()
    }

    fn stalls_of(&self, condition: &IncidentCondition) -> Vec<Stall> {
        let mut stalls = lock(&self.stalls).ongoing_of(&condition.runtime);
        stalls.sort_by_key(|stall| std::cmp::Reverse(stall.elapsed));
        stalls
    }

    fn health(&self) -> Vec<HealthProblem> {
        let ended = self.lifetime.ended().map(|ended| HealthProblem {
            kind: "watchdog_stopped",
            runtime: None,
            reason: ended.to_string(),
        });
        let mut conditions = self.incident_conditions();
        conditions.retain(|condition| condition.age > super::state::UNHEALTHY_AFTER);
        let unhealthy = conditions.into_iter().map(|condition| HealthProblem {
            kind: condition.kind.as_str(),
            runtime: Some(condition.runtime),
            reason: condition.reason,
        });
        unhealthy.chain(ended).collect()
    }

    fn threads(&self) -> Arc<ThreadDump> {
        self.dumper.dump(&self.settings, &self.runtimes, self.lifetime.ended())
    }
}
