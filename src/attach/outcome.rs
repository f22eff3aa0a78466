//! Why a process is no longer watched, and how often its threads were stopped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The reason why a process is no longer watched.
///
/// ```
/// assert_eq!(pollwatch::attach::Ended::Exited.to_string(), "the process has ended");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The process has ended.
    Exited,
    /// The process runs another program now (`exec`).
    Replaced,
    /// [`super::Attached::detach`] was called.
    Detached,
    /// The process can no longer be read, for this reason.
    Lost(Arc<str>),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited => f.write_str("the process has ended"),
            Ended::Replaced => f.write_str("the process runs another program now"),
            Ended::Detached => f.write_str("detached from the process"),
            Ended::Lost(why) => write!(f, "the process can no longer be watched: {why}"),
        }
    }
}

/// The stops of threads that ran, to read their stacks.
///
/// ```
/// let stops = pollwatch::attach::Stops::default();
/// assert_eq!((stops.count, stops.longest), (0, std::time::Duration::ZERO));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stops {
    /// The number of stops.
    pub count: u64,
    /// The longest of them.
    pub longest: Duration,
    /// The time of all stops together.
    pub total: Duration,
}
