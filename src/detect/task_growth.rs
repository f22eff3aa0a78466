//! The alarm for sites whose number of tasks keeps growing. Pure.

use std::collections::HashMap;
use std::hash::Hash;

use crate::util::backoff::next_doubling;

/// The sites whose tasks are over the limit. Each is reported when it is first over it and at each
/// doubling, and again after its tasks have been fewer than half of the limit.
#[derive(Debug)]
pub(crate) struct TaskGrowthAlarm<K> {
    limit: u64,
    /// The number of tasks at which a site is reported again.
    next: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash> TaskGrowthAlarm<K> {
    /// An alarm for more than `limit` tasks; `u64::MAX` switches it off.
    pub(crate) fn new(limit: u64) -> TaskGrowthAlarm<K> {
        TaskGrowthAlarm { limit, next: HashMap::new() }
    }

    /// Returns whether a check can change anything, where no site has more than `most` tasks.
    pub(crate) fn may_change(&self, most: u64) -> bool {
        most > self.limit || !self.next.is_empty()
    }

    /// Returns the sites to report. A site that is not in `alive` has no tasks.
    pub(crate) fn check(&mut self, alive: &HashMap<K, u64>) -> Vec<(K, u64)> {
        let few = self.limit.div_ceil(2);
        self.next.retain(|site, _| alive.get(site).is_some_and(|n| *n >= few));
        let mut reported = Vec::new();
        for (&site, &n) in alive {
            if n > self.limit && n >= self.next.get(&site).copied().unwrap_or(0) {
                self.next.insert(site, next_doubling(self.limit, n));
                reported.push((site, n));
            }
        }
        reported
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Returns what is reported of one site that has these numbers of tasks, check by check.
    fn reported(limit: u64, numbers: &[u64]) -> Vec<u64> {
        let mut alarm = TaskGrowthAlarm::new(limit);
        let checks = numbers.iter().flat_map(|n| alarm.check(&HashMap::from([("a", *n)])));
        checks.map(|(_, n)| n).collect()
    }

    #[test]
    fn a_site_is_reported_past_the_limit_and_at_each_doubling() {
        assert_eq!(reported(100, &[0, 99, 100, 101, 150, 199, 200, 399, 401, 500, 799, 800]), [101, 200, 401, 800]);
        assert_eq!(reported(100, &[1_000, 1_500, 1_599, 1_600]), [1_000, 1_600], "several at once are reported as one");
        assert_eq!(reported(1, &[1, 2, 3, 4, 7, 8]), [2, 4, 8]);
        assert_eq!(reported(u64::MAX / 2, &[u64::MAX / 2 + 1, u64::MAX - 2]), [u64::MAX / 2 + 1]);
    }

    #[test]
    fn a_site_is_reported_anew_after_it_was_well_below() {
        assert_eq!(reported(100, &[101, 100, 50, 101, 99, 150]), [101], "around the limit is no news");
        assert_eq!(reported(100, &[101, 49, 101]), [101, 101]);
        assert_eq!(reported(100, &[900, 120, 700, 0, 120]), [900, 120]);
        assert_eq!(reported(1, &[2, 1, 2, 0, 2]), [2, 2]);
    }

    #[test]
    fn sites_are_independent_and_forgotten() {
        let mut alarm = TaskGrowthAlarm::new(10);
        assert!(!alarm.may_change(10) && alarm.may_change(11));
        let mut reported = alarm.check(&HashMap::from([("a", 11), ("b", 30), ("c", 10)]));
        reported.sort_unstable();
        assert_eq!(reported, [("a", 11), ("b", 30)]);
        assert!(alarm.may_change(0), "their fall has to be seen");
        assert_eq!(alarm.check(&HashMap::from([("a", 12), ("c", 12)])), [("c", 12)]);
        assert!(alarm.check(&HashMap::new()).is_empty());
        assert!(!alarm.may_change(0));
    }

    #[test]
    fn switched_off_it_reports_nothing() {
        assert!(reported(u64::MAX, &[u64::MAX, u64::MAX - 1]).is_empty());
        assert!(!TaskGrowthAlarm::<()>::new(u64::MAX).may_change(u64::MAX));
    }
}
