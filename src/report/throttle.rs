//! The rate limit of log lines, a token bucket for each key. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::util::token_bucket::{RateLimit, TokenBucket};

/// The rate limit of the log lines of one key: 5 at once, then one each 10 seconds.
pub(super) const LOG_LINES: RateLimit = RateLimit { burst: 5, interval: Duration::from_secs(10) };

#[derive(Debug)]
struct Limited {
    bucket: TokenBucket,
    /// The refused lines that the next admitted line reports.
    suppressed: u64,
    /// The number of admitted lines. A refusal of an earlier one is no longer in `suppressed`.
    admitted: u64,
}

impl Limited {
    /// Counts an admitted line, and returns the number of lines suppressed since the previous one.
    fn count_admitted(&mut self) -> u64 {
        self.admitted += 1;
        std::mem::take(&mut self.suppressed)
    }
}

/// A line that was refused, and is counted as suppressed.
#[derive(Debug)]
pub(crate) struct RefusedLine<K> {
    key: K,
    /// The number of lines of the key that had been admitted before.
    admitted: u64,
}

impl<K> RefusedLine<K> {
    /// Returns the key under which the line was refused.
    pub(crate) fn key(&self) -> &K {
        &self.key
    }
}

/// The largest number of keys that have a bucket of their own.
const MAX_KEYS: usize = 1_024;
/// The least time between two searches for keys that have become idle.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// A token bucket for each key, and a count of what it suppressed.
///
/// The number of keys is bounded. A key whose bucket is full again is forgotten when the room is
/// needed. When all keys are in use, further ones share one bucket.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    keys: HashMap<K, Limited>,
    /// The bucket of all keys that found no room.
    shared: Option<Limited>,
    /// The earliest moment of the next search for idle keys.
    next_search: Duration,
}

impl<K: Clone + Eq + Hash> Throttle<K> {
    pub(crate) fn new() -> Throttle<K> {
        Throttle { keys: HashMap::new(), shared: None, next_search: Duration::ZERO }
    }

    /// Admits one line at `now`, and returns the number of lines suppressed since the previous one.
    /// If the limit is reached, the line is counted as suppressed.
    pub(crate) fn admit(&mut self, key: K, now: Duration) -> Result<u64, RefusedLine<K>> {
        let limited = self.limited(&key, now);
        if !limited.bucket.take(now) {
            limited.suppressed = limited.suppressed.saturating_add(1);
            return Err(RefusedLine { admitted: limited.admitted, key });
        }
        Ok(limited.count_admitted())
    }

    /// Tries a refused line again, under a key that may be another one by now. If it is admitted,
    /// it no longer counts as suppressed. If it is refused again, it is not counted again.
    pub(crate) fn retry(&mut self, refusal: RefusedLine<K>, key: K, now: Duration) -> Result<u64, RefusedLine<K>> {
        if !self.limited(&key, now).bucket.take(now) {
            return Err(refusal);
        }
        // A line that was admitted after the refusal has reported it already.
        let refused = self.limited(&refusal.key, now);
        if refused.admitted == refusal.admitted {
            refused.suppressed = refused.suppressed.saturating_sub(1);
        }
        Ok(self.limited(&key, now).count_admitted())
    }

    fn limited(&mut self, key: &K, now: Duration) -> &mut Limited {
        let new = || Limited { bucket: TokenBucket::new(LOG_LINES, now), suppressed: 0, admitted: 0 };
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(key) {
            self.forget_idle(now);
            if self.keys.len() >= MAX_KEYS {
                return self.shared.get_or_insert_with(new);
            }
        }
        self.keys.entry(key.clone()).or_insert_with(new)
    }

    /// Forgets the keys whose buckets are full, and with them the number of lines that were
    /// suppressed and would have been reported by the next line.
    fn forget_idle(&mut self, now: Duration) {
        if now < self.next_search {
            return;
        }
        self.next_search = now.saturating_add(SEARCH_INTERVAL);
        self.keys.retain(|_, limited| !limited.bucket.is_full(now));
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const BURST: usize = LOG_LINES.burst as usize;
    const INTERVAL: Duration = LOG_LINES.interval;

    #[test]
    fn a_burst_then_a_rate_and_the_next_line_has_the_number_of_the_suppressed() {
        let mut throttle = Throttle::new();
        let mut admitted = Vec::new();
        for i in 0..100 {
            admitted.push(throttle.admit("a", INTERVAL * i / 20).ok());
        }
        assert!(admitted[..BURST].iter().all(|line| *line == Some(0)));
        let after: Vec<_> = admitted[BURST..].iter().flatten().copied().collect();
        assert_eq!(after, [15, 19, 19, 19], "one in twenty, and the others are accounted for");
        let tail = admitted.iter().rev().take_while(|line| line.is_none()).count() as u64;
        assert_eq!(after.iter().sum::<u64>() + tail + admitted.iter().flatten().count() as u64, 100);
        assert_eq!(throttle.admit("b", Duration::ZERO).ok(), Some(0), "another key has a bucket of its own");
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let mut throttle = Throttle::new();
        for _ in 0..20 {
            let _ = throttle.admit((), Duration::ZERO);
        }
        let later = INTERVAL * 1_000;
        let admitted = (0..20).filter(|_| throttle.admit((), later).is_ok()).count();
        assert_eq!(admitted, BURST);
        assert!(throttle.admit((), Duration::ZERO).is_err(), "a clock that goes backwards is harmless");
    }

    #[test]
    fn a_line_does_not_report_its_own_refusal() {
        let mut throttle = Throttle::new();
        for _ in 0..BURST {
            throttle.admit((), Duration::ZERO).unwrap();
        }
        let refusal = throttle.admit((), Duration::ZERO).unwrap_err();
        let refusal = throttle.retry(refusal, (), INTERVAL / 2).unwrap_err();
        assert_eq!(throttle.retry(refusal, (), INTERVAL).unwrap(), 0);
    }

    #[test]
    fn a_refusal_that_was_reported_is_not_withdrawn() {
        let mut throttle = Throttle::new();
        for _ in 0..BURST {
            throttle.admit((), Duration::ZERO).unwrap();
        }
        let reported = throttle.admit((), Duration::ZERO).unwrap_err();
        assert_eq!(throttle.admit((), INTERVAL).unwrap(), 1, "the refused line");
        throttle.admit((), INTERVAL).unwrap_err();
        assert_eq!(throttle.retry(reported, (), 2 * INTERVAL).unwrap(), 1, "the line that was refused last");
    }

    /// A stall whose cause or location becomes known later is logged under the budget of these.
    #[test]
    fn a_refused_line_may_be_admitted_under_another_key() {
        let mut throttle = Throttle::new();
        for _ in 0..BURST {
            throttle.admit("a", Duration::ZERO).unwrap();
        }
        let refusal = throttle.admit("a", Duration::ZERO).unwrap_err();
        assert_eq!(throttle.retry(refusal, "b", Duration::ZERO).unwrap(), 0);
        assert_eq!(throttle.admit("a", INTERVAL).unwrap(), 0, "it is no longer suppressed");
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let mut throttle = Throttle::new();
        let admitted = (0..10 * MAX_KEYS).filter(|key| throttle.admit(*key, Duration::ZERO).is_ok()).count();
        assert_eq!((throttle.keys.len(), admitted), (MAX_KEYS, MAX_KEYS + BURST), "the others share one bucket");
        // A key in use keeps its bucket, and idle ones make room.
        let later = INTERVAL * LOG_LINES.burst;
        (0..BURST).for_each(|_| assert_eq!(throttle.admit(7, later).ok(), Some(0)));
        assert_eq!(throttle.admit(usize::MAX, later).ok(), Some(0));
        assert_eq!(throttle.keys.len(), 2);
        assert!(throttle.admit(7, later).is_err());
    }
}
