//! All metrics as plain data: the parts of a [`Snapshot`].

mod histogram;
mod tokio;

use std::sync::Arc;
use std::time::Duration;

use crate::Site;
use crate::model::cause::Cause;
use crate::model::coverage::Coverage;

pub use histogram::{BucketSnapshot, HistogramSnapshot};
pub use tokio::{TokioSnapshot, TokioWorkerSnapshot};

/// All metrics at one moment; returned by [`Watchdog::snapshot`](crate::Watchdog::snapshot).
///
/// The exact definition of each figure is that of the Prometheus metric of the same name
/// (`docs/metrics.md`).
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
#[non_exhaustive]
pub struct RouteSnapshot {
    /// The route's name.
    pub route: Arc<str>,
    /// Finished requests, by method and status.
    pub requests: Vec<RequestsSnapshot>,
    /// The number of polls of responses and response bodies.
    pub polls: u64,
    /// The time that these polls took, and the calls of the service before them.
    pub busy: Duration,
    /// The longest of these polls and calls.
    pub poll_max: Duration,
    /// The distribution of the polls' durations; empty unless
    /// [`route_histograms`](crate::WatchdogBuilder::route_histograms) is on.
    pub poll_buckets: Vec<BucketSnapshot>,
    /// The number of polls in that distribution, including those above the last bound; 0 if it is
    /// not recorded.
    pub polls_in_buckets: u64,
    /// Requests of the route that blocked a worker for the threshold or longer.
    pub stalls: StallSnapshot,
}

/// The requests of one route that had the same method and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestsSnapshot {
    /// One of the nine standard methods, or `other`.
    pub method: &'static str,
    /// The class of the status, such as `2xx`, or `error`, `cancelled`, `panicked`.
    pub status: &'static str,
    /// The number of requests.
    pub count: u64,
}

/// The figures of one runtime.
#[derive(Clone, Debug)]
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
    /// Stalls by cause. Every cause is present, also those without a stall.
    pub stalls: Vec<CauseSnapshot>,
    /// Stalls that are only suspected, and in no other count; see [`Certainty`](crate::Certainty).
    pub suspected: StallSnapshot,
    /// Workers that have been in one poll for at least the threshold, suspected stalls excluded.
    pub blocked_workers: usize,
    /// The duration of the longest of these polls so far; zero if no worker is blocked.
    pub oldest_stall: Duration,
    /// Tokio's own metrics of the runtime.
    pub tokio: TokioSnapshot,
}

/// The figures of one site of one runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SiteSnapshot {
    /// The runtime's name.
    pub runtime: Arc<str>,
    /// The location in the code.
    pub site: Site,
    /// Polls of the tasks spawned (or futures watched) at the site.
    pub polls: u64,
    /// The time that these polls took.
    pub busy: Duration,
    /// The longest of these polls.
    pub poll_max: Duration,
    /// Stalls that the site's own code caused: all but `starved` and `paused` ones.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallSnapshot {
    /// The number of stalls, including ongoing ones.
    pub count: u64,
    /// The total duration of the stalls, including ongoing ones so far.
    pub time: Duration,
}

impl StallSnapshot {
    pub(crate) fn new(count: u64, time: Duration) -> StallSnapshot {
        StallSnapshot { count, time }
    }
}

/// The stalls of one runtime that had the same cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CauseSnapshot {
    /// The cause.
    pub cause: Cause,
    /// The stalls.
    pub stalls: StallSnapshot,
}

/// The state of pollwatch itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WatchdogSnapshot {
    /// The threshold.
    pub threshold: Duration,
    /// The upper bounds of the buckets of [`RuntimeSnapshot::polls`] and
    /// [`RuntimeSnapshot::schedule_delay`], in ascending order.
    pub bucket_bounds: Vec<Duration>,
    /// The coverage: what is measured and what is not.
    pub coverage: Coverage,
    /// Stalls, panics and pauses whose first report was not logged because of the rate limit of the
    /// log.
    pub reports_suppressed: u64,
    /// Reports that did not reach the log and the callback, because these were too slow.
    pub reports_lost: u64,
    /// Stack captures, by result.
    pub captures: Vec<CaptureSnapshot>,
    /// Time in `allow_blocking` scopes that have ended, by reason.
    pub allowed_blocking: Vec<AllowedSnapshot>,
    /// Sites that exceeded `max_sites`, counted once for each thread and site.
    pub sites_overflowed: u64,
    /// Requests whose route exceeded `max_routes`.
    pub routes_overflowed: u64,
    /// Wake-ups of the watchdog that were late by a threshold (at least 5 ms) or more.
    pub oversleeps: u64,
    /// Wake-ups of the watchdog.
    pub wakeups: u64,
    /// Panics in callbacks and hooks of the application.
    pub callback_panics: u64,
    /// Times that a collector of the application was left out of `/metrics`.
    pub collector_failures: u64,
}

/// The stack captures that had the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureSnapshot {
    /// The label `result` of `pollwatch_captures_total`.
    pub result: &'static str,
    /// The number of captures.
    pub count: u64,
}

/// The time spent in `allow_blocking` scopes with the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllowedSnapshot {
    /// The reason given to [`allow_blocking`](crate::allow_blocking).
    pub reason: &'static str,
    /// The total time.
    pub time: Duration,
}
