//! `/live`: what stands and what was counted, at this moment, as JSON for the page and for other viewers. Made only when it is asked
//! for, on the thread that answers.
//!
//! docs/live.schema.json describes it; tests/it/live.rs holds it to that.

mod stalls;
mod watchdog;
mod workers;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::stalls::Stalls;
use self::watchdog::Watchdog;
use self::workers::Worker;
use super::families;
use super::profile::program;
use crate::measure::histogram::BOUNDS;
use crate::measure::hooks;
use crate::measure::runtime::OTHER;
use crate::measure::runtime_stats::{GAUGES, WORKER_COUNTERS};
use crate::model::cause::Cause;
use crate::model::snapshot::{
    CauseSnapshot, HistogramSnapshot, RouteSnapshot, RuntimeSnapshot, SiteSnapshot, Snapshot,
};
use crate::report::profile::UnderRoute;

use crate::util::lock;
use crate::watchdog::WatchdogState;

/// Changes when a field goes, or comes to mean something else; not when one is added.
const SCHEMA: u32 = 1;
/// Sites told, and routes: those that blocked longest, then the busiest.
const MOST: usize = 100;

#[derive(Serialize)]
struct Live {
    schema: u32,
    version: &'static str,
    mode: &'static str,
    program: String,
    pid: u32,
    now_unix_seconds: f64,
    uptime_seconds: f64,
    /// Whether stalls are still looked for.
    watching: bool,
    /// Why not, where they are not.
    stopped: Option<Stopped>,
    threshold_seconds: f64,
    bucket_bounds_seconds: [f64; BOUNDS.len()],
    runtimes: Vec<Runtime>,
    sites: Vec<Site>,
    sites_left_out: usize,
    routes: Vec<Route>,
    routes_left_out: usize,
    #[serde(flatten)]
    stalls: Stalls,
    watchdog: Watchdog,
}

/// Why no further stall is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stopped {
    /// `shutdown`, or the last handle was dropped.
    ShutDown,
    /// The watchdog's thread panicked again and again.
    GaveUp,
}

impl Stopped {
    fn of(shared: &WatchdogState) -> Option<Stopped> {
        // In this order: a watchdog that was shut down has been told to before it ended.
        let watching = shared.status.is_running();
        if shared.status.is_stopping() {
            return Some(Stopped::ShutDown);
        }
        (!watching).then_some(Stopped::GaveUp)
    }
}

#[derive(Serialize)]
struct Runtime {
    name: std::sync::Arc<str>,
    alive: bool,
    every_task: bool,
    workers: Vec<Worker>,
    blocked_workers: usize,
    oldest_stall_seconds: f64,
    busy_ratio: f64,
    alive_tasks: Option<f64>,
    global_queue_depth: Option<f64>,
    /// From here on `null` without `tokio_unstable`.
    local_queue_depth: Option<f64>,
    blocking_queue_depth: Option<f64>,
    blocking_threads: Option<f64>,
    idle_blocking_threads: Option<f64>,
    polls: Histogram,
    schedule_delay: Histogram,
    stalls_by_cause: Vec<OfCause>,
    /// In none of these.
    suspected: Suspected,
}

#[derive(Serialize)]
struct Histogram {
    count: u64,
    sum_seconds: f64,
    /// How many took at most each of the bounds.
    buckets: Vec<u64>,
}

#[derive(Serialize)]
struct OfCause {
    cause: Cause,
    stalls: u64,
    stalled_seconds: f64,
}

#[derive(Serialize)]
struct Suspected {
    stalls: u64,
    stalled_seconds: f64,
}

#[derive(Serialize)]
struct Site {
    runtime: std::sync::Arc<str>,
    site: String,
    polls: u64,
    busy_seconds: f64,
    max_seconds: f64,
    stalls: u64,
    stalled_seconds: f64,
    alive_tasks: Option<u64>,
}

#[derive(Serialize)]
struct Route {
    route: std::sync::Arc<str>,
    requests: u64,
    polls: u64,
    busy_seconds: f64,
    max_seconds: f64,
    stalls: u64,
    stalled_seconds: f64,
    /// Of the tasks that its handlers spawned.
    spawned_stalls: u64,
    spawned_stalled_seconds: f64,
    shed: u64,
}

/// All of it, as JSON.
pub(crate) fn json(shared: &WatchdogState) -> serde_json::Result<String> {
    serde_json::to_string(&Live::of(shared))
}

impl Live {
    fn of(shared: &WatchdogState) -> Live {
        let snapshot = Snapshot::take(shared);
        let stopped = Stopped::of(shared);
        let runtimes: Vec<Runtime> = snapshot.runtimes.iter().map(|runtime| Runtime::of(shared, runtime)).collect();
        let (sites, sites_left_out) = sites(&snapshot.sites);
        let (routes, routes_left_out) = routes(shared, &snapshot.routes);
        let workers = runtimes.iter().flat_map(|runtime| &runtime.workers);
        // The watchdog does not wait for what is made of them.
        let recent = lock(&shared.stalls).recent();
        Live {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            mode: if hooks::INSTALLED { "unstable" } else { "stable" },
            program: program(),
            pid: std::process::id(),
            now_unix_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, seconds),
            uptime_seconds: seconds(shared.started.elapsed()),
            watching: stopped.is_none(),
            stopped,
            threshold_seconds: seconds(snapshot.watchdog.threshold),
            bucket_bounds_seconds: BOUNDS.map(|bound| seconds(Duration::from_nanos(bound))),
            stalls: Stalls::of(recent, workers),
            runtimes,
            sites,
            sites_left_out,
            routes,
            routes_left_out,
            watchdog: Watchdog::of(&snapshot.watchdog),
        }
    }
}

impl Runtime {
    fn of(shared: &WatchdogState, snapshot: &RuntimeSnapshot) -> Runtime {
        let entry = shared.meter.runtimes.all().into_iter().find(|r| r.id != OTHER && r.name == snapshot.name);
        let stats = &snapshot.stats;
        let gauge = |name| GAUGES.iter().position(|(known, ..)| *known == name).map(|at| stats.gauges[at]);
        let busy = WORKER_COUNTERS.iter().position(|(name, ..)| *name == "runtime_worker_busy_seconds_total");
        let busy = |worker: usize| stats.workers.get(worker).zip(busy).map_or(0.0, |(totals, at)| totals.counters[at]);
        let workers = entry.as_ref().map(|entry| workers::of(shared, entry, busy)).unwrap_or_default();
        let blocked = || workers.iter().filter_map(Worker::stalled_seconds);
        Runtime {
            name: snapshot.name.clone(),
            alive: entry.as_ref().is_some_and(|entry| entry.is_live()),
            every_task: entry.is_some_and(|entry| entry.is_hooked()),
            blocked_workers: blocked().count(),
            oldest_stall_seconds: blocked().fold(0.0, f64::max),
            workers,
            busy_ratio: stats.busy_ratio,
            alive_tasks: gauge("runtime_alive_tasks"),
            global_queue_depth: gauge("runtime_global_queue_depth"),
            local_queue_depth: gauge("runtime_local_queue_depth"),
            blocking_queue_depth: gauge("runtime_blocking_queue_depth"),
            blocking_threads: gauge("runtime_blocking_threads"),
            idle_blocking_threads: gauge("runtime_idle_blocking_threads"),
            polls: Histogram::of(&snapshot.polls),
            schedule_delay: Histogram::of(&snapshot.schedule_delay),
            suspected: Suspected {
                stalls: snapshot.suspected.count,
                stalled_seconds: seconds(snapshot.suspected.time),
            },
            stalls_by_cause: snapshot.stalls.iter().map(OfCause::of).collect(),
        }
    }
}

impl Histogram {
    fn of(snapshot: &HistogramSnapshot) -> Histogram {
        let buckets = snapshot.buckets.iter().map(|bucket| bucket.count).collect();
        Histogram { count: snapshot.count, sum_seconds: seconds(snapshot.sum), buckets }
    }
}

impl OfCause {
    fn of(snapshot: &CauseSnapshot) -> OfCause {
        let CauseSnapshot { cause, stalls } = snapshot;
        OfCause { cause: *cause, stalls: stalls.count, stalled_seconds: seconds(stalls.time) }
    }
}

/// The worst of them, and how many are left out.
fn sites(all: &[SiteSnapshot]) -> (Vec<Site>, usize) {
    let labels = families::labels(all);
    let mut sites: Vec<_> = all.iter().zip(labels).collect();
    sites.sort_by_key(|(site, _)| std::cmp::Reverse((site.stalls.time, site.busy)));
    let site = |(site, label): (&SiteSnapshot, String)| Site {
        runtime: site.runtime.clone(),
        site: label,
        polls: site.polls,
        busy_seconds: seconds(site.busy),
        max_seconds: seconds(site.poll_max),
        stalls: site.stalls.count,
        stalled_seconds: seconds(site.stalls.time),
        alive_tasks: site.alive().filter(|_| site.spawned > 0),
    };
    (sites.into_iter().take(MOST).map(site).collect(), all.len().saturating_sub(MOST))
}

/// As [`sites`].
fn routes(shared: &WatchdogState, all: &[RouteSnapshot]) -> (Vec<Route>, usize) {
    let under = lock(&shared.profile).under_routes();
    let under = |route: &RouteSnapshot| under.get(&route.route).copied().unwrap_or_default();
    let mut routes: Vec<(&RouteSnapshot, UnderRoute)> = all.iter().map(|route| (route, under(route))).collect();
    routes.sort_by_key(|(route, under)| {
        std::cmp::Reverse((route.stalls.time + Duration::from_nanos(under.nanos), route.busy))
    });
    let route = |(route, under): (&RouteSnapshot, UnderRoute)| Route {
        route: route.route.clone(),
        requests: route.requests.iter().map(|requests| requests.count).sum(),
        polls: route.polls,
        busy_seconds: seconds(route.busy),
        max_seconds: seconds(route.poll_max),
        stalls: route.stalls.count,
        stalled_seconds: seconds(route.stalls.time),
        spawned_stalls: under.count,
        spawned_stalled_seconds: seconds(Duration::from_nanos(under.nanos)),
        shed: route.shed,
    };
    (routes.into_iter().take(MOST).map(route).collect(), all.len().saturating_sub(MOST))
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
