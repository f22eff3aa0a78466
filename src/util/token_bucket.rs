//! A [token bucket](https://en.wikipedia.org/wiki/Token_bucket): a burst, then a steady rate.

use crate::model::time::Nanos;

/// How many may pass at once, and how often one more may pass after that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    pub(crate) burst: u32,
    pub(crate) interval: Nanos,
}

/// The bucket of one [`RateLimit`], which is full at first.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    limit: RateLimit,
    tokens: u32,
    refilled: Nanos,
}

impl TokenBucket {
    pub(crate) fn new(limit: RateLimit, now: Nanos) -> TokenBucket {
        TokenBucket { limit, tokens: limit.burst, refilled: now }
    }

    /// Takes a token, and returns whether there was one.
    pub(crate) fn take(&mut self, now: Nanos) -> bool {
        self.take_above(0, now)
    }

    /// Takes a token if more than `reserve` are left, and returns whether it did.
    pub(crate) fn take_above(&mut self, reserve: u32, now: Nanos) -> bool {
        let interval = self.limit.interval.0.max(1);
        let earned = now.saturating_sub(self.refilled).0 / interval;
        if earned > 0 {
            let earned_tokens = earned.min(u64::from(self.limit.burst)) as u32;
            self.tokens = self.tokens.saturating_add(earned_tokens).min(self.limit.burst);
            self.refilled += Nanos(earned.saturating_mul(interval));
        }
        let is_admitted = self.tokens > reserve;
        self.tokens -= u32::from(is_admitted);
        is_admitted
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 3, interval: Nanos(10) };

    fn admitted(bucket: &mut TokenBucket, times: impl IntoIterator<Item = u64>) -> usize {
        times.into_iter().filter(|now| bucket.take(Nanos(*now))).count()
    }

    #[test]
    fn admits_a_burst_and_then_one_each_interval() {
        let mut bucket = TokenBucket::new(LIMIT, Nanos(100));
        assert_eq!(admitted(&mut bucket, [100; 10]), 3);
        assert_eq!(admitted(&mut bucket, 101..110), 0);
        assert_eq!(admitted(&mut bucket, 110..150), 4, "no part of an interval is lost");
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let mut bucket = TokenBucket::new(LIMIT, Nanos(0));
        assert_eq!(admitted(&mut bucket, [0; 10]), 3);
        assert_eq!(admitted(&mut bucket, [u64::MAX; 10]), 3);
        assert_eq!(admitted(&mut bucket, [5]), 0, "a clock that goes back is harmless");
    }

    #[test]
    fn a_reserve_is_left_to_others() {
        let mut bucket = TokenBucket::new(LIMIT, Nanos(0));
        assert!(bucket.take_above(2, Nanos(0)));
        assert!(!bucket.take_above(2, Nanos(0)) && bucket.take(Nanos(0)));
    }
}
