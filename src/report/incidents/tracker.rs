//! The tracker of conditions: when an incident starts, when an action is due, and when it is over.
//! Pure.
//!
//! A condition counts from the step before the first that has found it, at most. Its own account of
//! its age may be longer, but includes time in which the process was stopped: that ends no service,
//! and must trigger no action. The caller leaves out the time by which a step is late.
//!
//! A condition continues if its age has grown by the time since the step before, or is longer than
//! that time. Another one that is younger means that it was over in between.
//!
//! Some conditions are found by readings that may be rare. They count on in between, but nothing is
//! due before a reading has found that the condition has lasted for so long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::source::IncidentCondition;
use crate::model::incident::{Incident, IncidentKind};
use crate::model::stall::{Phase, Stall};
use crate::model::thread_dump::ThreadDump;

/// The time from one step to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepTime {
    pub(super) elapsed: Duration,
    /// The part of it that counts: without that in which the process was stopped.
    pub(super) observed: Duration,
}

/// The number of incidents that are kept, unless more are ongoing.
const MAX_RECENT: usize = 32;
/// The number of incidents whose threads are kept.
const MAX_DUMPS: usize = 4;

/// The runtime and the kind of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConditionKey {
    pub(crate) runtime: Arc<str>,
    pub(crate) kind: IncidentKind,
}

/// A condition that holds, as of the latest step.
#[derive(Debug)]
struct TrackedCondition {
    condition: IncidentCondition,
    /// The time for which steps have found it, without that in which the process was stopped.
    observed: Duration,
    /// The incident that it has become.
    incident: Option<u64>,
    /// The actions that were due already, by their index.
    done: Vec<bool>,
}

/// A change that a step makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IncidentChange {
    Started {
        id: u64,
        condition: IncidentCondition,
    },
    /// These actions are due, by their index.
    Due {
        id: u64,
        condition: IncidentCondition,
        rules: Vec<usize>,
    },
    Ended {
        id: u64,
    },
}

/// The number of incidents of one kind in one runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IncidentCount {
    pub(crate) key: ConditionKey,
    pub(crate) count: u64,
    pub(crate) is_ongoing: bool,
}

/// The tracker of one watchdog.
#[derive(Debug)]
pub(crate) struct IncidentTracker {
    /// The duration after which a condition is an incident.
    starts_after: Duration,
    /// The durations after which each action is due.
    rules: Vec<Duration>,
    conditions: Vec<TrackedCondition>,
    stepped_at: Instant,
    latest_id: u64,
    recent: VecDeque<Incident>,
    counts: Vec<IncidentCount>,
}

impl TrackedCondition {
    /// Returns the time for which the condition has lasted for certain.
    fn certain(&self) -> Duration {
        self.condition.confirmed_age.map_or(self.observed, |confirmed| confirmed.min(self.observed))
    }
}

impl IncidentTracker {
    pub(super) fn new(starts_after: Duration, rules: Vec<Duration>) -> IncidentTracker {
        let starts_after = rules.iter().copied().fold(starts_after, Duration::min);
        IncidentTracker {
            starts_after,
            rules,
            conditions: Vec::new(),
            stepped_at: Instant::now(),
            latest_id: 0,
            recent: VecDeque::new(),
            counts: Vec::new(),
        }
    }

    /// Takes in the conditions that hold now. `time` is that since the previous step.
    pub(super) fn step(&mut self, time: StepTime, found: Vec<IncidentCondition>) -> Vec<IncidentChange> {
        self.stepped_at = Instant::now();
        let mut changes = Vec::new();
        let mut known = std::mem::take(&mut self.conditions);
        for condition in found {
            let tracked = match known.iter().position(|known| known.condition.is_same_kind(&condition)) {
                Some(index) => {
                    let known = known.swap_remove(index);
                    if condition.has_held_since(&known.condition, time.elapsed) {
                        // The moments of two steps may be further apart than those at which the
                        // ages were read. An age that has fallen says nothing about that.
                        let grown = condition.age.checked_sub(known.condition.age);
                        let observed = known.observed + grown.map_or(time.observed, |grown| grown.min(time.observed));
                        TrackedCondition { condition, observed, ..known }
                    } else {
                        // It was over in between, and may become another incident.
                        if let Some(id) = known.incident {
                            self.end(id, &mut changes);
                        }
                        self.new_condition(condition, time.observed)
                    }
                }
                None => self.new_condition(condition, time.observed),
            };
            self.conditions.push(tracked);
        }
        for gone in known {
            if let Some(id) = gone.incident {
                self.end(id, &mut changes);
            }
        }
        self.report_due(&mut changes);
        changes
    }

    /// Returns a condition that a step has found first, `observed` after the step before.
    fn new_condition(&self, condition: IncidentCondition, observed: Duration) -> TrackedCondition {
        TrackedCondition {
            observed: observed.min(condition.age),
            condition,
            incident: None,
            done: vec![false; self.rules.len()],
        }
    }

    /// Starts incidents, and reports the actions that are due.
    fn report_due(&mut self, changes: &mut Vec<IncidentChange>) {
        let mut started = Vec::new();
        for tracked in &mut self.conditions {
            let duration = tracked.certain();
            let id = match tracked.incident {
                Some(id) => id,
                None if duration >= self.starts_after => {
                    self.latest_id += 1;
                    tracked.incident = Some(self.latest_id);
                    started.push((self.latest_id, duration, tracked.condition.clone()));
                    changes.push(IncidentChange::Started { id: self.latest_id, condition: tracked.condition.clone() });
                    self.latest_id
                }
                None => continue,
            };
            if let Some(incident) = self.recent.iter_mut().find(|incident| incident.id == id) {
                incident.duration = duration;
                incident.reason.clone_from(&tracked.condition.reason);
            }
            let is_due = |&rule: &usize| !tracked.done[rule] && duration >= self.rules[rule];
            let rules: Vec<usize> = (0..self.rules.len()).filter(is_due).collect();
            if !rules.is_empty() {
                rules.iter().for_each(|&rule| tracked.done[rule] = true);
                changes.push(IncidentChange::Due { id, condition: tracked.condition.clone(), rules });
            }
        }
        for (id, duration, condition) in started {
            self.insert(id, duration, condition);
        }
    }

    fn insert(&mut self, id: u64, duration: Duration, condition: IncidentCondition) {
        let IncidentCondition { kind, runtime, age, reason, .. } = condition;
        let key = ConditionKey { runtime: runtime.clone(), kind };
        match self.counts.iter_mut().find(|count| count.key == key) {
            Some(count) => (count.count, count.is_ongoing) = (count.count + 1, true),
            None => self.counts.push(IncidentCount { key, count: 1, is_ongoing: true }),
        }
        // One that is ongoing is kept: it has actions due, and an end. Their number is bounded by
        // those of runtimes and kinds.
        let is_over = |incident: &Incident| incident.phase == Phase::Resolved;
        while self.recent.len() >= MAX_RECENT
            && let Some(oldest) = self.recent.iter().position(is_over)
        {
            self.recent.remove(oldest);
        }
        let started_at = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let phase = Phase::Ongoing;
        self.recent.push_back(Incident {
            id,
            kind,
            runtime,
            phase,
            started_at,
            duration,
            reason,
            stalls: Vec::new(),
            threads: None,
        });
    }

    fn end(&mut self, id: u64, changes: &mut Vec<IncidentChange>) {
        changes.push(IncidentChange::Ended { id });
        let Some(incident) = self.recent.iter_mut().find(|incident| incident.id == id) else { return };
        incident.phase = Phase::Resolved;
        let key = ConditionKey { runtime: incident.runtime.clone(), kind: incident.kind };
        if let Some(count) = self.counts.iter_mut().find(|count| count.key == key) {
            count.is_ongoing = false;
        }
    }

    /// Returns how long the steps have found a condition that holds at the moment `now` or later,
    /// without time in which the process was stopped. `None` if the latest step has not found it.
    pub(crate) fn observed(&self, condition: &IncidentCondition, now: Instant) -> Option<Duration> {
        let known = self.conditions.iter().find(|known| known.condition.is_same_kind(condition))?;
        let elapsed = now.saturating_duration_since(self.stepped_at);
        condition.has_held_since(&known.condition, elapsed).then_some(known.observed)
    }

    /// Returns the time until an incident starts or an action is due at the earliest. `None` if no
    /// condition holds.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let of_condition = |tracked: &TrackedCondition| {
            let duration = tracked.observed;
            let start = tracked.incident.is_none().then_some(self.starts_after);
            let rules = self.rules.iter().zip(&tracked.done).filter(|(_, done)| !**done).map(|(after, _)| *after);
            rules.chain(start).map(|after| after.saturating_sub(duration)).min()
        };
        self.conditions.iter().filter_map(of_condition).min()
    }

    /// Returns whether an incident would start or an action be due if a reading found that its
    /// condition still holds.
    pub(super) fn awaits_confirmation(&self) -> bool {
        let rules = || self.rules.iter().copied().enumerate();
        self.conditions.iter().any(|tracked| {
            let is_reached = |after: Duration| tracked.certain() < after && tracked.observed >= after;
            let is_rule_reached = || rules().any(|(rule, after)| !tracked.done[rule] && is_reached(after));
            tracked.incident.is_none() && is_reached(self.starts_after) || is_rule_reached()
        })
    }

    pub(super) fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Sets the stalls of an incident, and returns it.
    pub(super) fn set_stalls(&mut self, id: u64, stalls: Vec<Stall>) -> Option<Incident> {
        let incident = self.recent.iter_mut().find(|incident| incident.id == id)?;
        incident.stalls = stalls;
        Some(incident.clone())
    }

    /// Sets the threads of the process during an incident. Only the latest are kept.
    pub(super) fn set_threads(&mut self, id: u64, threads: Arc<ThreadDump>) {
        let Some(index) = self.recent.iter().position(|incident| incident.id == id) else { return };
        self.recent[index].threads = Some(threads);
        let with_threads = self.recent.iter_mut().rev().filter(|incident| incident.threads.is_some());
        with_threads.skip(MAX_DUMPS).for_each(|incident| incident.threads = None);
    }

    pub(super) fn incident(&self, id: u64) -> Option<Incident> {
        self.recent.iter().find(|incident| incident.id == id).cloned()
    }

    /// Returns the latest incidents, the most recent one last.
    pub(crate) fn recent(&self) -> Vec<Incident> {
        self.recent.iter().cloned().collect()
    }

    /// Returns the numbers of incidents so far.
    pub(crate) fn counts(&self) -> &[IncidentCount] {
        &self.counts
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
