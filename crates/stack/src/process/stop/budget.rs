use std::time::{Duration, Instant};

/// The most time that may be spent at once after a long time without a stop.
const BURST: Duration = Duration::from_millis(1);

/// The share of a process' time for which its threads may be stopped: a [token bucket] of time.
///
/// A stop's length is known only at its end. So a stop is admitted as long as time is left, and the
/// next one waits until the time that was spent is within the share again.
///
/// ```
/// use pollwatch_stack::StopBudget;
/// use std::time::{Duration, Instant};
///
/// let (mut budget, start) = (StopBudget::percent(1), Instant::now());
/// assert!(budget.admits(start));
/// budget.spend(start, Duration::from_millis(3));
/// assert!(!budget.admits(start + Duration::from_millis(100)));
/// assert!(budget.admits(start + Duration::from_millis(300)));
/// ```
///
/// [token bucket]: https://en.wikipedia.org/wiki/Token_bucket
#[derive(Clone, Copy, Debug)]
pub struct StopBudget {
    percent: u32,
    /// The time that was spent and is not within the share yet.
    debt: Duration,
    updated: Option<Instant>,
}

impl StopBudget {
    /// Makes a budget of a share of the time, in percent: at most 100.
    pub fn percent(percent: u32) -> StopBudget {
        StopBudget { percent: percent.min(100), debt: Duration::ZERO, updated: None }
    }

    /// Returns a budget of a multiple of this share, of which nothing is spent.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(super) fn times(self, factor: u32) -> StopBudget {
        StopBudget::percent(self.percent.saturating_mul(factor))
    }

    /// Returns whether a thread may be stopped now.
    pub fn admits(&mut self, now: Instant) -> bool {
        let since = self.updated.map_or(Duration::ZERO, |updated| now.saturating_duration_since(updated));
        self.debt = self.debt.saturating_sub(since * self.percent / 100);
        self.updated = Some(now);
        self.percent > 0 && self.debt < BURST
    }

    /// Takes the length of a stop out of the budget.
    pub fn spend(&mut self, now: Instant, stopped: Duration) {
        self.admits(now);
        self.debt += stopped;
    }
}

impl Default for StopBudget {
    fn default() -> StopBudget {
        StopBudget::percent(1)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_share_holds_over_any_time() {
        let start = Instant::now();
        let mut budget = StopBudget::percent(1);
        let (mut spent, mut stop) = (Duration::ZERO, 0);
        for step in 0..100_000u32 {
            let now = start + Duration::from_micros(100) * step;
            if budget.admits(now) {
                stop = (stop + 137) % 900;
                let stopped = Duration::from_micros(stop);
                budget.spend(now, stopped);
                spent += stopped;
            }
            let limit = (now - start) / 100 + BURST + Duration::from_micros(900);
            assert!(spent <= limit, "{spent:?} {limit:?}");
        }
        assert!(spent >= Duration::from_millis(99), "the share is used: {spent:?}");
        assert!(!StopBudget::percent(0).admits(start));
    }
}
