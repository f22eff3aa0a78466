//! The health of the runtimes: the conditions that `/healthz`, incidents and systemd's watchdog
//! all decide by.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Watchdog;
use super::state::WatchdogState;
use crate::measure::runtime::Runtime;
use crate::model::id::RuntimeId;
use crate::model::incident::{HealthProblem, Incident, IncidentKind};
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadDump;
use crate::model::time::Millis;
use crate::report::conditions::ConditionAge;
use crate::report::incidents::source::{IncidentCondition, IncidentSource};
use crate::util::lock;

/// The time for which a dump waits for its symbols: an incident happens but once.
const SYMBOLS_WAIT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The time for which `/healthz` waits until the monitor has checked what looks unhealthy. Just
/// after the process was stopped, polls seem to have lasted for all of that time.
const OBSERVATION_WAIT: Duration = Duration::from_millis(200);

impl Watchdog {
    /// Returns the recent incidents, at most 32, the most recent last. Each has the stalls of its
    /// latest report.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for incident in watchdog.incidents() {
    ///     println!("{incident}");
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn incidents(&self) -> Vec<Incident> {
        lock(&self.state.incidents.tracker).recent()
    }
}

impl IncidentSource for WatchdogState {
    fn incident_conditions(&self) -> Vec<IncidentCondition> {
        let runtimes = self.meter.runtimes.all();
        let named = runtimes.iter().filter(|runtime| runtime.id != RuntimeId::OTHER);
        let mut conditions: Vec<_> = named.filter_map(|runtime| self.blocked_runtime(runtime)).collect();
        // What follows is known by scans alone, and might be over without them.
        if !self.status.is_running() {
            return conditions;
        }
        conditions.extend(self.condition_ages().into_iter().map(|ConditionAge { condition, confirmed }| {
            IncidentCondition {
                kind: condition.kind.into(),
                age: condition.duration,
                confirmed_age: Some(confirmed),
                reason: condition.to_string(),
                stall: condition.stall,
                runtime: condition.runtime,
            }
        }));
        for deadlock in lock(&self.stalls).deadlocks() {
            let is_known =
                |known: &IncidentCondition| known.kind == IncidentKind::Deadlock && known.runtime == deadlock.runtime;
            if !conditions.iter().any(is_known) {
                conditions.push(IncidentCondition {
                    kind: IncidentKind::Deadlock,
                    age: deadlock.found.elapsed(),
                    confirmed_age: None,
                    reason: deadlock.reason,
                    runtime: deadlock.runtime,
                    stall: Some(deadlock.stall.0),
                });
            }
        }
        conditions
    }

    fn request_confirmation(&self) {
        self.meter.wake.kick();
    }

    fn has_ongoing_stalls(&self) -> bool {
        self.status.is_running() && lock(&self.stalls).has_ongoing()
    }

    fn stalls_of(&self, condition: &IncidentCondition) -> Vec<Stall> {
        let mut stalls = lock(&self.stalls).ongoing_of(&condition.runtime);
        sort_stalls(&mut stalls, condition.stall);
        stalls
    }

    fn health(&self) -> Vec<HealthProblem> {
        WatchdogState::health(self)
    }

    fn threads(&self) -> Arc<ThreadDump> {
        let start = Instant::now();
        while start.elapsed() < SYMBOLS_WAIT {
            if let Some(dump) = self.thread_dumps.poll(start) {
                return dump;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        // Without symbols where they are not loaded by now.
        self.thread_dumps.dump()
    }
}

/// Sorts stalls for an incident: the one that causes it, then the longest. Those of the same age
/// are in the order of their ids.
fn sort_stalls(stalls: &mut [Stall], cause: Option<u64>) {
    stalls.sort_by_key(|stall| (Some(stall.id) != cause, Reverse(stall.elapsed), stall.id));
}

impl WatchdogState {
    /// Returns the condition of a runtime whose workers are blocked, if enough of them are.
    fn blocked_runtime(&self, runtime: &Runtime) -> Option<IncidentCondition> {
        let workers = runtime.metrics()?.num_workers();
        let blocked_for = self.blocked_workers(runtime).iter().map(|blocked| blocked.elapsed.to_duration()).collect();
        let blocked = BlockedWorkers { workers, blocked_for };
        let age = blocked.since(self.config.blocked_share)?;
        Some(IncidentCondition {
            kind: IncidentKind::WorkersBlocked,
            runtime: runtime.name.clone(),
            age,
            confirmed_age: None,
            reason: blocked.reason(&runtime.name, age),
            stall: None,
        })
    }

    /// Returns why the process is unhealthy: what has lasted for longer than
    /// [`unhealthy_after`](crate::WatchdogBuilder::unhealthy_after), and a watchdog that has
    /// stopped. Takes up to 250 ms where the watchdog thread seems to be blocked, and up to 200 ms
    /// where the monitor has not found what lasts for so long.
    pub(crate) fn health(&self) -> Vec<HealthProblem> {
        self.check_drivers();
        let stopped = if self.status.is_stopping() {
            Some("the watchdog was shut down: it is not known whether anything blocks")
        } else if !self.status.is_running() {
            Some(
                "the watchdog thread has ended after panics, which are a defect of pollwatch: no stall is found any more",
            )
        } else if self.requested_scan.is_watcher_stuck(&self.status, &self.meter.wake) {
            Some("the watchdog thread has not scanned for more than 5 s: no stall is found meanwhile")
        } else {
            None
        };
        let stopped =
            stopped.map(|reason| HealthProblem { kind: "watchdog_stopped", runtime: None, reason: reason.into() });
        let unhealthy = self.unhealthy().into_iter().map(|condition| HealthProblem {
            kind: condition.kind.as_str(),
            runtime: Some(condition.runtime),
            reason: condition.reason,
        });
        unhealthy.chain(stopped).collect()
    }

    fn unhealthy(&self) -> Vec<IncidentCondition> {
        let start = Instant::now();
        loop {
            let now = Instant::now();
            let mut conditions = self.incident_conditions();
            let mut is_observed = true;
            let tracker = lock(&self.incidents.tracker);
            conditions.retain(|condition| {
                // The age includes time in which the process was stopped, and may fall while the
                // condition lasts. What the monitor has observed does neither.
                let observed = tracker.observed(condition, now);
                let is_unhealthy = observed.unwrap_or(condition.age) > self.config.unhealthy_after;
                is_observed &= observed.is_some() || !is_unhealthy;
                is_unhealthy
            });
            drop(tracker);
            if is_observed || !self.status.is_running() || start.elapsed() >= OBSERVATION_WAIT {
                return conditions;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The blocked workers of a runtime.
struct BlockedWorkers {
    /// The number of all workers.
    workers: usize,
    /// The time for which each blocked worker has been blocked.
    blocked_for: Vec<Duration>,
}

impl BlockedWorkers {
    /// Returns for how long at least this share of the workers has been blocked. `None` if it is
    /// not.
    fn since(&self, share: f64) -> Option<Duration> {
        let needed = (self.workers as f64 * share).ceil() as usize;
        let mut longest_first = self.blocked_for.clone();
        longest_first.sort_unstable_by(|a, b| b.cmp(a));
        longest_first.get(needed.max(1) - 1).copied()
    }

    fn reason(&self, name: &str, age: Duration) -> String {
        let (blocked, workers, age) = (self.blocked_for.len(), self.workers, Millis(age));
        if blocked < workers {
            return format!("{blocked} of {workers} workers of {name:?} are blocked, for {age} or longer");
        }
        if workers == 1 {
            return format!("the only worker of {name:?} is blocked, for {age} or longer");
        }
        format!("all {workers} workers of {name:?} are blocked, for {age} or longer")
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::id::StallId;
    use crate::model::site::Site;

    fn since(workers: usize, millis: &[u64], share: f64) -> Option<u64> {
        let blocked_for = millis.iter().copied().map(Duration::from_millis).collect();
        BlockedWorkers { workers, blocked_for }.since(share).map(|since| since.as_millis() as u64)
    }

    #[test]
    fn all_workers_or_a_share_of_them_have_to_be_blocked() {
        assert_eq!(since(2, &[900], 1.0), None);
        assert_eq!(since(2, &[900, 100], 1.0), Some(100));
        assert_eq!(since(2, &[], 1.0), None);
        assert_eq!(since(1, &[101], 1.0), Some(101));
        assert_eq!(since(4, &[100, 900], 0.5), Some(100));
        assert_eq!(since(4, &[100, 900, 800], 0.5), Some(800));
        assert_eq!(since(3, &[900], 0.5), None, "two of three");
        assert_eq!(since(8, &[900], 0.01), Some(900), "at least one");
    }

    #[test]
    fn the_reason_says_how_many() {
        let reason = |workers, millis: &[u64]| {
            let blocked_for = millis.iter().copied().map(Duration::from_millis).collect();
            BlockedWorkers { workers, blocked_for }.reason("main", Duration::from_millis(101))
        };
        assert_eq!(reason(1, &[101]), "the only worker of \"main\" is blocked, for 101 ms or longer");
        assert_eq!(reason(4, &[900, 101]), "2 of 4 workers of \"main\" are blocked, for 101 ms or longer");
    }
    #[test]
    fn stalls_are_sorted_by_cause_age_and_id() {
        let stall = |id, millis| Stall {
            elapsed: Duration::from_millis(millis),
            ..Stall::new(StallId(id), "main".into(), "t".into(), Site::new(None), SystemTime::UNIX_EPOCH)
        };
        let mut stalls = [stall(7, 20), stall(3, 20), stall(9, 10), stall(5, 30), stall(4, 20)];
        let mut sorted = |cause| {
            sort_stalls(&mut stalls, cause);
            stalls.iter().map(|stall| stall.id).collect::<Vec<_>>()
        };
        assert_eq!(sorted(Some(9)), [9, 5, 3, 4, 7]);
        assert_eq!(sorted(None), [5, 3, 4, 7, 9]);
    }
}
