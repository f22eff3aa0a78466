//! Incidents: conditions of a whole runtime that have lasted too long.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::condition::ConditionKind;
#[cfg(feature = "serde")]
use super::serialize::{as_seconds, as_unix_seconds};
use super::stall::{Phase, Stall};
use super::thread_dump::ThreadDump;
use super::time::Millis;

/// The kind of an incident.
///
/// ```
/// use pollwatch::IncidentKind;
///
/// assert_eq!(IncidentKind::WorkersBlocked.to_string(), "workers_blocked");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum IncidentKind {
    /// All workers of the runtime are blocked, or the share of them that
    /// [`blocked_share`](crate::WatchdogBuilder::blocked_share) sets.
    WorkersBlocked,
    /// No worker waits for the sockets and timers of the runtime, although one is free; see
    /// [`ConditionKind::DriverUnattended`](crate::ConditionKind::DriverUnattended).
    DriverUnattended,
    /// All workers are parked, and none waits for sockets and timers; see
    /// [`ConditionKind::RuntimeHung`](crate::ConditionKind::RuntimeHung).
    RuntimeHung,
    /// All threads of the runtime's pool for blocking work are busy, and calls wait for one; see
    /// [`ConditionKind::BlockingPoolFull`](crate::ConditionKind::BlockingPoolFull).
    BlockingPoolFull,
    /// Threads wait for locks of each other, it seems, and at least one of them blocks a worker.
    Deadlock,
}

impl IncidentKind {
    /// All kinds, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::IncidentKind;
    ///
    /// assert_eq!(IncidentKind::ALL.first(), Some(&IncidentKind::WorkersBlocked));
    /// ```
    pub const ALL: &[IncidentKind] = &[
        IncidentKind::WorkersBlocked,
        IncidentKind::DriverUnattended,
        IncidentKind::RuntimeHung,
        IncidentKind::BlockingPoolFull,
        IncidentKind::Deadlock,
    ];

    /// Returns the value of the label `kind`.
    ///
    /// ```
    /// assert_eq!(pollwatch::IncidentKind::Deadlock.as_str(), "deadlock");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            IncidentKind::WorkersBlocked => "workers_blocked",
            IncidentKind::DriverUnattended => ConditionKind::DriverUnattended.as_str(),
            IncidentKind::RuntimeHung => ConditionKind::RuntimeHung.as_str(),
            IncidentKind::BlockingPoolFull => ConditionKind::BlockingPoolFull.as_str(),
            IncidentKind::Deadlock => "deadlock",
        }
    }
}

impl From<ConditionKind> for IncidentKind {
    fn from(kind: ConditionKind) -> IncidentKind {
        match kind {
            ConditionKind::DriverUnattended => IncidentKind::DriverUnattended,
            ConditionKind::RuntimeHung => IncidentKind::RuntimeHung,
            ConditionKind::BlockingPoolFull => IncidentKind::BlockingPoolFull,
        }
    }
}

impl fmt::Display for IncidentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition of a whole runtime that has lasted too long: all its workers are blocked, for
/// example. Passed to the actions of [`on_incident`](crate::WatchdogBuilder::on_incident), and
/// returned by [`Watchdog::incidents`](crate::Watchdog::incidents).
///
/// `Display` formats it as one line and, below it, one line for each stall.
///
/// ```
/// use std::time::Duration;
///
/// use pollwatch::Action;
///
/// let print = Action::call(|incident| eprintln!("{}: {incident}", incident.runtime));
/// let builder = pollwatch::Watchdog::builder().on_incident(Duration::from_secs(10), print);
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Incident {
    /// The number of the incident, from 1 on in each watchdog.
    pub id: u64,
    /// The kind of the incident.
    pub kind: IncidentKind,
    /// The name of the runtime.
    pub runtime: Arc<str>,
    /// The phase: ongoing or resolved.
    pub phase: Phase,
    /// The moment at which the condition began.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_unix_seconds", rename = "started_at_unix_seconds"))]
    pub started_at: SystemTime,
    /// The duration of the condition so far, or in all, from when it was found. Time in which the
    /// whole process was stopped is left out, so it may be shorter than the time since
    /// `started_at`.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "duration_seconds"))]
    pub duration: Duration,
    /// The condition in a few words, as `/healthz` says it.
    pub reason: String,
    /// The ongoing stalls of the runtime when the incident was last reported, at most 8: the one
    /// that causes the condition first, where that is known, then the longest. Those of the same
    /// age are in the order of their ids.
    pub stalls: Vec<Stall>,
    /// The threads of the process when an action was last due, of the latest 4 incidents with
    /// actions. `None` without an action, and where the threads could not be read within 5 s.
    pub threads: Option<Arc<ThreadDump>>,
}

impl Incident {
    /// The largest number of stalls in [`stalls`](Self::stalls): 8.
    pub const MAX_STALLS: usize = 8;

    /// Returns the first line of the incident's text: its number, its phase and the reason.
    ///
    /// ```
    /// let page = pollwatch::Action::call(|incident| eprintln!("{}", incident.summary()));
    /// ```
    pub fn summary(&self) -> impl fmt::Display {
        IncidentSummary(self)
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IncidentSummary(self).fmt(f)?;
        for stall in &self.stalls {
            write!(f, "\n  {}", stall.summary())?;
            if let Some(location) = stall.stack.as_ref().and_then(pollwatch_stack::Stack::location) {
                write!(f, " at {location}")?;
            }
        }
        Ok(())
    }
}

/// A reason why the process is unhealthy.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub(crate) struct HealthProblem {
    /// The kind of the incident, or `watchdog_stopped`.
    pub(crate) kind: &'static str,
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "the reason names it as well"))]
    pub(crate) runtime: Option<Arc<str>>,
    /// The reason in a few words.
    pub(crate) reason: String,
}

/// The first line of an incident's text.
struct IncidentSummary<'a>(&'a Incident);

impl fmt::Display for IncidentSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IncidentSummary(incident) = self;
        let Incident { id, reason, .. } = incident;
        match incident.phase {
            Phase::Ongoing => write!(f, "incident #{id}: {reason}"),
            Phase::Resolved => write!(f, "incident #{id} is over after {}: {reason}", Millis(incident.duration)),
        }
    }
}
