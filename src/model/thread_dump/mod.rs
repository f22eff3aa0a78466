//! Thread dumps: what all threads of the process do at one moment.

mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pollwatch_stack::{Stack, Tid};

use super::cause::Syscall;
#[cfg(feature = "serde")]
use super::serialize::{as_optional_seconds, as_seconds, as_unix_seconds, tid_as_number};
use super::site::Site;

/// All threads of the process at one moment, grouped by what they do. Returned by
/// [`Watchdog::threads`](crate::Watchdog::threads).
///
/// `Display` shows it as text. The feature `serde` serializes it; `GET /threads?format=json` serves
/// that form.
///
/// ```
/// let watchdog = pollwatch::Watchdog::builder().start()?;
/// let dump = watchdog.threads();
/// println!("{dump}");
/// for group in dump.groups.iter().filter(|group| !group.is_idle) {
///     let at = group.stack.as_ref().and_then(|stack| stack.location()).map(|frame| frame.name());
///     println!("{} threads ({}) at {at:?}", group.count, group.role);
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadDump {
    /// The moment at which the dump was started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_unix_seconds", rename = "taken_at_unix_seconds"))]
    pub taken_at: SystemTime,
    /// The time that it took to read all threads, symbols not included.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "took_seconds"))]
    pub took: Duration,
    /// The length of the window over which shares of CPU time were measured. It ended when the
    /// thread was read.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "cpu_window_seconds"))]
    pub cpu_window: Duration,
    /// The number of threads of the process, without the one that took the dump. Threads that ended
    /// meanwhile are not included.
    pub threads: usize,
    /// The threads whose stack was captured.
    pub with_stack: usize,
    /// The threads that were not reached within the time limit. They are in a group without a
    /// stack.
    pub not_reached: usize,
    /// The threads in the groups that are missing because there were too many groups.
    pub in_omitted_groups: usize,
    /// The reason why there are no stacks, or not those of all threads, as far as the platform and
    /// the settings are the reason.
    pub stacks_missing: Option<Arc<str>>,
    /// True if functions have no names yet, because the symbols of the program were still being
    /// loaded. A later dump has them.
    pub symbols_pending: bool,
    /// The groups, the most interesting first: workers that are in user code, threads of the
    /// blocking pool that run a closure, other threads, idle ones, pollwatch's own. Within each of
    /// these, the largest group comes first.
    pub groups: Vec<ThreadGroup>,
}

/// Threads with the same role, that wait in the same system call or run, and have the same stack.
///
/// Stacks are compared by the functions and lines of the program and its dependencies, where there
/// are any, and by all functions otherwise. Without symbols they are compared by module and offset.
///
/// # Examples
///
/// See [`ThreadDump`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadGroup {
    /// The number of threads.
    pub count: usize,
    /// The role of the threads. The index of a worker is that of the first thread's.
    pub role: ThreadRole,
    /// True for a parked worker, and for a thread of the blocking pool that has nothing to run.
    pub is_idle: bool,
    /// Whether the threads run or wait.
    pub activity: ThreadActivity,
    /// The system call that the threads wait in. Its target is that of the first thread.
    pub syscall: Option<Syscall>,
    /// What the threads wait for or do, as in [`Stall::reason`](crate::Stall::reason); empty where
    /// it is unknown.
    pub reason: &'static str,
    /// The stack of the first thread. The others are in the same functions of the program.
    pub stack: Option<Stack>,
    /// The reason why there is no stack.
    pub stack_missing: Option<&'static str>,
    /// The share of one CPU that the threads used together in the window: 2.0 is two whole CPUs.
    pub cpu_share: f64,
    /// The longest [`waits_at_least`](ThreadInfo::waits_at_least) of the threads.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "waits_at_least_seconds"))]
    pub waits_at_least: Option<Duration>,
    /// The threads, at most 16 of them. Those in the longest polls and waits come first.
    pub threads: Vec<ThreadInfo>,
}

/// One thread of a [`ThreadGroup`].
///
/// # Examples
///
/// See [`ThreadDump`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadInfo {
    /// The name of the thread. The kernel stores 15 bytes of it; the whole name is known of threads
    /// that pollwatch measures. Empty for threads that were not reached.
    pub name: Arc<str>,
    /// The kernel's id of the thread.
    #[cfg_attr(feature = "serde", serde(serialize_with = "tid_as_number"))]
    pub tid: Tid,
    /// The role of the thread.
    pub role: ThreadRole,
    /// The system call that the thread waits in, with the target of its descriptor.
    pub syscall: Option<Syscall>,
    /// The CPU time that the thread has used since its start.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "cpu_seconds"))]
    pub cpu_time: Option<Duration>,
    /// The share of one CPU that the thread used in the window of the dump. `None` for a thread
    /// that was started in it.
    pub cpu_share: Option<f64>,
    /// A lower bound of the time since when the thread waits: it has not run since an earlier dump
    /// found it waiting. `None` if no dump has.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "waits_at_least_seconds"))]
    pub waits_at_least: Option<Duration>,
    /// The time since the start of the poll that the thread is in, where it is measured.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "poll_seconds"))]
    pub poll: Option<Duration>,
    /// The site of the task that the thread polls, where it is measured.
    pub site: Option<Site>,
    /// The route of the request that the thread handles, where it is measured.
    pub route: Option<Arc<str>>,
}

/// The role of a thread in the process.
///
/// Workers of a watched runtime are known by tokio's metrics (`tokio_unstable`) or their parks.
/// Other workers, and the threads of tokio's pool for blocking work, are recognised by tokio's
/// functions on their stacks. That needs symbols: in a stripped binary such threads are
/// [`Other`](Self::Other).
///
/// ```
/// use pollwatch::ThreadRole;
///
/// assert_eq!(ThreadRole::Other.to_string(), "other");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(tag = "kind", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ThreadRole {
    /// A worker of a multi-thread runtime, or the thread that drives a current-thread runtime.
    #[non_exhaustive]
    Worker {
        /// The name of the runtime; `None` where only the stack shows that it is a worker.
        runtime: Option<Arc<str>>,
        /// The index of the worker.
        index: Option<usize>,
    },
    /// A thread of a runtime's pool for blocking work (`spawn_blocking`). A thread that has handed
    /// its worker on in `block_in_place` is one as well.
    #[non_exhaustive]
    BlockingPool {
        /// The name of the runtime, where it is known.
        runtime: Option<Arc<str>>,
    },
    /// A thread of pollwatch.
    Pollwatch,
    /// Any other thread.
    Other,
}

/// Whether a thread runs or waits.
///
/// ```
/// assert_eq!(pollwatch::ThreadActivity::Waiting.to_string(), "waiting");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ThreadActivity {
    /// The thread runs, or is ready to run and has no CPU.
    Running,
    /// The thread waits in the kernel.
    Waiting,
    /// The state of the thread could not be read, or the thread was not reached.
    Unknown,
}

impl ThreadRole {
    /// Returns the role without the index of a worker.
    pub(crate) fn without_index(&self) -> ThreadRole {
        match self {
            ThreadRole::Worker { runtime, .. } => ThreadRole::Worker { runtime: runtime.clone(), index: None },
            other => other.clone(),
        }
    }
}

impl ThreadDump {
    /// Returns a dump without threads, for the reason given.
    pub(crate) fn unavailable(why: &str) -> ThreadDump {
        ThreadDump {
            taken_at: SystemTime::now(),
            took: Duration::ZERO,
            cpu_window: Duration::ZERO,
            threads: 0,
            with_stack: 0,
            not_reached: 0,
            in_omitted_groups: 0,
            stacks_missing: Some(why.into()),
            symbols_pending: false,
            groups: Vec::new(),
        }
    }
}
