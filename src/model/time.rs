//! Units of time.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// A number of nanoseconds: a length of time, or a moment as the time since the start of the
/// watchdog's clock.
///
/// Half the size of a [`Duration`], and the unit of all counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// No time.
    pub(crate) const ZERO: Nanos = Nanos(0);

    /// Returns the time from `earlier` to this moment, zero where they are in the wrong order.
    pub(crate) fn saturating_sub(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time as a [`Duration`].
    pub(crate) fn to_duration(self) -> Duration {
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
