//! How often one place may be told in the log: a burst, then a rate. Pure.

use std::collections::HashMap;
use std::hash::Hash;

/// Stalls of one place told without waiting.
pub(crate) const BURST: u32 = 5;
/// After a burst, one more is told each this many nanoseconds.
pub(crate) const EVERY: u64 = 10_000_000_000;

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: u64,
    suppressed: u64,
}

/// One bucket a key; keys are bounded by their caller.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Throttle<K> {
    pub(crate) fn new() -> Throttle<K> {
        Throttle { buckets: HashMap::new() }
    }

    /// Whether one may be told at `now` (nanoseconds): `Some` with the number that was not told since the last one, or `None`,
    /// and it is counted as not told if `count` says so (not again, for one that was asked for before).
    pub(crate) fn admit(&mut self, key: K, now: u64, count: bool) -> Option<u64> {
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, refilled: now, suppressed: 0 });
        let earned = now.saturating_sub(bucket.refilled) / EVERY;
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned.min(u64::from(BURST)) as u32).min(BURST);
            bucket.refilled += earned * EVERY;
        }
        if bucket.tokens == 0 {
            bucket.suppressed = bucket.suppressed.saturating_add(u64::from(count));
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate_and_the_rest_is_told_next() {
        let mut throttle = Throttle::new();
        let mut told = Vec::new();
        for i in 0..100 {
            told.push(throttle.admit("a", i * EVERY / 20, true));
        }
        assert!(told[..BURST as usize].iter().all(|t| *t == Some(0)));
        let after: Vec<_> = told[BURST as usize..].iter().flatten().copied().collect();
        assert_eq!(after, [15, 19, 19, 19], "one in twenty, and the others are accounted for");
        let tail = told.iter().rev().take_while(|t| t.is_none()).count() as u64;
        assert_eq!(after.iter().sum::<u64>() + tail + told.iter().flatten().count() as u64, 100);
        assert_eq!(throttle.admit("b", 0, true), Some(0), "another place has a bucket of its own");
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let mut throttle = Throttle::new();
        for _ in 0..20 {
            throttle.admit((), 0, true);
        }
        let later = EVERY * 1_000;
        let told = (0..20).filter(|_| throttle.admit((), later, true).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert_eq!(throttle.admit((), 0, true), None, "a clock that goes back breaks nothing");
    }
}
