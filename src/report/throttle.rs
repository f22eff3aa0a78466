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

/// A token bucket for each key, and a count of what it suppressed. The caller bounds the number of
/// keys.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    keys: HashMap<K, Limited>,
}

impl<K: Copy + Eq + Hash> Throttle<K> {
    pub(crate) fn new() -> Throttle<K> {
        Throttle { keys: HashMap::new() }
    }

    /// Admits one line at `now`, and returns the number of lines suppressed since the previous one.
    /// If the limit is reached, the line is counted as suppressed.
    pub(crate) fn admit(&mut self, key: K, now: Duration) -> Result<u64, RefusedLine<K>> {
        let limited = self.limited(key, now);
        if !limited.bucket.take(now) {
            limited.suppressed = limited.suppressed.saturating_add(1);
            return Err(RefusedLine { key, admitted: limited.admitted });
        }
        Ok(limited.count_admitted())
    }

    /// Tries a refused line again, under the key of the first try. If it is admitted now, it no
    /// longer counts as suppressed. If it is refused again, it is not counted again.
    pub(crate) fn retry(&mut self, refusal: RefusedLine<K>, now: Duration) -> Result<u64, RefusedLine<K>> {
        let limited = self.limited(refusal.key, now);
        if !limited.bucket.take(now) {
            return Err(refusal);
        }
        // A line that was admitted after the refusal has reported it already.
        if limited.admitted == refusal.admitted {
            limited.suppressed = limited.suppressed.saturating_sub(1);
        }
        Ok(limited.count_admitted())
    }

    fn limited(&mut self, key: K, now: Duration) -> &mut Limited {
        let new = || Limited { bucket: TokenBucket::new(LOG_LINES, now), suppressed: 0, admitted: 0 };
        self.keys.entry(key).or_insert_with(new)
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
        let refusal = throttle.retry(refusal, INTERVAL / 2).unwrap_err();
        assert_eq!(throttle.retry(refusal, INTERVAL).unwrap(), 0);
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
        assert_eq!(throttle.retry(reported, 2 * INTERVAL).unwrap(), 1, "the line that was refused last");
    }
}
