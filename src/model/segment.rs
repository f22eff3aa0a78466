//! Segments: the parts of one stall.

use std::sync::Arc;
use std::time::Duration;

use super::cause::{Cause, Syscall};

/// A part of a stall in which the thread did one thing at one location.
///
/// A stall may wait for a file, then compute, then wait for a lock. Each time that the thread is
/// found doing something else, a segment ends and the next one starts. Its bounds are exact to one
/// scan of the watchdog: a quarter of the threshold, and more where the watchdog was delayed.
///
/// ```
/// let builder = pollwatch::Watchdog::builder().on_stall(|stall| {
///     for segment in &stall.segments {
///         let at = segment.location.as_deref().unwrap_or("an unknown location");
///         println!("{:?} {} at {at}", segment.to - segment.from, segment.reason);
///     }
/// });
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Segment {
    /// The cause: what the thread did in this part.
    pub cause: Cause,
    /// The reason in a few words, as in [`Stall::reason`](crate::Stall::reason).
    pub reason: &'static str,
    /// The innermost function of the application, with its line. `None` where no stack was
    /// captured, and until it is symbolized.
    pub location: Option<Arc<str>>,
    /// The system call that the thread waited in, with the causes `syscall` and `lock`.
    pub syscall: Option<Syscall>,
    /// The duration of the stall at the start of the segment.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize::as_seconds", rename = "from_seconds"))]
    pub from: Duration,
    /// The duration of the stall at the end of the segment, or at its latest examination.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize::as_seconds", rename = "to_seconds"))]
    pub to: Duration,
}

impl Segment {
    /// Returns the length of the segment.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// fn waited(stall: &pollwatch::Stall) -> Duration {
    ///     let is_lock = |segment: &&pollwatch::Segment| segment.cause == pollwatch::Cause::Lock;
    ///     stall.segments.iter().filter(is_lock).map(|segment| segment.duration()).sum()
    /// }
    /// ```
    pub fn duration(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// The oldest segments of a stall that had more than are kept, summed up.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for stall in watchdog.stalls() {
///     println!("{} segments", stall.merged_segments.count + stall.segments.len() as u64);
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MergedSegments {
    /// The number of these segments.
    pub count: u64,
    /// Their time in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize::as_seconds", rename = "seconds"))]
    pub time: Duration,
}
