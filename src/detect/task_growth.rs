//! When to tell that the tasks of a place grow without end. Pure.

use std::collections::HashMap;
use std::hash::Hash;

use crate::util::backoff::next_doubling;

/// Places whose tasks are over the limit. Each is told when it is first seen there and at each doubling; it is told anew when
/// its tasks have been fewer than half of the limit meanwhile.
#[derive(Debug)]
pub(crate) struct TaskGrowthAlarm<K> {
    limit: u64,
    /// By place, the number at which it is told again.
    next: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash> TaskGrowthAlarm<K> {
    /// More than `limit` tasks are too many; `u64::MAX` never are.
    pub(crate) fn new(limit: u64) -> TaskGrowthAlarm<K> {
        TaskGrowthAlarm { limit, next: HashMap::new() }
    }

    /// Whether there can be anything to tell, or to forget, where no place has more than `most` tasks.
    pub(crate) fn may_change(&self, most: u64) -> bool {
        most > self.limit || !self.next.is_empty()
    }

    /// Which of these places to tell. A place that is not among them has no tasks.
    pub(crate) fn check(&mut self, alive: &HashMap<K, u64>) -> Vec<(K, u64)> {
        let few = self.limit.div_ceil(2);
        self.next.retain(|place, _| alive.get(place).is_some_and(|n| *n >= few));
        let mut told = Vec::new();
        for (&place, &n) in alive {
            if n > self.limit && n >= self.next.get(&place).copied().unwrap_or(0) {
                self.next.insert(place, next_doubling(self.limit, n));
                told.push((place, n));
            }
        }
        told
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// What is told of one place that has these numbers of tasks, look by look.
    fn told(limit: u64, numbers: &[u64]) -> Vec<u64> {
        let mut alarm = TaskGrowthAlarm::new(limit);
        let looks = numbers.iter().flat_map(|n| alarm.check(&HashMap::from([("a", *n)])));
        looks.map(|(_, n)| n).collect()
    }

    #[test]
    fn a_place_is_told_past_the_limit_and_at_each_doubling() {
        assert_eq!(told(100, &[0, 99, 100, 101, 150, 199, 200, 399, 401, 500, 799, 800]), [101, 200, 401, 800]);
        assert_eq!(told(100, &[1_000, 1_500, 1_599, 1_600]), [1_000, 1_600], "several at once are told as one");
        assert_eq!(told(1, &[1, 2, 3, 4, 7, 8]), [2, 4, 8]);
        assert_eq!(told(u64::MAX / 2, &[u64::MAX / 2 + 1, u64::MAX - 2]), [u64::MAX / 2 + 1]);
    }

    #[test]
    fn it_is_told_anew_when_it_was_well_below() {
        assert_eq!(told(100, &[101, 100, 50, 101, 99, 150]), [101], "around the limit is no news");
        assert_eq!(told(100, &[101, 49, 101]), [101, 101]);
        assert_eq!(told(100, &[900, 120, 700, 0, 120]), [900, 120]);
        assert_eq!(told(1, &[2, 1, 2, 0, 2]), [2, 2]);
    }

    #[test]
    fn places_are_told_apart_and_forgotten() {
        let mut alarm = TaskGrowthAlarm::new(10);
        assert!(!alarm.may_change(10) && alarm.may_change(11));
        let mut told = alarm.check(&HashMap::from([("a", 11), ("b", 30), ("c", 10)]));
        told.sort_unstable();
        assert_eq!(told, [("a", 11), ("b", 30)]);
        assert!(alarm.may_change(0), "their fall has to be seen");
        assert_eq!(alarm.check(&HashMap::from([("a", 12), ("c", 12)])), [("c", 12)]);
        assert!(alarm.check(&HashMap::new()).is_empty());
        assert!(!alarm.may_change(0));
    }

    #[test]
    fn switched_off_it_tells_nothing() {
        assert!(told(u64::MAX, &[u64::MAX, u64::MAX - 1]).is_empty());
        assert!(!TaskGrowthAlarm::<()>::new(u64::MAX).may_change(u64::MAX));
    }
}
