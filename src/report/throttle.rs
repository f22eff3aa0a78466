//! The rate limit of log lines, a token bucket for each key. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::util::token_bucket::{RateLimit, TokenBucket};

/// The rate limit of the log lines of one key: 5 at once, then one each 10 seconds.
const LOG_LINES: RateLimit = RateLimit { burst: 5, interval: Duration::from_secs(10) };

#[derive(Debug)]
struct Limited {
    bucket: TokenBucket,
    suppressed: u64,
}

/// A token bucket for each key, and a count of what it suppressed. The caller bounds the number of
/// keys.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    keys: HashMap<K, Limited>,
}

impl<K: Eq + Hash> Throttle<K> {
    pub(crate) fn new() -> Throttle<K> {
        Throttle { keys: HashMap::new() }
    }

    /// Admits one line at `now`, and returns the number of lines suppressed since the previous one;
    /// or `None` if the limit is reached. Then the line is counted as suppressed if `count` is set,
    /// which the caller leaves out for a line that was counted before.
    pub(crate) fn admit(&mut self, key: K, now: Duration, count: bool) -> Option<u64> {
        let new = || Limited { bucket: TokenBucket::new(LOG_LINES, now), suppressed: 0 };
        let limited = self.keys.entry(key).or_insert_with(new);
        if !limited.bucket.take(now) {
            limited.suppressed = limited.suppressed.saturating_add(u64::from(count));
            return None;
        }
        Some(std::mem::take(&mut limited.suppressed))
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
            admitted.push(throttle.admit("a", INTERVAL * i / 20, true));
        }
        assert!(admitted[..BURST].iter().all(|line| *line == Some(0)));
        let after: Vec<_> = admitted[BURST..].iter().flatten().copied().collect();
        assert_eq!(after, [15, 19, 19, 19], "one in twenty, and the others are accounted for");
        let tail = admitted.iter().rev().take_while(|line| line.is_none()).count() as u64;
        assert_eq!(after.iter().sum::<u64>() + tail + admitted.iter().flatten().count() as u64, 100);
        assert_eq!(throttle.admit("b", Duration::ZERO, true), Some(0), "another key has a bucket of its own");
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let mut throttle = Throttle::new();
        for _ in 0..20 {
            throttle.admit((), Duration::ZERO, true);
        }
        let later = INTERVAL * 1_000;
        let admitted = (0..20).filter(|_| throttle.admit((), later, true).is_some()).count();
        assert_eq!(admitted, BURST);
        assert_eq!(throttle.admit((), Duration::ZERO, true), None, "a clock that goes backwards is harmless");
    }
}
