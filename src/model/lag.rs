//! The lag of a runtime: the delay with which its tasks are polled. Plain data.

use std::time::{Duration, Instant};

/// The lag of a runtime at one moment; returned by [`Lag::read`](crate::Lag::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LagReading {
    /// The latest measurement of the schedule delay, if it is less than a second old.
    pub schedule_delay: Option<ScheduleDelay>,
    /// The age of the probe's wake that has not been answered by a poll yet: the delay is at least
    /// that. Zero when none is outstanding.
    pub unanswered: Duration,
    /// The number of workers that have been in one poll for the threshold or longer, as of the
    /// watchdog's latest scan.
    pub blocked_workers: usize,
}

/// One measurement of the time from a task's wake to its poll.
///
/// The watchdog makes some 50 a second, and publishes a lower bound at each scan that finds a
/// longer one. Two measurements of the same delay within 10 ms are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleDelay {
    /// The delay, to 2 µs, at most 68 s.
    pub delay: Duration,
    /// True if the task was still waiting when the delay was measured, and polls of other tasks had
    /// started after its wake. The delay is then at least 20 ms, and a lower bound.
    pub is_lower_bound: bool,
    /// The moment of the measurement, to 10 ms.
    pub measured_at: Instant,
}
