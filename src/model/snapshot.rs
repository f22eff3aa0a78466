//! All metrics as plain data: the parts of a [`Snapshot`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::detect::outcome::Outcome;
use crate::measure::histogram::{BOUNDS, HistogramTotals};
use crate::measure::route::tally;
use crate::measure::runtime::{OTHER, Runtime};
use crate::measure::runtime_stats::StatsTotals;
use crate::measure::site::SiteId;
use crate::measure::tally::{Event, Sum, Totals};
use crate::model::cause::Cause;
use crate::model::coverage::Coverage;
use crate::model::id::RuntimeId;
use crate::model::site::Site;
use crate::report::totals::{CountAndTime, StallTotals};
use crate::watchdog::WatchdogState;

/// All metrics of one moment; from [`Watchdog::snapshot`](crate::Watchdog::snapshot). The exact meaning of each is that of the
/// Prometheus metric of the same name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Each runtime, in the order in which it became known.
    pub runtimes: Vec<RuntimeSnapshot>,
    /// Each site at which something was counted.
    pub sites: Vec<SiteSnapshot>,
    /// Each route of which a request was seen.
    pub routes: Vec<RouteSnapshot>,
    /// pollwatch itself.
    pub watchdog: WatchdogSnapshot,
}

/// One route; see [`Watchdog::layer`](crate::Watchdog::layer).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteSnapshot {
    /// Its name.
    pub route: Arc<str>,
    /// Requests that are over, by method and status.
    pub requests: Vec<RequestsSnapshot>,
    /// Polls of its responses and their bodies.
    pub polls: u64,
    /// The time that these took, and the calls of the service before them.
    pub busy: Duration,
    /// The longest of all these.
    pub poll_max: Duration,
    /// How many took at most how long; empty unless [`route_histograms`](crate::WatchdogBuilder::route_histograms) is on.
    pub poll_buckets: Vec<BucketSnapshot>,
    /// How many polls the buckets are of, those above the last bound included; 0 where there are none.
    pub polls_in_buckets: u64,
    /// Polls that blocked a worker for the threshold or longer by themselves.
    pub stalls: StallSnapshot,
    /// Requests turned away because the runtime was late.
    pub shed: u64,
}

/// The requests of one route with one method and one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestsSnapshot {
    /// One of the nine standard methods, or `other`.
    pub method: &'static str,
    /// The status' class, such as `2xx`, or `error`, `cancelled`, `panicked`.
    pub status: &'static str,
    /// How many.
    pub count: u64,
}

/// One runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RuntimeSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// How many polls.
    pub polls_total: u64,
    /// How long they were; estimated with [`sampled_timing`](crate::WatchdogBuilder::sampled_timing), its count as well.
    pub polls: HistogramSnapshot,
    /// From the moment a task was woken to its poll, as the probe met it while the runtime was polling.
    pub schedule_delay: HistogramSnapshot,
    /// Stalls by cause: every cause, also those with none.
    pub stalls: Vec<CauseSnapshot>,
    /// Stalls that are only suspected, and counted nowhere else; see [`Certainty`](crate::Certainty).
    pub suspected: StallSnapshot,
    /// Workers that are in a poll for at least the threshold at this moment, as far as that is certain.
    pub blocked_workers: usize,
    /// How long the longest of these polls has lasted so far; zero when there is none.
    pub oldest_stall: Duration,
    #[cfg_attr(not(feature = "prometheus"), allow(dead_code))]
    pub(crate) stats: StatsTotals,
}

/// One site of one runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SiteSnapshot {
    /// The runtime's name.
    pub runtime: Arc<str>,
    /// The place.
    pub site: Site,
    /// Polls of the tasks spawned there.
    pub polls: u64,
    /// The time that these took.
    pub busy: Duration,
    /// The longest of them.
    pub poll_max: Duration,
    /// Stalls of these tasks that are their fault.
    pub stalls: StallSnapshot,
    /// Tasks spawned there.
    pub spawned: u64,
    /// Tasks spawned there that have ended, however they did.
    pub terminated: u64,
    /// Watched futures that were polled to their end.
    pub completed: u64,
    /// Watched futures that were dropped before their end.
    pub cancelled: u64,
    /// Watched futures that panicked.
    pub panicked: u64,
    /// Whether there are outcomes to be told, be they all 0.
    #[cfg_attr(not(feature = "prometheus"), allow(dead_code))]
    pub(crate) has_outcomes: bool,
}

impl SiteSnapshot {
    /// Tasks that have not ended; `None` for `other`, whose ends are not all told apart.
    pub fn alive(&self) -> Option<u64> {
        self.site.location().map(|_| self.spawned.saturating_sub(self.terminated))
    }
}

/// How many stalls, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallSnapshot {
    /// Stalls that have begun.
    pub count: u64,
    /// Their time, that of those that go on included.
    pub time: Duration,
}

/// The stalls of one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CauseSnapshot {
    /// The cause.
    pub cause: Cause,
    /// The stalls.
    pub stalls: StallSnapshot,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketSnapshot {
    /// Its upper bound.
    pub bound: Duration,
    /// How many took at most that long: those of the buckets below are in it.
    pub count: u64,
}

/// Durations in buckets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HistogramSnapshot {
    /// How many.
    pub count: u64,
    /// The sum of all.
    pub sum: Duration,
    /// By ascending upper bounds.
    pub buckets: Vec<BucketSnapshot>,
    totals: HistogramTotals,
}

impl HistogramSnapshot {
    fn new(totals: HistogramTotals, sum: Option<u64>) -> HistogramSnapshot {
        HistogramSnapshot {
            count: totals.count(),
            sum: Duration::from_nanos(sum.unwrap_or_else(|| totals.sum())),
            buckets: buckets(&BOUNDS, totals.cumulative()),
            totals,
        }
    }

    /// The duration that the share `q` (0 to 1) did not exceed, to within 1/16 of its value; zero when there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        Duration::from_nanos(self.totals.quantile(q))
    }
}

/// pollwatch itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WatchdogSnapshot {
    /// The threshold.
    pub threshold: Duration,
    /// What is seen and what is not.
    pub coverage: Coverage,
    /// Stalls and panics left out of the log, because their place had been told often.
    pub reports_suppressed: u64,
    /// Reports that log and callback never got, because those took too long.
    pub reports_lost: u64,
    /// Stacks asked for, by how that ended.
    pub captures: Vec<CaptureSnapshot>,
    /// Time in `allow_blocking` scopes that have ended, by reason.
    pub allowed_blocking: Vec<AllowedSnapshot>,
    /// Places that did not fit into `max_sites`, once a thread and place.
    pub sites_overflowed: u64,
    /// Requests whose route did not fit into `max_routes`.
    pub routes_overflowed: u64,
    /// Times that the watchdog woke up late by a threshold (at least 5 ms) or more.
    pub oversleeps: u64,
    /// Times that the watchdog woke up.
    pub wakeups: u64,
    /// Panics in callbacks and hooks of yours.
    pub callback_panics: u64,
}

/// Stacks that were asked for and ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureSnapshot {
    /// How: the label `result` of `pollwatch_captures_total`.
    pub result: &'static str,
    /// How many.
    pub count: u64,
}

/// Time that was meant to block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllowedSnapshot {
    /// What [`allow_blocking`](crate::allow_blocking) was given.
    pub reason: &'static str,
    /// How long in all.
    pub time: Duration,
}

impl Snapshot {
    pub(crate) fn take(shared: &WatchdogState) -> Snapshot {
        let meter = &shared.meter;
        let mut sum = meter.sum();
        let stalls = shared.totals();
        let runtimes = meter.runtimes.all();
        let names: Vec<Arc<str>> = runtimes.iter().map(|r| r.name.clone()).collect();
        let sites = sites(shared, &sum.cells, &stalls, &names);
        let runtimes = runtimes.iter().filter(|r| r.id != OTHER || sum.polls.contains_key(&OTHER));
        Snapshot {
            sites,
            routes: routes(shared, &stalls),
            runtimes: runtimes
                .cloned()
                .collect::<Vec<_>>()
                .iter()
                .map(|r| runtime(shared, r, &mut sum, &stalls))
                .collect(),
            watchdog: WatchdogSnapshot {
                threshold: Duration::from_nanos(meter.threshold),
                coverage: shared.coverage(),
                reports_suppressed: shared.report_counters.suppressed.load(Ordering::Relaxed),
                reports_lost: shared.report_counters.lost.load(Ordering::Relaxed) + meter.panics.lost(),
                captures: Outcome::ALL
                    .map(|outcome| CaptureSnapshot { result: outcome.as_str(), count: shared.status.captures(outcome) })
                    .into(),
                allowed_blocking: meter
                    .allowed()
                    .into_iter()
                    .map(|(reason, nanos)| AllowedSnapshot { reason, time: Duration::from_nanos(nanos) })
                    .collect(),
                sites_overflowed: meter.sites.overflowed(),
                routes_overflowed: meter.routes.overflowed(),
                oversleeps: shared.status.oversleeps.load(Ordering::Relaxed),
                wakeups: shared.status.wakeups.load(Ordering::Relaxed),
                callback_panics: shared.report_counters.callback_panics.load(Ordering::Relaxed)
                    + meter.hook_panics.load(Ordering::Relaxed),
            },
        }
    }
}

fn runtime(shared: &WatchdogState, runtime: &Runtime, sum: &mut Sum, stalls: &StallTotals) -> RuntimeSnapshot {
    let cells = || sum.cells.iter().filter(|((id, _), _)| *id == runtime.id).map(|(_, totals)| totals);
    let (busy, polls_total) = (cells().map(|t| t.busy).sum(), cells().map(|t| t.polls).sum());
    let blocked = shared.blocked_workers(runtime);
    let mut delay = HistogramTotals::default();
    runtime.delay.add_to(&mut delay);
    RuntimeSnapshot {
        name: runtime.name.clone(),
        polls_total,
        polls: HistogramSnapshot::new(sum.polls.remove(&runtime.id).unwrap_or_default(), Some(busy)),
        schedule_delay: HistogramSnapshot::new(delay, None),
        stalls: Cause::ALL
            .iter()
            .map(|&cause| CauseSnapshot { cause, stalls: amount(stalls.causes.get(&(RuntimeId(runtime.id), cause))) })
            .collect(),
        suspected: amount(stalls.suspected.get(&RuntimeId(runtime.id))),
        blocked_workers: blocked.len(),
        oldest_stall: Duration::from_nanos(blocked.iter().map(|b| b.elapsed.0).max().unwrap_or(0)),
        stats: runtime.stats(),
    }
}

fn sites(
    shared: &WatchdogState,
    cells: &HashMap<(u16, SiteId), Totals>,
    stalls: &StallTotals,
    names: &[Arc<str>],
) -> Vec<SiteSnapshot> {
    let mut keys: Vec<_> = cells.keys().copied().collect();
    keys.sort_unstable();
    let snapshot = |key: (u16, SiteId)| {
        let totals = &cells[&key];
        Some(SiteSnapshot {
            runtime: names.get(key.0 as usize)?.clone(),
            site: shared.meter.sites.get(key.1),
            polls: totals.polls,
            busy: Duration::from_nanos(totals.busy),
            poll_max: Duration::from_nanos(totals.max),
            stalls: amount(stalls.sites.get(&(RuntimeId(key.0), key.1))),
            spawned: totals.event(Event::Spawned),
            terminated: totals.event(Event::Terminated),
            completed: totals.event(Event::Completed),
            cancelled: totals.event(Event::Cancelled),
            panicked: totals.event(Event::Panicked),
            has_outcomes: totals.event(Event::Watched) > 0,
        })
    };
    keys.into_iter().filter_map(snapshot).collect()
}

fn routes(shared: &WatchdogState, stalls: &StallTotals) -> Vec<RouteSnapshot> {
    let mut totals = shared.meter.sum_of_routes();
    // Its very first poll may still block.
    for route in stalls.routes.keys() {
        totals.entry(*route).or_default();
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_unstable_by_key(|(route, _)| *route);
    let name = |route| shared.meter.routes.name(route);
    totals
        .into_iter()
        .map(|(route, t)| RouteSnapshot::new(name(route), &t, amount(stalls.routes.get(&route))))
        .collect()
}

impl RouteSnapshot {
    pub(crate) fn new(route: Arc<str>, totals: &tally::Totals, stalls: StallSnapshot) -> RouteSnapshot {
        let (buckets, polls_in_buckets) = totals.durations().unwrap_or_default();
        RouteSnapshot {
            route,
            requests: totals
                .requests()
                .map(|(method, status, count)| RequestsSnapshot { method, status, count })
                .collect(),
            polls: totals.polls,
            busy: Duration::from_nanos(totals.busy),
            poll_max: Duration::from_nanos(totals.max),
            poll_buckets: self::buckets(&tally::BOUNDS, buckets),
            polls_in_buckets,
            stalls,
            shed: totals.shed,
        }
    }
}

fn buckets(bounds: &[u64], counts: impl IntoIterator<Item = u64>) -> Vec<BucketSnapshot> {
    let bounds = bounds.iter().map(|&bound| Duration::from_nanos(bound));
    bounds.zip(counts).map(|(bound, count)| BucketSnapshot { bound, count }).collect()
}

fn amount(amount: Option<&CountAndTime>) -> StallSnapshot {
    let amount = amount.copied().unwrap_or_default();
    StallSnapshot { count: amount.count, time: Duration::from_nanos(amount.nanos) }
}
