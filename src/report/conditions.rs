//! The store of the conditions of whole runtimes: the ongoing ones, and the totals. The watchdog
//! thread writes it, any thread reads it.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::condition::{Condition, ConditionChange, ConditionKind};
use crate::model::id::{ConditionId, RuntimeId};
use crate::model::stall::Phase;
use crate::model::time::Nanos;

/// The totals of one kind of condition of one runtime. They never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConditionTotals {
    /// The number of conditions that have started.
    pub(crate) count: u64,
    /// The time that they have lasted.
    pub(crate) time: Nanos,
    /// The number of times that a worker was woken to end one.
    pub(crate) rescues: u64,
}

/// An ongoing condition.
#[derive(Clone, Debug)]
pub(crate) struct OngoingCondition {
    pub(crate) id: ConditionId,
    pub(crate) runtime: RuntimeId,
    pub(crate) condition: Condition,
    /// The moment at which `condition.duration` was measured.
    at: Nanos,
    /// The part of the duration that is in the totals.
    accrued: Nanos,
}

/// An ongoing condition as of a moment.
#[derive(Clone, Debug)]
pub(crate) struct ConditionAge {
    pub(crate) condition: Condition,
    /// The duration of the condition at the latest check that found it. It may have ended since.
    pub(crate) confirmed: Duration,
}

impl OngoingCondition {
    /// Returns the duration at the moment `now`.
    fn duration(&self, now: Nanos) -> Nanos {
        Nanos::from(self.condition.duration) + now.saturating_sub(self.at)
    }
}

/// The conditions of the runtimes of one watchdog. There is at most one of each kind and runtime at
/// a time.
#[derive(Debug, Default)]
pub(crate) struct ConditionStore {
    ongoing: Vec<OngoingCondition>,
    totals: HashMap<(RuntimeId, ConditionKind), ConditionTotals>,
}

impl ConditionStore {
    /// Records a change. Returns whether it is to be reported: the condition has started or ended,
    /// or a worker was woken to end it.
    pub(super) fn record(&mut self, change: &mut ConditionChange) -> bool {
        let ConditionChange { id, runtime, at, condition } = change;
        let totals = self.totals.entry((*runtime, condition.kind)).or_default();
        let position = self.ongoing.iter().position(|ongoing| ongoing.id == *id);
        let accrued = position.map_or(Nanos::ZERO, |index| self.ongoing[index].accrued);
        let rescues = position.map_or(0, |index| self.ongoing[index].condition.rescues);
        if condition.stall_summary.is_none() {
            // The stall is over.
            condition.stall_summary = position.and_then(|index| self.ongoing[index].condition.stall_summary.clone());
        }
        let duration = Nanos::from(condition.duration);
        totals.count += u64::from(position.is_none());
        totals.rescues += condition.rescues.saturating_sub(rescues);
        totals.time += duration.saturating_sub(accrued);
        let has_ended = condition.phase == Phase::Resolved;
        let changed = OngoingCondition {
            id: *id,
            runtime: *runtime,
            condition: condition.clone(),
            at: *at,
            accrued: accrued.max(duration),
        };
        match position {
            Some(index) if has_ended => drop(self.ongoing.swap_remove(index)),
            Some(index) => self.ongoing[index] = changed,
            None if has_ended => {}
            None => self.ongoing.push(changed),
        }
        position.is_none() || has_ended || condition.rescues != rescues
    }

    /// Returns the ongoing conditions at the moment `now`: the oldest first.
    pub(crate) fn ongoing(&self, now: Nanos) -> Vec<ConditionAge> {
        let mut ongoing: Vec<&OngoingCondition> = self.ongoing.iter().collect();
        ongoing.sort_unstable_by_key(|ongoing| ongoing.id);
        let at_now = |ongoing: &OngoingCondition| ConditionAge {
            condition: Condition { duration: ongoing.duration(now).to_duration(), ..ongoing.condition.clone() },
            confirmed: ongoing.condition.duration,
        };
        ongoing.into_iter().map(at_now).collect()
    }

    /// Returns whether a condition of this kind is ongoing in a runtime.
    pub(crate) fn is_ongoing(&self, runtime: RuntimeId, kind: ConditionKind) -> bool {
        self.ongoing.iter().any(|ongoing| ongoing.runtime == runtime && ongoing.condition.kind == kind)
    }

    /// Returns the totals of a runtime and a kind at the moment `now`, with the time of an ongoing
    /// condition until then.
    pub(crate) fn totals(&mut self, runtime: RuntimeId, kind: ConditionKind, now: Nanos) -> ConditionTotals {
        let totals = self.totals.entry((runtime, kind)).or_default();
        let is_it = |ongoing: &&mut OngoingCondition| ongoing.runtime == runtime && ongoing.condition.kind == kind;
        if let Some(ongoing) = self.ongoing.iter_mut().find(is_it) {
            let duration = ongoing.duration(now);
            totals.time += duration.saturating_sub(ongoing.accrued);
            ongoing.accrued = ongoing.accrued.max(duration);
        }
        *totals
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const MS: u64 = 1_000_000;

    fn change(phase: Phase, duration: u64, at: u64, rescues: u64) -> ConditionChange {
        let condition = Condition {
            kind: ConditionKind::DriverUnattended,
            phase,
            runtime: "main".into(),
            started_at: SystemTime::UNIX_EPOCH,
            duration: Nanos(duration * MS).to_duration(),
            stall: Some(7),
            stall_summary: None,
            rescues,
            blocking_pool: None,
            remedy: "",
        };
        ConditionChange { id: ConditionId(1), runtime: RuntimeId(1), at: Nanos(at * MS), condition }
    }

    #[test]
    fn totals_include_the_ongoing_condition_and_never_decrease() {
        let mut store = ConditionStore::default();
        let totals = |store: &mut ConditionStore, at: u64| {
            let totals = store.totals(RuntimeId(1), ConditionKind::DriverUnattended, Nanos(at * MS));
            (totals.count, totals.time.0 / MS, totals.rescues)
        };
        assert_eq!(totals(&mut store, 100), (0, 0, 0));
        assert!(store.record(&mut change(Phase::Ongoing, 5, 100, 0)), "it has started");
        assert_eq!(totals(&mut store, 120), (1, 25, 0));
        let ongoing = store.ongoing(Nanos(130 * MS)).remove(0);
        assert_eq!(ongoing.condition.duration, Nanos(35 * MS).to_duration());
        assert_eq!(ongoing.confirmed, Nanos(5 * MS).to_duration(), "the latest check was then");
        assert!(!store.record(&mut change(Phase::Ongoing, 15, 110, 0)), "it only lasts");
        assert_eq!(totals(&mut store, 115), (1, 25, 0));
        assert!(store.record(&mut change(Phase::Ongoing, 26, 121, 1)), "a worker was woken");
        assert!(store.is_ongoing(RuntimeId(1), ConditionKind::DriverUnattended));
        assert!(store.record(&mut change(Phase::Resolved, 30, 125, 1)));
        assert_eq!(totals(&mut store, 500), (1, 30, 1));
        assert!(store.ongoing(Nanos(500 * MS)).is_empty());
        assert!(!store.is_ongoing(RuntimeId(1), ConditionKind::DriverUnattended));
    }
}
