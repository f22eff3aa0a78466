//! Causes of stalls, and the system calls behind them.

use std::fmt;
use std::sync::Arc;

/// The cause of a stall, by the activity of the blocked thread: the label `cause` of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// The thread computed.
    Cpu,
    /// The thread waited in a system call: a sleep, a file, a socket.
    Syscall,
    /// The thread waited for a lock, a channel or a thread (a futex).
    Lock,
    /// The thread was ready to run, but was given no CPU (too many threads, a CPU quota). The task
    /// is not to blame.
    Starved,
    /// The whole process or machine was paused (stopped by a signal or a debugger, or suspended).
    /// The task is not to blame.
    Paused,
    /// Unknown: the stall ended before it was found, or the platform does not report it.
    Unknown,
}

impl Cause {
    /// All causes, in the order of their declaration and of the metrics.
    ///
    /// ```
    /// let labels: Vec<_> = pollwatch::Cause::ALL.iter().map(|cause| cause.as_str()).collect();
    /// assert_eq!(labels, ["cpu", "syscall", "lock", "starved", "paused", "unknown"]);
    /// ```
    pub const ALL: &'static [Cause] =
        &[Cause::Cpu, Cause::Syscall, Cause::Lock, Cause::Starved, Cause::Paused, Cause::Unknown];

    /// Returns the value of the label `cause`.
    ///
    /// ```
    /// assert_eq!(pollwatch::Cause::Syscall.as_str(), "syscall");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Cpu => "cpu",
            Cause::Syscall => "syscall",
            Cause::Lock => "lock",
            Cause::Starved => "starved",
            Cause::Paused => "paused",
            Cause::Unknown => "unknown",
        }
    }

    /// Returns whether the task is to blame.
    pub(crate) fn is_blamed(self) -> bool {
        !matches!(self, Cause::Starved | Cause::Paused)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The certainty of a stall: the evidence by which it is known.
///
/// Without `tokio_unstable`, tokio reports no polls of tasks that are not wrapped. On Linux, the
/// workers of a multi-thread runtime that [`build_runtime`](crate::Watchdog::build_runtime) built
/// are then observed from outside, while they are in no measured poll. A stall found that way has
/// neither task nor site. Its time counts from the first scan that found the worker blocked to the
/// last. That is a quarter of a threshold after the start of the stall for a worker that waits
/// (half a millisecond at least, and more where the watchdog is delayed), and some 7 thresholds
/// after it for a worker that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Certainty {
    /// The poll itself was measured.
    Measured,
    /// The worker was in one system call for at least the threshold: it had not parked, and its
    /// thread did not run in that time. It cannot have been handed on by
    /// `tokio::task::block_in_place`, since no other thread of the runtime was free to take it.
    Observed,
    /// The worker is probably blocked. Either it was in one system call for twice
    /// the threshold, but another thread may have taken it over (or it waited for a page, and in no
    /// call). Or it was too busy to check its timers for 15 thresholds, and each stack sample was
    /// in the same task's code: that may be one poll that computes, or many short ones of the same
    /// code.
    Suspected,
}

impl Certainty {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Certainty::Measured => "measured",
            Certainty::Observed => "observed",
            Certainty::Suspected => "suspected",
        }
    }
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A system call that a thread was waiting in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Syscall {
    /// Its name.
    pub name: &'static str,
    /// The target of its descriptor, where it takes one: a path, `socket to 10.0.0.1:5432`,
    /// `pipe:[..]`.
    pub target: Option<Arc<str>>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) purpose: Purpose,
}

/// The purpose of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Sleep,
    /// Its first argument is a descriptor: of a file, a socket, a pipe.
    Io,
    /// A call about a file or its name that neither reads nor writes it: an open, a rename.
    File,
    /// A wait for several descriptors.
    Poll,
    /// A wait for a process.
    Process,
    /// A wait for a lock of a file.
    FileLock,
    Futex,
    /// Any other call, not of a file: of memory, a process, a signal.
    Other,
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Tables that have an element for each cause are indexed by `cause as usize`.
    #[test]
    fn all_causes_are_listed_in_the_order_of_their_declaration() {
        let indexes: Vec<_> = Cause::ALL.iter().map(|cause| *cause as usize).collect();
        assert_eq!(indexes, (0..Cause::ALL.len()).collect::<Vec<_>>());
    }
}
