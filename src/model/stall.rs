//! Stalls, as they are reported.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pollwatch_stack::Stack;

use super::cause::{Cause, Certainty, Syscall};
use super::id::StallId;
use super::kernel_time::{KernelUsage, PageFaults};
use super::lock::LockInfo;
use super::no_stack::NoStack;
use super::other_segments::{OtherSegments, ShownActivity};
use super::pool::PoolActivity;
use super::segment::{MergedSegments, Segment};
#[cfg(feature = "serde")]
use super::serialize::{as_optional_seconds, as_seconds, as_text, as_unix_seconds};
use super::site::Site;
use super::time::Millis;
use super::victims::Victims;

/// The phase of a stall.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let stalls = watchdog.stalls();
/// let ongoing = stalls.iter().filter(|stall| stall.phase == pollwatch::Phase::Ongoing).count();
/// # Ok::<(), pollwatch::Error>(())
/// ```
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
    /// The index of that worker. `None` for a measured root of a multi-thread runtime, which
    /// occupies no worker, and for an observed worker whose index is unknown. Where a stall is
    /// observed and `block_in_place` hands workers on, it is the index that the thread had last.
    pub worker: Option<usize>,
    /// The name of the thread.
    pub thread: Arc<str>,
    /// The polled task; `None` for a `block_on` root, and where it is unknown.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub task: Option<tokio::task::Id>,
    /// The name that `tokio::task::Builder` has given to the task. `None` without a
    /// [span layer](crate::Watchdog#method.span_layer) that receives tokio's own spans, and for a
    /// stall that ended before it was found. Where the worker was observed from outside, it is the
    /// outermost function of the task: the one whose future is polled.
    pub task_name: Option<Arc<str>>,
    /// The site where the task was spawned, or the future was wrapped; `other` where it is unknown.
    pub site: Site,
    /// The site where the innermost watched future inside the poll was wrapped, if there is one.
    pub watched: Option<Site>,
    /// The route of the request that blocked: one that kept the worker for at least the threshold
    /// by itself. `None` outside of [`WatchLayer`](crate::Watchdog::layer), and where several
    /// shorter requests share one poll.
    pub route: Option<Arc<str>>,
    /// The route of the request whose handler spawned the task, or that spawned the task which did.
    /// Known with task hooks, and where [`Watchdog::spawn`](crate::Watchdog::spawn) spawned it.
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
    /// The cause: what the thread does now. Once the stall is over, it is the cause with the most
    /// time. Time without a CPU is left out of this choice, unless the whole stall is due to it.
    /// `syscall`, `stack`, `reason` and `advice` are of the same examination as the cause.
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
    /// The part of `on_cpu` that the thread was in the kernel: in system calls, page faults and
    /// interrupts. The kernel samples it at each tick of 1, 4 or 10 ms, so that its share of
    /// `on_cpu` has a standard error of up to 50 % by one tick, 16 % by 10 and 5 % by 100. `None`
    /// where no tick has met the thread on a CPU. It is of the whole stall, whatever the thread
    /// does now: `reason` follows from the kernel's share in its segment alone.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "system_time_seconds"))]
    pub system_time: Option<Duration>,
    /// The thread's page faults since the watchdog first observed the poll, over the whole stall.
    /// Major ones have waited for the page. `None` where they are not known.
    pub page_faults: Option<PageFaults>,
    /// The time that the hypervisor withheld CPUs of this machine while they had work to do, over
    /// all CPUs, since the watchdog first observed the poll. It excuses no task by itself. The
    /// kernel counts it in units of 10 ms. `None` where it is not known.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "steal_seconds"))]
    pub steal: Option<Duration>,
    /// The time of the longest fork of the thread during the poll, as the fork itself recorded it.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) fork: Option<Duration>,
    /// The system call that the thread was waiting in, with the causes `syscall` and `lock`.
    pub syscall: Option<Syscall>,
    /// The stack of the thread: the latest one, and of the main cause once the stall is over. It
    /// comes with the first report of a stall, or with the second where symbols had to be loaded
    /// first, and not with a stall that ended before it was found.
    pub stack: Option<Stack>,
    /// The reason why the latest examination has captured no stack.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) no_stack: Option<NoStack>,
    /// True if the latest stack is in another function, or at another line, than the one before;
    /// `None` until there are two. In a report, the one before is that of the previous report.
    pub location_changed: Option<bool>,
    /// The reason why it blocks, in a few words: `a sync file read`. Empty where it is unknown.
    pub reason: &'static str,
    /// The advice: what to do instead.
    pub advice: Option<&'static str>,
    /// The lock that the thread waits for, and who holds it, as far as that is known. It comes with
    /// the stack. `None` for any other wait.
    pub lock: Option<LockInfo>,
    /// What the threads of rayon do, if the thread waits for one of its pools. It comes with the
    /// stack, and only on x86_64. `None` where all of them sleep or could not be read.
    pub pool: Option<PoolActivity>,
    /// The tasks that waited behind the stall, as far as they have been polled since. `None` if
    /// there are none, and unless [`track_delays`](crate::WatchdogBuilder::track_delays) is on.
    pub victims: Option<Victims>,
    /// What the thread did, one after the other, oldest first: at most 9 segments. The last is what
    /// it does now, or did when the stall ended. Empty for a stall that ended before it was found.
    pub segments: Vec<Segment>,
    /// Older segments than those, summed up.
    pub merged_segments: MergedSegments,
}

impl Stall {
    /// Returns an ongoing, measured stall of which nothing else is known yet.
    pub(crate) fn new(id: StallId, runtime: Arc<str>, thread: Arc<str>, site: Site, started_at: SystemTime) -> Stall {
        Stall {
            id: id.0,
            phase: Phase::Ongoing,
            certainty: Certainty::Measured,
            runtime,
            worker: None,
            thread,
            task: None,
            task_name: None,
            site,
            watched: None,
            route: None,
            parent_route: None,
            latest_request: None,
            spans: Vec::new(),
            cause: Cause::Unknown,
            started_at,
            elapsed: Duration::ZERO,
            elapsed_is_lower_bound: false,
            on_cpu: None,
            system_time: None,
            page_faults: None,
            steal: None,
            fork: None,
            victims: None,
            syscall: None,
            stack: None,
            no_stack: None,
            location_changed: None,
            reason: "",
            advice: None,
            lock: None,
            pool: None,
            segments: Vec::new(),
            merged_segments: MergedSegments::default(),
        }
    }

    /// Returns whether this is the stall of a root that occupies no worker. Such stalls are counted
    /// in `root_stalls_total` alone.
    pub(crate) fn is_of_root(&self) -> bool {
        self.worker.is_none() && self.certainty == Certainty::Measured
    }

    /// Returns the first line of the stall's text: what blocks, for how long, where, and why.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder();
    /// let builder = builder.on_stall(|stall| eprintln!("{}", stall.summary()));
    /// # builder.start().unwrap();
    /// ```
    pub fn summary(&self) -> impl fmt::Display {
        Summary(self)
    }

    /// Returns whether the thread spent at least half of the stall in a fork.
    pub(crate) fn is_mostly_fork(&self) -> bool {
        self.fork.is_some_and(|fork| fork >= self.elapsed / 2)
    }

    /// Sets what the kernel did for the thread, as far as it is known.
    pub(crate) fn set_kernel_usage(&mut self, usage: KernelUsage) {
        let KernelUsage { system_time, page_faults, steal, fork } = usage;
        self.system_time = system_time.or(self.system_time);
        self.page_faults = page_faults.or(self.page_faults);
        self.steal = steal.or(self.steal);
        self.fork = fork.max(self.fork);
    }

    /// Returns what the thread did besides what `cause` and `reason` say. `None` if that is all.
    pub(crate) fn other_segments(&self) -> Option<OtherSegments> {
        let location = self.stack.as_ref().and_then(Stack::location).map(ToString::to_string);
        let shown = ShownActivity {
            cause: self.cause,
            reason: self.reason,
            location: location.as_deref(),
            is_ongoing: self.phase == Phase::Ongoing,
        };
        OtherSegments::new(&self.segments, &shown, self.elapsed)
    }
}

/// The first line of a stall's text.
struct Summary<'a>(&'a Stall);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary(stall) = self;
        let elapsed = Millis(stall.elapsed);
        if stall.certainty == Certainty::Suspected {
            f.write_str("suspected ")?;
        }
        let least = if stall.elapsed_is_lower_bound { "at least " } else { "" };
        match stall.phase {
            Phase::Ongoing => write!(f, "stall #{} ongoing {least}{elapsed}", stall.id)?,
            Phase::Resolved => write!(f, "stall #{} resolved after {least}{elapsed}", stall.id)?,
        }
        match stall.worker {
            Some(worker) => write!(f, " on worker {worker} of {:?}", stall.runtime)?,
            None if !stall.is_of_root() => write!(f, " on a worker of {:?}", stall.runtime)?,
            None => {
                let verb = if stall.phase == Phase::Ongoing { "is" } else { "was" };
                write!(f, ": the root task of {:?} {verb} blocked", stall.runtime)?;
            }
        }
        self.fmt_reason(f)
    }
}

impl Summary<'_> {
    /// Writes why the reason is not known. With a stack, its location is in the text.
    fn fmt_missing_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.stack, self.0.no_stack) {
            (None, Some(why)) => write!(f, ": reason not known: no stack was captured: {why}"),
            _ => Ok(()),
        }
    }

    fn fmt_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary(stall) = self;
        let others = stall.other_segments();
        let length = others.as_ref().map(|others| others.shown).filter(|shown| !shown.is_zero());
        let length = length.map(|length| format!(" for {}", Millis(length))).unwrap_or_default();
        let others = others.map(|others| format!("{}: {others}", others.introduction()));
        let inside = others.as_ref().map(|others| format!("; {others}")).unwrap_or_default();
        let (reason, cause) = (stall.reason, stall.cause);
        // The line of a root has said "is blocked" already.
        let blocked = if stall.is_of_root() { "" } else { ": blocked" };
        match (cause, &stall.syscall) {
            (Cause::Unknown, _) => match &others {
                Some(others) => write!(f, ": {others}"),
                None => self.fmt_missing_reason(f),
            },
            (Cause::Cpu | Cause::Starved | Cause::Paused, _) => write!(f, ": {reason}{length} ({cause}{inside})"),
            (_, None) => write!(f, "{blocked} in {reason}{length} (off-CPU{inside})"),
            (_, Some(Syscall { name, target: None, .. })) => {
                write!(f, "{blocked} in {reason}{length} (off-CPU, syscall {name}{inside})")?;
                match &stall.lock {
                    Some(lock) if lock.is_informative() => write!(f, "; {}", lock.display(reason))?,
                    _ => {}
                }
                self.0.pool.as_ref().map_or(Ok(()), |pool| write!(f, "; {pool}"))
            }
            (_, Some(Syscall { name, target: Some(target), .. })) => {
                write!(f, "{blocked} in {reason}{length} (off-CPU, syscall {name}) on {target}")?;
                others.map_or(Ok(()), |others| write!(f, " ({others})"))
            }
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Summary(self))?;
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
            _ if self.certainty != Certainty::Measured => {
                f.write_str("an unwatched task")?;
                if let Some(function) = &self.task_name {
                    write!(f, ", in {function}")?;
                }
            }
            Some(task) => {
                write!(f, "task {task} ")?;
                if let Some(name) = &self.task_name {
                    write!(f, "{name:?} ")?;
                }
                write!(f, "spawned at {}", self.site)?;
            }
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
        if let Some(victims) = &self.victims {
            write!(f, "\n  {victims}")?;
        }
        if let Some(advice) = self.advice {
            write!(f, "\n  advice: {advice}")?;
        }
        Ok(())
    }
}
