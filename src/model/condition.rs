//! Conditions of a whole runtime: states in which it serves nobody, or only a part of its tasks,
//! although it looks idle.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pollwatch_stack::Stack;

use super::id::{ConditionId, RuntimeId};
#[cfg(feature = "serde")]
use super::serialize::{as_optional_seconds, as_seconds, as_unix_seconds};
use super::stall::Phase;
use super::thread_dump::{ThreadActivity, ThreadGroup};
use super::time::{Millis, Nanos};

/// The kind of a [`Condition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ConditionKind {
    /// No worker waits for the sockets and timers of the runtime, although one is free. The worker
    /// that had waited for them last is blocked in a task, and tokio has woken no other.
    DriverUnattended,
    /// All workers are parked, none of them waits for sockets and timers, and that has been so for
    /// a second. Nothing but a wake from outside of the runtime continues its tasks.
    RuntimeHung,
    /// The pool for blocking work (`spawn_blocking`, file operations, name lookups) is full: calls
    /// have waited in its queue for the time set by
    /// [`blocking_pool_full_after`](crate::WatchdogBuilder::blocking_pool_full_after), and no
    /// thread of it was idle.
    BlockingPoolFull,
}

impl ConditionKind {
    /// All kinds, in the order of their declaration.
    ///
    /// ```
    /// let labels: Vec<_> = pollwatch::ConditionKind::ALL.iter().map(|one| one.as_str()).collect();
    /// assert_eq!(labels, ["driver_unattended", "runtime_hung", "blocking_pool_full"]);
    /// ```
    pub const ALL: &[ConditionKind] =
        &[ConditionKind::DriverUnattended, ConditionKind::RuntimeHung, ConditionKind::BlockingPoolFull];

    /// Returns the value of the label `kind`.
    ///
    /// ```
    /// assert_eq!(pollwatch::ConditionKind::RuntimeHung.as_str(), "runtime_hung");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionKind::DriverUnattended => "driver_unattended",
            ConditionKind::RuntimeHung => "runtime_hung",
            ConditionKind::BlockingPoolFull => "blocking_pool_full",
        }
    }
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A state of a whole runtime in which it serves nobody, or only a part of its tasks, although it
/// looks idle. Returned by [`Watchdog::conditions`](crate::Watchdog::conditions). `Display` formats
/// it like the log.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for condition in watchdog.conditions() {
///     eprintln!("{}: {} for {:?}", condition.runtime, condition.kind, condition.duration);
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Condition {
    /// The kind.
    pub kind: ConditionKind,
    /// The phase: whether the condition lasts.
    pub phase: Phase,
    /// The runtime's name.
    pub runtime: Arc<str>,
    /// The moment since which the condition is known to hold.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_unix_seconds", rename = "started_at_unix_seconds"))]
    pub started_at: SystemTime,
    /// The duration so far, or in all. Time in which the whole process was stopped is left out.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "duration_seconds"))]
    pub duration: Duration,
    /// The number of the stall that causes it, as in [`Stall::id`](crate::Stall::id); `None` where
    /// no stall does, or it is not known.
    pub stall: Option<u64>,
    /// The stall that causes it, in one line, as it was last found.
    pub stall_summary: Option<Arc<str>>,
    /// The number of times that pollwatch has woken a worker to end the condition; see
    /// [`rescue_driver`](crate::WatchdogBuilder::rescue_driver).
    pub rescues: u64,
    /// The load of the pool, with [`BlockingPoolFull`](ConditionKind::BlockingPoolFull).
    pub blocking_pool: Option<BlockingPoolLoad>,
    /// What to do about it.
    pub remedy: &'static str,
}

/// The load of a full pool for blocking work.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for condition in watchdog.conditions() {
///     let Some(pool) = &condition.blocking_pool else { continue };
///     eprintln!("{} calls wait for one of {} threads", pool.waiting, pool.threads);
///     for group in &pool.groups {
///         eprintln!("{group}");
///     }
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BlockingPoolLoad {
    /// The threads of the pool. All of them are busy.
    pub threads: usize,
    /// The calls that wait for a thread.
    pub waiting: usize,
    /// The busy threads, grouped by stack, the largest group first. They are read when the
    /// condition is reported, and then every 10 s. If fewer threads are known to be in
    /// this pool, those whose runtime is not known are included.
    pub groups: Vec<ThreadGroup>,
    /// The longest [`waits_at_least`](ThreadGroup::waits_at_least) of the groups: a lower bound of
    /// how long the oldest call has taken. `None` where it is not known.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "as_optional_seconds", rename = "longest_wait_at_least_seconds")
    )]
    pub longest_wait_at_least: Option<Duration>,
}

/// The most groups of threads in the text of a condition.
const SHOWN_GROUPS: usize = 3;

impl fmt::Display for BlockingPoolLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = if self.waiting == 1 { "call waits" } else { "calls wait" };
        write!(f, "all {} threads are busy, and {} {calls} for one", self.threads, self.waiting)?;
        for (i, group) in self.groups.iter().take(SHOWN_GROUPS).enumerate() {
            write!(f, "{}{} ", if i == 0 { ": " } else { ", " }, group.count)?;
            match (group.activity, group.reason) {
                (ThreadActivity::Waiting, reason) if !reason.is_empty() => write!(f, "in {reason}")?,
                (activity, _) => write!(f, "{activity}")?,
            }
            if let Some(location) = group.stack.as_ref().and_then(Stack::location) {
                write!(f, " at {location}")?;
            }
        }
        match self.groups.len().saturating_sub(SHOWN_GROUPS) {
            0 => Ok(()),
            more => write!(f, ", and {more} more groups"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (runtime, length) = (&self.runtime, Millis(self.duration));
        match (self.kind, self.phase) {
            (ConditionKind::DriverUnattended, Phase::Ongoing) => write!(
                f,
                "no worker of {runtime:?} attends sockets and timers, for {length} now: the one that did is blocked, and \
                 the idle ones were not woken"
            )?,
            (ConditionKind::RuntimeHung, Phase::Ongoing) => write!(
                f,
                "the runtime {runtime:?} hangs, for {length} now: all workers are parked, and none of them attends \
                 sockets and timers"
            )?,
            (ConditionKind::BlockingPoolFull, Phase::Ongoing) => {
                write!(f, "the blocking pool of {runtime:?} is full, for {length} now")?;
            }
            (ConditionKind::BlockingPoolFull, Phase::Resolved) => {
                write!(f, "the blocking pool of {runtime:?} is no longer full, after {length}")?;
            }
            (ConditionKind::DriverUnattended, Phase::Resolved) => {
                write!(f, "a worker of {runtime:?} attends sockets and timers again, after {length}")?;
            }
            (ConditionKind::RuntimeHung, Phase::Resolved) => {
                write!(f, "the runtime {runtime:?} no longer hangs, after {length}")?;
            }
        }
        if let (ConditionKind::BlockingPoolFull, Phase::Ongoing, Some(pool)) =
            (self.kind, self.phase, &self.blocking_pool)
        {
            write!(f, ": {pool}")?;
        }
        // An attached runtime, or a scope of allowed blocking.
        if let (ConditionKind::DriverUnattended, Phase::Ongoing, None) = (self.kind, self.phase, self.stall) {
            f.write_str("; no measured stall blocks it: see /threads or Watchdog::threads for what does")?;
        }
        match self.rescues {
            0 => Ok(()),
            1 => f.write_str("; pollwatch has woken a worker for it"),
            n => write!(f, "; pollwatch has woken a worker for it {n} times"),
        }
    }
}

/// A change of a condition: it has started, continues, or has ended.
#[derive(Clone, Debug)]
pub(crate) struct ConditionChange {
    /// The number of the condition, unique in the watchdog.
    pub(crate) id: ConditionId,
    pub(crate) runtime: RuntimeId,
    /// The moment at which `condition.duration` was measured.
    pub(crate) at: Nanos,
    /// The condition. It has ended if its phase is [`Phase::Resolved`].
    pub(crate) condition: Condition,
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn unattended(stall: Option<u64>, phase: Phase) -> String {
        let condition = Condition {
            kind: ConditionKind::DriverUnattended,
            phase,
            runtime: "main".into(),
            started_at: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(30),
            stall,
            stall_summary: None,
            rescues: 1,
            blocking_pool: None,
            remedy: "",
        };
        condition.to_string()
    }

    #[test]
    fn the_text_refers_to_threads_only_where_no_stall_is_known() {
        let hint = "the idle ones were not woken; no measured stall blocks it: see /threads or Watchdog::threads for \
                    what does; pollwatch has woken a worker";
        let text = unattended(None, Phase::Ongoing);
        assert!(text.contains(hint), "{text}");
        for text in [unattended(Some(7), Phase::Ongoing), unattended(None, Phase::Resolved)] {
            assert!(!text.contains("/threads"), "{text}");
        }
    }
}
