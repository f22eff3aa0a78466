//! Stalls, as they are reported.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pollwatch_stack::Stack;

use super::cause::{Cause, Certainty, Syscall};
use super::site::Site;

/// The phase of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Phase {
    /// The poll has not returned.
    Ongoing,
    /// The poll has returned, or no longer blocks a worker.
    Resolved,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Ongoing => "ongoing",
            Phase::Resolved => "resolved",
        })
    }
}

/// A poll that kept a worker from everything else for at least the threshold.
///
/// Passed to [`on_stall`](crate::WatchdogBuilder::on_stall) at each report, and kept, in its latest
/// phase, in [`Watchdog::stalls`](crate::Watchdog::stalls). `Display` formats it like the log.
///
/// ```
/// use pollwatch::{Cause, Phase};
///
/// let builder = pollwatch::Watchdog::builder().on_stall(|stall| {
///     if stall.phase == Phase::Resolved && stall.cause == Cause::Lock {
///         let route = stall.route.as_deref().unwrap_or("no route");
///         eprintln!("{route} waited for {:?}: {}", stall.elapsed, stall.reason);
///     }
/// });
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stall {
    /// The number of the stall, from 1 on in each watchdog. All reports of one stall have the same.
    pub id: u64,
    /// The phase: ongoing or resolved.
    pub phase: Phase,
    /// The evidence by which the stall is known: its poll, or the worker observed from outside.
    pub certainty: Certainty,
    /// The name of the runtime whose worker is blocked.
    pub runtime: Arc<str>,
    /// The index of that worker.
    pub worker: Option<usize>,
    /// The name of the thread.
    pub thread: Arc<str>,
    /// The polled task; `None` for a `block_on` root, and where it is unknown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub task: Option<tokio::task::Id>,
    /// The site where the task was spawned, or the future was wrapped; `other` where it is unknown.
    pub site: Site,
    /// The site where the innermost watched future inside the poll was wrapped, if there is one.
    pub watched: Option<Site>,
    /// The route of the request that blocked: one that kept the worker for at least the threshold
    /// by itself. `None` outside of [`WatchLayer`](crate::Watchdog::layer), and where several
    /// shorter requests share one poll.
    pub route: Option<Arc<str>>,
    /// The route of the request whose handler spawned the task, where
    /// [`Watchdog::spawn`](crate::Watchdog::spawn) did.
    pub parent_route: Option<Arc<str>>,
    /// The route of the request that the poll was in when it was first observed, if that request
    /// had started much later than the poll.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) latest_request: Option<Arc<str>>,
    /// The tracing spans that the poll was in at the latest examination, outermost first:
    /// `request{id=7}`. At most 16, then one that has the number of the others (`… 3 more`). Empty
    /// without a [span layer](crate::Watchdog#method.span_layer), and for a stall that ended before
    /// it was found.
    pub spans: Vec<Arc<str>>,
    /// The cause: what the thread was doing, as classified first.
    pub cause: Cause,
    /// The moment at which the poll started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_unix_seconds", rename = "started_at_unix_seconds"))]
    pub started_at: SystemTime,
    /// The duration of the poll so far, or in all. Time in which the whole process was stopped
    /// counts only in a stall that ended before it was found, and has the cause `paused` or
    /// `starved`.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "elapsed_seconds"))]
    pub elapsed: Duration,
    /// True if the stall may have lasted longer, by half of the threshold or more: the poll itself
    /// was not [measured](Certainty::Measured).
    pub elapsed_is_lower_bound: bool,
    /// The CPU time that the thread used since the watchdog first observed the poll, until this
    /// report. `None` for a stall that ended before it was found, and where the platform does not
    /// report it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "on_cpu_seconds"))]
    pub on_cpu: Option<Duration>,
    /// The system call that the thread was waiting in, with the causes `syscall` and `lock`.
    pub syscall: Option<Syscall>,
    /// The stack of the thread, as captured last. It comes with the first report of a stall, or
    /// with the second where symbols had to be loaded first, and not with a stall that ended before
    /// it was found.
    pub stack: Option<Stack>,
    /// True if the latest stack is in another function than the one before; `None` until there are
    /// two.
    pub location_changed: Option<bool>,
    /// The reason why it blocks, in a few words: `a sync file read`. Empty where it is unknown.
    pub reason: &'static str,
    /// The advice: what to do instead.
    pub advice: Option<&'static str>,
}

impl Stall {
    fn fmt_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let syscall = match (self.cause, &self.syscall) {
            (Cause::Unknown, _) => return Ok(()),
            (Cause::Cpu | Cause::Starved | Cause::Paused, _) => return write!(f, ": {} ({})", self.reason, self.cause),
            (_, None) => return write!(f, ": blocked in {} (off-CPU)", self.reason),
            (_, Some(syscall)) => syscall,
        };
        write!(f, ": blocked in {} (off-CPU, syscall {})", self.reason, syscall.name)?;
        match &syscall.target {
            Some(target) => write!(f, " on {target}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = Millis(self.elapsed);
        if self.certainty == Certainty::Suspected {
            f.write_str("suspected ")?;
        }
        let least = if self.elapsed_is_lower_bound { "at least " } else { "" };
        match self.phase {
            Phase::Ongoing => write!(f, "stall #{} ongoing {least}{elapsed}", self.id)?,
            Phase::Resolved => write!(f, "stall #{} resolved after {least}{elapsed}", self.id)?,
        }
        match self.worker {
            Some(worker) => write!(f, " on worker {worker} of {:?}", self.runtime)?,
            None => write!(f, " on thread {:?} of {:?}", self.thread, self.runtime)?,
        }
        self.fmt_reason(f)?;
        f.write_str("\n  ")?;
        match (&self.route, &self.parent_route) {
            (Some(route), _) => write!(f, "route {route} · ")?,
            (None, Some(route)) => write!(f, "spawned under route {route} · ")?,
            (None, None) => {}
        }
        if let (None, Some(latest)) = (&self.route, &self.latest_request) {
            write!(f, "several requests or other work, no route alone (the latest: {latest}) · ")?;
        }
        match self.task {
            _ if self.certainty != Certainty::Measured => f.write_str("an unwatched task")?,
            Some(task) => write!(f, "task {task} spawned at {}", self.site)?,
            None => write!(f, "future watched at {}", self.site)?,
        }
        if let Some(watched) = self.watched.filter(|w| *w != self.site) {
            write!(f, " · within the future watched at {watched}")?;
        }
        if !self.spans.is_empty() {
            write!(f, " · span {}", self.spans.join(" › "))?;
        }
        if let Some(stack) = &self.stack {
            let still = match (self.phase, self.location_changed) {
                (Phase::Ongoing, Some(false)) => "still at",
                (Phase::Ongoing, Some(true)) => "now at",
                _ => "at",
            };
            write!(f, "\n  {still} {stack}")?;
        }
        if let Some(advice) = self.advice {
            write!(f, "\n  advice: {advice}")?;
        }
        Ok(())
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

#[cfg(feature = "serde")]
mod serialize {
    use super::*;
    use serde::Serializer;

    pub(super) fn as_text<S: Serializer>(task: &Option<tokio::task::Id>, s: S) -> Result<S::Ok, S::Error> {
        match task {
            Some(task) => s.collect_str(task),
            None => s.serialize_none(),
        }
    }

    pub(super) fn as_seconds<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn as_optional_seconds<S: Serializer>(duration: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => s.serialize_f64(duration.as_secs_f64()),
            None => s.serialize_none(),
        }
    }

    pub(super) fn as_unix_seconds<S: Serializer>(time: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()))
    }
}

#[cfg(feature = "serde")]
use serialize::{as_optional_seconds, as_seconds, as_text, as_unix_seconds};
