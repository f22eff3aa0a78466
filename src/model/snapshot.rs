//! All metrics as plain data: the parts of a [`Snapshot`].

mod histogram;
#[cfg(feature = "serde")]
mod serialize;
mod tokio;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use crate::Site;
use crate::model::cause::Cause;
use crate::model::incident::IncidentKind;
use crate::model::late_runtime::LateReason;
#[cfg(feature = "serde")]
use crate::model::serialize::{as_optional_seconds, as_seconds};

pub use crate::model::labels::{ActionName, ActionResult, CaptureOutcome, ReportStage, RequestStatus};
pub use histogram::{BucketSnapshot, HistogramSnapshot};
#[cfg(feature = "serde")]
use serialize::{as_blocking_pool_full, as_driver_unattended, as_hung, as_spawned_stalls};
pub use tokio::{TokioSnapshot, TokioWorkerSnapshot};
pub use watchdog::{AllowedSnapshot, CaptureSnapshot, IncidentActionSnapshot, LostReportsSnapshot, WatchdogSnapshot};

/// All metrics at one moment; returned by [`Watchdog::snapshot`](crate::Watchdog::snapshot).
///
/// The exact definition of each figure is that of the Prometheus metric of the same name
/// (`docs/metrics.md`).
///
/// With the feature `serde` it can be serialized. Durations are numbers with the unit in the name,
/// such as `busy_seconds`, and a figure that `/live` has as well has the same name there. Except:
///
/// - `delay_seconds` of a site or a route is 0 here, and `null` there, unless delays are tracked;
/// - `driver_rescues` there is the sum of `driver_unattended_rescues` and `hung_rescues` here;
/// - `alive`, `every_task` and `workers` of a runtime there are in `coverage` and `tokio` here, and
///   tokio's own figures are in `tokio`;
/// - `alive_tasks` of a site there is `spawned` less `terminated` here;
/// - `requests` of a route there is the sum of `requests_by_status` here.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let snapshot = watchdog.snapshot();
/// for site in &snapshot.sites {
///     println!("{}: {} polls, the longest {:?}", site.site, site.polls, site.poll_max);
/// }
/// for route in &snapshot.routes {
///     println!("{}: {} stalls, {:?} blocked", route.route, route.stalls.count, route.stalls.time);
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The runtimes, in the order in which they became known.
    pub runtimes: Vec<RuntimeSnapshot>,
    /// The sites at which anything was counted.
    pub sites: Vec<SiteSnapshot>,
    /// The routes that received at least one request.
    pub routes: Vec<RouteSnapshot>,
    /// The state of pollwatch itself.
    pub watchdog: WatchdogSnapshot,
}

/// The figures of one route; see `Watchdog::layer`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteSnapshot {
    /// The route's name.
    pub route: Arc<str>,
    /// Finished requests, by method and status.
    #[cfg_attr(feature = "serde", serde(rename = "requests_by_status"))]
    pub requests: Vec<RequestsSnapshot>,
    /// The number of polls of responses and response bodies.
    pub polls: u64,
    /// The time that these polls took, and the calls of the service before them.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds"))]
    pub busy: Duration,
    /// The longest of these polls and calls.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "max_seconds"))]
    pub poll_max: Duration,
    /// The distribution of the polls' durations; empty unless
    /// [`route_histograms`](crate::WatchdogBuilder::route_histograms) is on.
    pub poll_buckets: Vec<BucketSnapshot>,
    /// The number of polls in that distribution, including those above the last bound; 0 if it is
    /// not recorded.
    pub polls_in_buckets: u64,
    /// The sum of the delays of the polls that worked on a request of the route first; zero unless
    /// [`track_delays`](crate::WatchdogBuilder::track_delays) is on.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "delay_seconds"))]
    pub delay: Duration,
    /// Requests of the route that blocked a worker for the threshold or longer.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub stalls: StallSnapshot,
    /// Stalls of tasks that were spawned under the route, by a handler or by such a task.
    #[cfg_attr(feature = "serde", serde(flatten, serialize_with = "as_spawned_stalls"))]
    pub spawned_stalls: StallSnapshot,
}

/// The requests of one route that had the same method and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RequestsSnapshot {
    /// One of the nine standard methods, or `other`.
    pub method: &'static str,
    /// The class of the status, or the reason why there is none.
    pub status: RequestStatus,
    /// The number of requests.
    pub count: u64,
}

/// The figures of one runtime.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuntimeSnapshot {
    /// The runtime's name.
    pub name: Arc<str>,
    /// The number of polls.
    pub polls_total: u64,
    /// The durations of these polls.
    pub polls: HistogramSnapshot,
    /// The delay from waking a task to its poll, measured by a probe while the runtime is polling.
    pub schedule_delay: HistogramSnapshot,
    /// The delays of all polls of tasks, from the wake of the task to the start of the poll. `None`
    /// unless [`track_delays`](crate::WatchdogBuilder::track_delays) is on.
    pub delays: Option<HistogramSnapshot>,
    /// Stalls by cause: their number by the cause with the most time of each, and their time by
    /// what the thread was doing. Every cause is present, also those without a stall.
    #[cfg_attr(feature = "serde", serde(rename = "stalls_by_cause"))]
    pub stalls: Vec<CauseSnapshot>,
    /// Stalls that are only suspected, and in no other count; see [`Certainty`](crate::Certainty).
    pub suspected: StallSnapshot,
    /// Stalls of the runtime's watched roots that occupy no worker, and are in no other count.
    pub root_stalls: StallSnapshot,
    /// The tasks that waited behind stalls, and the time that they waited during the stalls in all;
    /// see [`Victims`](crate::Victims).
    pub victims: VictimsSnapshot,
    /// The reports that the runtime was late although no stall blocked it, by reason: one entry for
    /// each. See [`LateRuntime`](crate::LateRuntime).
    pub late_reports: Vec<LateReportsSnapshot>,
    /// Workers that have been in one poll for at least the threshold, suspected stalls excluded.
    pub blocked_workers: usize,
    /// The duration of the longest of these polls so far; zero if no worker is blocked.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "oldest_stall_seconds"))]
    pub oldest_stall: Duration,
    /// Polls that have lasted for at least the threshold after `block_in_place` handed their worker
    /// on. They block no worker, and are no stalls.
    pub offworker_polls: usize,
    /// The duration of the longest of these polls so far; zero if there is none.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "oldest_offworker_poll_seconds"))]
    pub oldest_offworker_poll: Duration,
    /// The incidents of the runtime, by kind: one entry for each.
    pub incidents: Vec<IncidentSnapshot>,
    /// True while somebody attends the sockets and timers of the runtime, as far as the watchdog
    /// has found. `None` where that cannot be known; see
    /// [`RuntimeCoverage`](crate::RuntimeCoverage).
    pub driver_attended: Option<bool>,
    /// The times in which nobody attended them although a worker was idle
    /// ([`DriverUnattended`](crate::ConditionKind::DriverUnattended)).
    #[cfg_attr(feature = "serde", serde(flatten, serialize_with = "as_driver_unattended"))]
    pub driver_unattended: ConditionSnapshot,
    /// The times in which the runtime hung ([`RuntimeHung`](crate::ConditionKind::RuntimeHung)).
    #[cfg_attr(feature = "serde", serde(flatten, serialize_with = "as_hung"))]
    pub hung: ConditionSnapshot,
    /// True if the pool for blocking work is full at present; `None` where that is not known.
    pub blocking_pool_is_full: Option<bool>,
    /// The times in which that pool was full
    /// ([`BlockingPoolFull`](crate::ConditionKind::BlockingPoolFull)).
    #[cfg_attr(feature = "serde", serde(flatten, serialize_with = "as_blocking_pool_full"))]
    pub blocking_pool_full: ConditionSnapshot,
    /// While the pool is full: a lower bound of how long the oldest call has taken, by threads of
    /// the pool that have not run since.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "as_optional_seconds", rename = "oldest_blocking_call_seconds")
    )]
    pub oldest_blocking_call: Option<Duration>,
    /// Tokio's own metrics of the runtime.
    pub tokio: TokioSnapshot,
}

impl RuntimeSnapshot {
    /// Returns the figures of a runtime of which nothing is measured.
    #[cfg(feature = "attach")]
    pub(crate) fn unmeasured() -> RuntimeSnapshot {
        let no_polls = || HistogramSnapshot::new(0, Duration::ZERO, Vec::new(), []);
        RuntimeSnapshot {
            name: "".into(),
            polls_total: 0,
            polls: no_polls(),
            schedule_delay: no_polls(),
            delays: None,
            stalls: Vec::new(),
            suspected: StallSnapshot::default(),
            root_stalls: StallSnapshot::default(),
            victims: VictimsSnapshot::default(),
            late_reports: Vec::new(),
            blocked_workers: 0,
            oldest_stall: Duration::ZERO,
            offworker_polls: 0,
            oldest_offworker_poll: Duration::ZERO,
            incidents: Vec::new(),
            driver_attended: None,
            driver_unattended: ConditionSnapshot::default(),
            hung: ConditionSnapshot::default(),
            blocking_pool_is_full: None,
            blocking_pool_full: ConditionSnapshot::default(),
            oldest_blocking_call: None,
            tokio: TokioSnapshot::default(),
        }
    }
}

/// The figures of one site of one runtime.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SiteSnapshot {
    /// The runtime's name.
    pub runtime: Arc<str>,
    /// The location in the code.
    pub site: Site,
    /// Polls of the tasks spawned (or futures watched) at the site.
    pub polls: u64,
    /// The time that these polls took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds"))]
    pub busy: Duration,
    /// The longest of these polls.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "max_seconds"))]
    pub poll_max: Duration,
    /// The sum of the polls' delays since the wakes of their tasks; zero unless
    /// [`track_delays`](crate::WatchdogBuilder::track_delays) is on.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "delay_seconds"))]
    pub delay: Duration,
    /// The longest of these delays.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "delay_max_seconds"))]
    pub delay_max: Duration,
    /// The longest time for which an alive task of the site has waited for a poll. `None` where
    /// there is none, and unless [`track_unpolled`](crate::WatchdogBuilder::track_unpolled) is on.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_optional_seconds", rename = "unpolled_seconds"))]
    pub unpolled: Option<Duration>,
    /// Stalls that the site's own code caused: all but `starved` and `paused` ones, and the time of
    /// all but their starved parts.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub stalls: StallSnapshot,
    /// Tasks spawned at the site.
    pub spawned: u64,
    /// Tasks spawned at the site that have ended, in any way.
    pub terminated: u64,
    /// Watched futures that completed.
    pub completed: u64,
    /// Watched futures that were dropped before they completed.
    pub cancelled: u64,
    /// Watched futures that panicked.
    pub panicked: u64,
    /// True once a future was watched here, so that the three outcomes apply.
    pub has_outcomes: bool,
}

impl SiteSnapshot {
    /// Returns the number of tasks that have not ended.
    ///
    /// `None` for the site `other`, where ends cannot be matched with spawns.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let alive: u64 = watchdog.snapshot().sites.iter().filter_map(|site| site.alive()).sum();
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn alive(&self) -> Option<u64> {
        self.site.location().map(|_| self.spawned.saturating_sub(self.terminated))
    }
}

/// A number of stalls and their total duration.
///
/// A stall counts once, when it ends or has lasted a second. Its time grows while it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StallSnapshot {
    /// The number of stalls.
    #[cfg_attr(feature = "serde", serde(rename = "stalls"))]
    pub count: u64,
    /// The total duration of the stalls, including ongoing ones so far.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "stalled_seconds"))]
    pub time: Duration,
}

impl StallSnapshot {
    pub(crate) fn new(count: u64, time: Duration) -> StallSnapshot {
        StallSnapshot { count, time }
    }
}

/// The conditions of one kind of a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConditionSnapshot {
    /// The number of conditions that have started.
    pub count: u64,
    /// Their total duration, including an ongoing one so far.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "seconds"))]
    pub time: Duration,
    /// The number of times that a worker was woken to end one; see
    /// [`rescue_driver`](crate::WatchdogBuilder::rescue_driver).
    pub rescues: u64,
}

/// The tasks that waited behind stalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VictimsSnapshot {
    /// The number of tasks. A task that waited behind several stalls counts for each.
    pub tasks: u64,
    /// The time that they waited during the stalls, in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "waited_seconds"))]
    pub waited: Duration,
}

impl VictimsSnapshot {
    pub(crate) fn new(tasks: u64, waited: Duration) -> VictimsSnapshot {
        VictimsSnapshot { tasks, waited }
    }
}

/// The stalls of one runtime that had the same cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CauseSnapshot {
    /// The cause.
    pub cause: Cause,
    /// The stalls.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub stalls: StallSnapshot,
}

/// The incidents of one kind in one runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct IncidentSnapshot {
    /// The kind.
    pub kind: IncidentKind,
    /// The number of incidents that have started.
    pub count: u64,
    /// True while one is ongoing.
    pub is_ongoing: bool,
}

/// The reports that one runtime was late for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LateReportsSnapshot {
    /// The reason.
    pub reason: LateReason,
    /// The number of reports.
    pub count: u64,
}
