//! A [token bucket](https://en.wikipedia.org/wiki/Token_bucket): a burst, then a steady rate.

use std::time::Duration;

/// How many may pass at once, and how often one more may pass after that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    pub(crate) burst: u32,
    pub(crate) interval: Duration,
}

/// The bucket of one [`RateLimit`], which is full at first.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    limit: RateLimit,
    tokens: u32,
    /// The moment up to which tokens were earned, as the time since any fixed moment.
    refilled: Duration,
}

impl TokenBucket {
    pub(crate) fn new(limit: RateLimit, now: Duration) -> TokenBucket {
        TokenBucket { limit, tokens: limit.burst, refilled: now }
    }

    /// Takes a token, and returns whether there was one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.take_above(0, now)
    }

    /// Takes a token if more than `reserve` are left, and returns whether it did.
    pub(crate) fn take_above(&mut self, reserve: u32, now: Duration) -> bool {
        self.refill(now);
        let is_admitted = self.tokens > reserve;
        self.tokens -= u32::from(is_admitted);
        is_admitted
    }

    /// Returns whether the bucket is full: it behaves as a new one.
    pub(crate) fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens == self.limit.burst
    }

    fn refill(&mut self, now: Duration) {
        let interval = self.limit.interval.as_nanos().max(1);
        let earned = now.saturating_sub(self.refilled).as_nanos() / interval;
        if earned > 0 {
            let earned_tokens = earned.min(u128::from(self.limit.burst)) as u32;
            self.tokens = self.tokens.saturating_add(earned_tokens).min(self.limit.burst);
            self.refilled += duration_of(earned * interval);
        }
    }
}

/// Returns a number of nanoseconds, which is at most that of some `Duration`, as a `Duration`.
fn duration_of(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    Duration::new((nanos / SECOND) as u64, (nanos % SECOND) as u32)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 3, interval: Duration::from_nanos(10) };

    fn admitted(bucket: &mut TokenBucket, times: impl IntoIterator<Item = u64>) -> usize {
        times.into_iter().filter(|now| bucket.take(Duration::from_nanos(*now))).count()
    }

    #[test]
    fn admits_a_burst_and_then_one_each_interval() {
        let mut bucket = TokenBucket::new(LIMIT, Duration::from_nanos(100));
        assert_eq!(admitted(&mut bucket, [100; 10]), 3);
        assert_eq!(admitted(&mut bucket, 101..110), 0);
        assert_eq!(admitted(&mut bucket, 110..150), 4, "no part of an interval is lost");
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let mut bucket = TokenBucket::new(LIMIT, Duration::ZERO);
        assert_eq!(admitted(&mut bucket, [0; 10]), 3);
        assert_eq!(admitted(&mut bucket, [u64::MAX; 10]), 3);
        assert_eq!(admitted(&mut bucket, [5]), 0, "a clock that goes back is harmless");
    }

    #[test]
    fn a_reserve_is_left_to_others() {
        let mut bucket = TokenBucket::new(LIMIT, Duration::ZERO);
        assert!(bucket.take_above(2, Duration::ZERO));
        assert!(!bucket.take_above(2, Duration::ZERO) && bucket.take(Duration::ZERO));
    }
}
