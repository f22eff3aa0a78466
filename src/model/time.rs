//! Units of time.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul};
use std::time::Duration;

/// A number of nanoseconds: a length of time, or a moment as the time since the start of the
/// watchdog's clock. A field that holds a moment says so.
///
/// Half the size of a [`Duration`], and the unit of all counters. Addition and multiplication
/// saturate. There is no `-`, since two readings may be in the wrong order: callers write
/// [`saturating_sub`](Nanos::saturating_sub).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// No time; as a moment, the start of the clock.
    pub(crate) const ZERO: Nanos = Nanos(0);
    /// The longest time, 584 years; as a moment, one that never comes.
    pub(crate) const MAX: Nanos = Nanos(u64::MAX);

    /// Returns a time of so many microseconds.
    pub(crate) const fn from_micros(micros: u64) -> Nanos {
        Nanos(micros.saturating_mul(1_000))
    }

    /// Returns a time of so many milliseconds.
    pub(crate) const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis.saturating_mul(1_000_000))
    }

    /// Returns a time of so many seconds.
    pub(crate) const fn from_secs(seconds: u64) -> Nanos {
        Nanos(seconds.saturating_mul(1_000_000_000))
    }

    /// Returns the time from `earlier` to this moment, or this length without another one. Zero
    /// where that would be negative.
    pub(crate) const fn saturating_sub(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time as a [`Duration`].
    pub(crate) const fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl From<Duration> for Nanos {
    /// Saturates after 584 years.
    fn from(duration: Duration) -> Nanos {
        Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Add for Nanos {
    type Output = Nanos;

    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl Mul<Nanos> for u64 {
    type Output = Nanos;

    fn mul(self, time: Nanos) -> Nanos {
        Nanos(self.saturating_mul(time.0))
    }
}

impl Div<u64> for Nanos {
    type Output = Nanos;

    fn div(self, divisor: u64) -> Nanos {
        Nanos(self.0 / divisor)
    }
}

impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Nanos>>(times: I) -> Nanos {
        times.fold(Nanos::ZERO, Add::add)
    }
}

/// Subtraction for tests, which know the order of their moments. It panics below zero.
#[cfg(test)]
impl std::ops::Sub for Nanos {
    type Output = Nanos;

    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.checked_sub(other.0).expect("a time is not negative"))
    }
}

/// A duration, displayed for a person who reads a log line.
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        match millis {
            m if m < 1.0 => write!(f, "{m:.2} ms"),
            m if m < 10.0 => write!(f, "{m:.1} ms"),
            m if m < 10_000.0 => write!(f, "{m:.0} ms"),
            m => write!(f, "{:.1} s", m / 1e3),
        }
    }
}
