//! The limit of the time that readings of drivers take.

use crate::model::time::Nanos;

/// Readings take at most one part of this many of the time.
const PARTS: u64 = 33;

/// What a reading is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadingPurpose {
    /// To find a condition, or its end.
    Condition,
    /// To find out whether a probe may be sent.
    Probe,
}

/// A limit of the share of time that readings take, whatever they are made for: after each one, the
/// next has to wait for a multiple of the time that it took. Where readings are wanted for both
/// purposes, they take turns.
#[derive(Debug, Default)]
pub(crate) struct ReadingBudget {
    /// The moment from which on a reading may be made.
    next: Nanos,
    /// The purpose of the latest reading.
    latest: Option<ReadingPurpose>,
    /// True if a reading for the other purpose was denied since the latest reading.
    is_other_waiting: bool,
}

impl ReadingBudget {
    /// Returns the time that has to pass for a reading that took `cost`.
    pub(crate) fn time_for(cost: Nanos) -> Nanos {
        PARTS * cost
    }

    /// Returns whether a reading may be made for this purpose.
    ///
    /// A purpose that had the latest reading leaves the next one to the other that was denied. It
    /// does so once: the other one may no longer need a reading.
    pub(crate) fn allows(&mut self, purpose: ReadingPurpose, now: Nanos) -> bool {
        let had_latest = self.latest == Some(purpose);
        if !self.is_affordable(now) {
            self.is_other_waiting |= !had_latest;
            return false;
        }
        !(had_latest && std::mem::take(&mut self.is_other_waiting))
    }

    /// Returns whether the time for the readings before has passed.
    pub(crate) fn is_affordable(&self, now: Nanos) -> bool {
        now >= self.next
    }

    /// Returns the time until a reading is affordable.
    pub(crate) fn time_left(&self, now: Nanos) -> Nanos {
        self.next.saturating_sub(now)
    }

    /// Records a reading.
    pub(crate) fn spend(&mut self, purpose: ReadingPurpose, cost: Nanos, now: Nanos) {
        self.next = self.next.max(now) + ReadingBudget::time_for(cost);
        self.latest = Some(purpose);
        self.is_other_waiting = false;
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::ReadingPurpose::{Condition, Probe};
    use super::*;

    const COST: Nanos = Nanos::from_millis(1);

    #[test]
    fn readings_of_several_drivers_share_the_budget() {
        let (mut budget, start) = (ReadingBudget::default(), Nanos::from_secs(1));
        assert!(budget.allows(Condition, start));
        for _ in 0..4 {
            budget.spend(Condition, COST, start);
        }
        let end = start + Nanos::from_millis(4 * PARTS);
        assert!(!budget.allows(Condition, end.saturating_sub(Nanos(1))) && budget.allows(Condition, end));
        assert_eq!(budget.time_left(start), Nanos::from_millis(4 * PARTS));
        assert_eq!(budget.time_left(end), Nanos::ZERO);
    }

    /// Returns the readings of each purpose, where the first one asks first in each scan.
    fn readings(order: [ReadingPurpose; 2], wanted: impl Fn(ReadingPurpose, u64) -> bool) -> [usize; 2] {
        let mut budget = ReadingBudget::default();
        let mut made = [0; 2];
        for scan in 0..10_000 {
            let now = Nanos::from_millis(10 * scan);
            for (index, purpose) in order.into_iter().enumerate() {
                if wanted(purpose, scan) && budget.allows(purpose, now) {
                    budget.spend(purpose, COST, now);
                    made[index] += 1;
                }
            }
        }
        made
    }

    #[test]
    fn readings_for_both_purposes_take_turns() {
        for order in [[Condition, Probe], [Probe, Condition]] {
            let made = readings(order, |_, _| true);
            assert!(made[0].abs_diff(made[1]) <= 1 && made[0] > 1_000, "{order:?} {made:?}");
        }
    }

    #[test]
    fn a_purpose_that_no_longer_needs_a_reading_keeps_none_from_the_other() {
        for order in [[Condition, Probe], [Probe, Condition]] {
            let made = readings(order, |purpose, scan| purpose == order[0] || scan == 1);
            assert!(made[0] > 2_000 && made[1] <= 1, "{order:?} {made:?}");
        }
    }
}
