//! Causes of stalls, and the system calls behind them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The cause of a stall, by the activity of the blocked thread: the label `cause` of the metrics.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let stalls = watchdog.stalls();
/// let computing = stalls.iter().filter(|stall| stall.cause == pollwatch::Cause::Cpu).count();
/// # Ok::<(), pollwatch::Error>(())
/// ```
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
/// are then observed from outside, while they are in no measured poll. So is the thread of a
/// current-thread runtime, with `tokio_unstable` as well, since tokio never reports polls of roots
/// and of `LocalSet` tasks. A stall found that way has neither task nor site. Its time counts from
/// the first scan that found the worker blocked to the last. That is a quarter of a threshold after
/// the start of the stall for a worker that waits (half a millisecond at least, and more where the
/// watchdog is delayed), and some 7 thresholds after it for a worker that computes.
///
/// ```
/// use pollwatch::{Certainty, Watchdog};
///
/// let builder = Watchdog::builder().on_stall(|stall| {
///     if stall.certainty != Certainty::Suspected {
///         eprintln!("{stall}");
///     }
/// });
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Certainty {
    /// The poll itself was measured.
    Measured,
    /// The worker was in one system call for at least the threshold: it had not parked, and its
    /// thread did not run in that time. It cannot have been handed on by
    /// `tokio::task::block_in_place`, since the stacks of the runtime's other threads show that
    /// none of them has taken it over. In the accuracy suite, none of 3,843 such stalls was false
    /// (`docs/stable.md`).
    ///
    /// Or the worker was in short waits in one location for so long (244 thresholds) that polls
    /// shorter than the threshold cannot explain it. That assumes an `event_interval` of at most
    /// tokio's default.
    Observed,
    /// The worker is probably blocked. Either it was in one system call for twice
    /// the threshold, but another thread may have taken it over (or it waited for a page, and in no
    /// call). Or it was too busy to check its timers for 15 thresholds, and each stack sample was
    /// in the same task's code: that may be one poll that computes, or many short ones of the same
    /// code.
    Suspected,
}

impl Certainty {
    /// All certainties, in the order of their declaration: the most certain one first.
    ///
    /// ```
    /// let names: Vec<_> = pollwatch::Certainty::ALL.iter().map(|one| one.as_str()).collect();
    /// assert_eq!(names, ["measured", "observed", "suspected"]);
    /// ```
    pub const ALL: &[Certainty] = &[Certainty::Measured, Certainty::Observed, Certainty::Suspected];

    /// Returns the name that the log, `Display` and serde show.
    ///
    /// ```
    /// assert_eq!(pollwatch::Certainty::Observed.as_str(), "observed");
    /// ```
    pub fn as_str(self) -> &'static str {
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
    /// Its name. A call that pollwatch does not know is named by its number: `syscall 1000`. In a
    /// process that is not dumpable it is that of the kernel's function in which the thread sleeps:
    /// `hrtimer_nanosleep`.
    pub name: Cow<'static, str>,
    /// The target of its descriptor, where it takes one: a path, `socket to 10.0.0.1:5432`,
    /// `pipe:[..]`.
    pub target: Option<Arc<str>>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) purpose: Purpose,
}

/// The purpose of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Sleep,
    /// Reads, writes or syncs the descriptor that is its first argument: a file, a socket, a pipe.
    Io,
    /// Sends to, receives from or connects the socket that is its first argument.
    Socket,
    /// Reads, writes, sends to or receives from what is in non-blocking mode: it does not wait for
    /// the other side.
    Nonblocking,
    /// Controls the device that is its first argument.
    Device,
    /// A call about a file or its name that neither reads nor writes it: an open, a rename.
    File,
    /// Makes or copies a descriptor.
    Descriptor,
    /// A wait for several descriptors.
    Poll,
    /// A wait for a child process.
    Child,
    /// A wait for a lock of a file.
    FileLock,
    Futex,
    /// Submits operations to the kernel, or waits for their results: io_uring and its predecessor.
    AsyncIo,
    /// Changes the memory map of the process.
    Memory,
    /// Starts a process or a thread.
    Spawn,
    /// Reads or changes a property of the process: its user, its limits.
    Process,
    /// Sends, awaits or masks signals.
    Signal,
    /// Resumes a wait that a signal or a stop of the process interrupted.
    Restart,
    /// Reads or sets a clock or a timer.
    Time,
    /// Shared memory, semaphores and message queues between processes.
    Ipc,
    /// Reads or changes how the thread is scheduled.
    Schedule,
    /// Keys, and limits that the process sets for itself.
    Security,
    Random,
    /// File systems as a whole: mounts, quotas, swap.
    Mount,
    /// The machine as a whole: kernel modules, its name, a reboot. Also calls that Linux has
    /// removed.
    System,
    /// The call is not in the table.
    Unknown,
}

impl Purpose {
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(crate) const ALL: &[Purpose] = &[
        Purpose::Sleep,
        Purpose::Io,
        Purpose::Socket,
        Purpose::Nonblocking,
        Purpose::Device,
        Purpose::File,
        Purpose::Descriptor,
        Purpose::Poll,
        Purpose::Child,
        Purpose::FileLock,
        Purpose::Futex,
        Purpose::AsyncIo,
        Purpose::Memory,
        Purpose::Spawn,
        Purpose::Process,
        Purpose::Signal,
        Purpose::Restart,
        Purpose::Time,
        Purpose::Ipc,
        Purpose::Schedule,
        Purpose::Security,
        Purpose::Random,
        Purpose::Mount,
        Purpose::System,
        Purpose::Unknown,
    ];

    /// Returns whether the call's first argument is a descriptor of what it waits for.
    pub(crate) fn has_descriptor(self) -> bool {
        matches!(self, Purpose::Io | Purpose::Socket | Purpose::Nonblocking | Purpose::Device | Purpose::FileLock)
    }

    /// Returns the purpose of the call for a descriptor in non-blocking mode that refers to
    /// `target`. Files and disks have no such mode.
    pub(crate) fn in_nonblocking_mode(self, target: &str) -> Purpose {
        let has_other_side = ["socket", "pipe:", "anon_inode:"].iter().any(|kind| target.starts_with(kind));
        match self {
            Purpose::Socket => Purpose::Nonblocking,
            Purpose::Io if has_other_side => Purpose::Nonblocking,
            other => other,
        }
    }
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

    #[test]
    fn all_purposes_are_listed() {
        let indexes: Vec<_> = Purpose::ALL.iter().map(|purpose| *purpose as usize).collect();
        assert_eq!(indexes, (0..=Purpose::Unknown as usize).collect::<Vec<_>>());
    }
}
