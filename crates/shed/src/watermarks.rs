//! The delays at which shedding starts and stops, and the share of requests to reject.

use std::time::Duration;

/// The settings that decide when requests are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermarks {
    /// Shedding starts above this delay.
    pub(crate) high: Duration,
    /// Shedding stops below this delay. Never above `high`.
    pub(crate) low: Duration,
    /// The time for which the delay has to stay above `high` until shedding starts.
    pub(crate) sustain: Duration,
}

/// The share of all requests, for [`Watermarks::rejection_share`].
pub(crate) const ALL: u32 = 1 << 31;

impl Watermarks {
    /// Returns the share of requests to reject, in parts of [`ALL`]. It grows linearly from none at
    /// the high watermark to all at twice the high watermark.
    pub(crate) fn rejection_share(&self, delay: Duration) -> u32 {
        let high = self.high.as_nanos().max(1);
        let excess = delay.as_nanos().saturating_sub(high).min(high);
        (excess * u128::from(ALL) / high) as u32
    }

    /// Returns whether a route with this mean duration of first polls is a blocking one: an eighth
    /// of the high watermark or longer.
    pub(crate) fn is_blocking(&self, mean_first_poll: Duration) -> bool {
        mean_first_poll >= (self.high / 8).max(Duration::from_nanos(1))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_with_the_delay() {
        let nanos = Duration::from_nanos;
        let watermarks = Watermarks { high: nanos(20), low: nanos(10), sustain: nanos(100) };
        let share = |delay| f64::from(watermarks.rejection_share(nanos(delay))) / f64::from(ALL);
        for (delay, expected) in [(0, 0.0), (20, 0.0), (21, 0.05), (25, 0.25), (39, 0.95), (40, 1.0), (u64::MAX, 1.0)] {
            assert!((share(delay) - expected).abs() < 1e-6, "{} at {delay}", share(delay));
        }
        assert_eq!(Watermarks { high: Duration::ZERO, ..watermarks }.rejection_share(nanos(2)), ALL);
        assert_eq!(Watermarks { high: Duration::MAX, ..watermarks }.rejection_share(Duration::MAX), 0);
        assert!(watermarks.is_blocking(nanos(3)) && !watermarks.is_blocking(nanos(1)));
        assert!(!Watermarks { high: Duration::ZERO, ..watermarks }.is_blocking(Duration::ZERO));
    }
}
