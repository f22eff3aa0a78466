//! The one table of metrics: names, meanings, labels. Code and documentation are made from it.

use crate::measure::runtime_stats::{BUSY_RATIO, COUNTERS, GAUGES, WORKER_COUNTERS, WORKER_GAUGES};

/// What kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// One metric: name without the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Def {
    pub(crate) name: &'static str,
    pub(crate) kind: Type,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

/// Every name begins with this.
pub(crate) const PREFIX: &str = "pollwatch_";

const RUNTIME: &[&str] = &["runtime"];
const WORKER: &[&str] = &["runtime", "worker"];
const SITE: &[&str] = &["runtime", "site"];
const ROUTE: &[&str] = &["route"];
const CAUSE: &[&str] = &["runtime", "cause"];

macro_rules! table {
    ($($id:ident: $kind:ident $name:literal $labels:expr, $help:expr;)*) => {
        $(pub(crate) const $id: Def = Def { name: $name, kind: Type::$kind, labels: $labels, help: $help };)*
        const FIXED: &[Def] = &[$($id),*];
    };
}

table! {
    POLLS: Counter "polls_total" RUNTIME, "Polls measured, on and off workers.";
    BUSY: Counter "poll_busy_seconds_total" RUNTIME, "Time that these polls took.";
    DURATION: Histogram "poll_duration_seconds" RUNTIME, "Durations of these polls.";
    STALLS: Counter "stalls_total" CAUSE, "Polls that blocked a worker for the threshold or longer, by what the thread was doing.";
    STALL_SECONDS: Counter "stall_seconds_total" CAUSE, "Time of these stalls; grows while one lasts.";
    SUSPECTED: Counter "suspected_stalls_total" RUNTIME,
        "Stalls that are only suspected: of tasks that nobody wrapped, without task hooks. In no other count.";
    SUSPECTED_SECONDS: Counter "suspected_stall_seconds_total" RUNTIME, "Time of these; grows while one lasts.";
    BLOCKED: Gauge "blocked_workers" RUNTIME, "Workers that are in a poll for the threshold or longer right now.";
    OLDEST: Gauge "oldest_stall_seconds" RUNTIME, "How long the longest of these polls has lasted; 0 when there is none.";
    DELAY: Histogram "schedule_delay_seconds" RUNTIME,
        "From waking a task to its poll, by a probe while the runtime is polling. Blind to one blocked worker among several.";
    SITE_POLLS: Counter "site_polls_total" SITE, "Polls of the tasks spawned (or futures watched) at a place.";
    SITE_BUSY: Counter "site_busy_seconds_total" SITE, "Time that these polls took.";
    SITE_MAX: Gauge "site_poll_max_seconds" SITE, "The longest of these polls since the start.";
    SITE_STALLS: Counter "site_stalls_total" SITE, "Stalls of these tasks that are their fault: neither those that were given no CPU (starved) nor those in which the whole process stood still (paused).";
    SITE_STALL_SECONDS: Counter "site_stall_seconds_total" SITE, "Time of these stalls; grows while one lasts.";
    SPAWNED: Counter "tasks_spawned_total" SITE, "Tasks spawned at a place: all with task hooks, else those of Watchdog::spawn.";
    TERMINATED: Counter "tasks_terminated_total" SITE, "Tasks of these that have ended, however they did.";
    ALIVE: Gauge "tasks_alive" SITE, "Tasks of these that have not ended; not told for other.";
    COMPLETED: Counter "tasks_completed_total" SITE, "Futures of watch and spawn that were polled to their end.";
    CANCELLED: Counter "tasks_cancelled_total" SITE, "Futures of watch and spawn that were dropped before their end.";
    PANICKED: Counter "tasks_panicked_total" SITE, "Futures of watch and spawn that panicked.";
    ROUTE_REQUESTS: Counter "route_requests_total" &["route", "method", "status"],
        "Requests by the class of their status; or error, cancelled (dropped before there was a response) or panicked.";
    ROUTE_BUSY: Counter "route_busy_seconds_total" ROUTE,
        "Time that the calls and polls of these requests took, bodies included: computing and blocking, not waiting.";
    ROUTE_MAX: Gauge "route_poll_max_seconds" ROUTE, "The longest of these polls since the start.";
    ROUTE_STALLS: Counter "route_stalls_total" ROUTE,
        "Polls of these requests that blocked a worker for the threshold or longer, by themselves.";
    ROUTE_STALL_SECONDS: Counter "route_stall_seconds_total" ROUTE, "Time of these stalls; grows while one lasts.";
    ROUTE_DURATION: Histogram "route_poll_duration_seconds" ROUTE,
        "Durations of these polls, where WatchdogBuilder::route_histograms turns it on; not the latency of requests.";
    ROUTE_SHED: Counter "route_shed_total" ROUTE, "Requests turned away because the runtime was late.";
    THRESHOLD: Gauge "threshold_seconds" &[], "A poll that blocks a worker this long is a stall.";
    COVERAGE: Gauge "coverage" &["source"],
        "1 for each source of information that is active: hooks (every task of some runtime), watch, workers (looked at from outside), watchdog (stalls are looked for), exact_wakeup, cpu_counter, stacks.";
    BUILD: Gauge "build_info" &["version", "mode"], "1; the version of pollwatch, and whether tokio is unstable or stable.";
    SUPPRESSED: Counter "reports_suppressed_total" &[], "Stalls and panics left out of the log because their place had been told often.";
    ALLOWED: Counter "allowed_blocking_seconds_total" &["reason"], "Time in allow_blocking scopes that have ended.";
    REPORTS_LOST: Counter "reports_lost_total" &[], "Reports that log and callback never got, because those took too long or they were too many.";
    CAPTURES: Counter "captures_total" &["result"], "Stacks asked for, by how that ended.";
    OVERFLOWED: Counter "sites_overflowed_total" &[], "Places that did not fit into max_sites, once a thread and place.";
    ROUTES_OVERFLOWED: Counter "routes_overflowed_total" &[], "Requests whose route did not fit into max_routes.";
    LOST: Counter "lost_polls_total" &[], "Slow polls that came faster than the watchdog could take them; told nowhere but in the histogram.";
    MEASURED: Gauge "measured_threads" &[], "Threads that are measured now; at most 4,096.";
    UNMEASURED: Counter "unmeasured_threads_total" &[], "Threads that were not measured, at first or at all, because there were too many.";
    OVERSLEEPS: Counter "watchdog_oversleeps_total" &[], "Times that the watchdog woke a threshold (at least 5 ms) or more too late.";
    WAKEUPS: Counter "watchdog_wakeups_total" &[], "Times that the watchdog woke.";
    CALLBACK_PANICS: Counter "callback_panics_total" &[], "Panics in callbacks and hooks of the application's.";
}

const fn def(name: &'static str, kind: Type, labels: &'static [&'static str], help: &'static str) -> Def {
    Def { name, kind, labels, help }
}

/// tokio's own figures, in the order of their tables.
pub(crate) fn runtime_counters() -> impl Iterator<Item = Def> {
    COUNTERS.iter().map(|&(name, help, _)| def(name, Type::Counter, RUNTIME, help))
}

pub(crate) fn runtime_gauges() -> impl Iterator<Item = Def> {
    GAUGES.iter().map(|&(name, help, _)| def(name, Type::Gauge, RUNTIME, help))
}

pub(crate) const RUNTIME_BUSY_RATIO: Def = def(BUSY_RATIO.0, Type::Gauge, RUNTIME, BUSY_RATIO.1);

pub(crate) fn worker_counters() -> impl Iterator<Item = Def> {
    WORKER_COUNTERS.iter().map(|&(name, help, _)| def(name, Type::Counter, WORKER, help))
}

pub(crate) fn worker_gauges() -> impl Iterator<Item = Def> {
    WORKER_GAUGES.iter().map(|&(name, help, _)| def(name, Type::Gauge, WORKER, help))
}

/// All metrics, in the order of `/metrics`.
pub(crate) fn all() -> Vec<Def> {
    let mut all = FIXED.to_vec();
    all.extend(runtime_counters().chain(runtime_gauges()).chain([RUNTIME_BUSY_RATIO]));
    all.extend(worker_counters().chain(worker_gauges()));
    all
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
