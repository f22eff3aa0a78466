//! The table of metrics: names, labels and definitions. `/metrics` and the documentation are both
//! generated from it.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// The definition of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetricDef {
    /// The name without [`PREFIX`].
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// The builds that have the metric.
    mode: Mode,
}

/// The builds that have a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Both,
    /// Builds with `tokio_unstable`.
    Unstable,
    /// Builds with `tokio_unstable` and the feature `delays`.
    Delays,
}

impl MetricDef {
    /// Returns whether this build has the metric.
    pub(super) fn is_available(&self) -> bool {
        match self.mode {
            Mode::Both => true,
            Mode::Unstable => cfg!(tokio_unstable),
            Mode::Delays => cfg!(all(tokio_unstable, feature = "delays")),
        }
    }
}

/// The start of every metric's name.
pub(super) const PREFIX: &str = "pollwatch_";

const RUNTIME: &[&str] = &["runtime"];
const WORKER: &[&str] = &["runtime", "worker"];
const SITE: &[&str] = &["runtime", "site"];
const ROUTE: &[&str] = &["route"];
const REQUEST: &[&str] = &["route", "method", "status"];
const CAUSE: &[&str] = &["runtime", "cause"];
const LATE_REASON: &[&str] = &["runtime", "reason"];
const INCIDENT: &[&str] = &["runtime", "kind"];

/// Defines a constant for each metric, and a list of all of them in their order.
macro_rules! table {
    ($list:ident, $mode:ident: $($id:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) const $id: MetricDef =
            MetricDef { name: $name, kind: MetricKind::$kind, labels: $labels, help: $help, mode: Mode::$mode };)*
        const $list: &[MetricDef] = &[$($id),*];
    };
}

table! { MEASURED_METRICS, Both:
    POLLS: Counter "polls_total" RUNTIME, "Measured polls, on workers and on other threads.";
    BUSY: Counter "poll_busy_seconds_total" RUNTIME, "Total duration of all measured polls.";
    DURATION: Histogram "poll_duration_seconds" RUNTIME, "Durations of all measured polls.";
    STALLS: Counter "stalls_total" CAUSE,
        "Polls that blocked a worker for the threshold or longer, by the cause with the most time. A stall counts once, \
         when it ends or has lasted a second.";
    STALL_SECONDS: Counter "stall_seconds_total" CAUSE,
        "Total duration of stalls, by what the thread was doing at the time; grows while a stall lasts.";
    SUSPECTED: Counter "suspected_stalls_total" RUNTIME,
        "Stalls that are only suspected, of tasks that are not watched in a build without task hooks; in no other count.";
    SUSPECTED_SECONDS: Counter "suspected_stall_seconds_total" RUNTIME,
        "Total duration of suspected stalls; grows while one lasts.";
    ROOT_STALLS: Counter "root_stalls_total" RUNTIME,
        "Polls of a watched root (the future of block_on) of a multi-thread runtime that took the threshold or longer. \
         They block no worker, and are in no other count.";
    ROOT_STALL_SECONDS: Counter "root_stall_seconds_total" RUNTIME,
        "Total duration of the stalls in root_stalls_total; grows while one lasts.";
    BLOCKED: Gauge "blocked_workers" RUNTIME, "Workers that have been in one poll for the threshold or longer.";
    OLDEST: Gauge "oldest_stall_seconds" RUNTIME,
        "Duration so far of the longest poll that blocks a worker now; 0 if none does.";
    OFF_WORKER: Gauge "offworker_polls" RUNTIME,
        "Polls of measured tasks that have lasted for the threshold or longer after block_in_place handed their worker \
         on. They block no worker.";
    OLDEST_OFF_WORKER: Gauge "oldest_offworker_poll_seconds" RUNTIME,
        "Duration so far of the longest poll in offworker_polls; 0 if there is none.";
    INCIDENTS: Counter "incidents_total" INCIDENT,
        "Incidents that have started: a condition of the whole runtime lasted for unhealthy_after, or the shortest time \
         of on_incident.";
    INCIDENT_ONGOING: Gauge "incident_ongoing" INCIDENT, "1 while an incident of the kind is ongoing, else 0.";
    DRIVER_ATTENDED: Gauge "driver_attended" RUNTIME,
        "0 while nobody attends the sockets and timers of the runtime although a worker is idle, or the runtime hangs; \
         else 1. Not reported where it cannot be known.";
    DRIVER_UNATTENDED: Counter "driver_unattended_total" RUNTIME,
        "Times that the worker which attended sockets and timers was blocked, and no idle worker took over.";
    DRIVER_UNATTENDED_SECONDS: Counter "driver_unattended_seconds_total" RUNTIME,
        "Total duration of the times in driver_unattended_total; grows while one lasts.";
    DRIVER_RESCUES: Counter "driver_rescues_total" RUNTIME,
        "Times that pollwatch woke a worker to attend sockets and timers, or to end a hang.";
    HANGS: Counter "runtime_hangs_total" RUNTIME,
        "Times that all workers were parked for a second or longer, and none of them attended sockets and timers.";
    HUNG_SECONDS: Counter "runtime_hung_seconds_total" RUNTIME,
        "Total duration of the times in runtime_hangs_total; grows while one lasts.";
    BLOCKING_POOL_AVAILABLE: Gauge "blocking_pool_available" RUNTIME,
        "0 while the pool for blocking work (spawn_blocking, files, name lookups) is full and calls wait for it; else 1. \
         Not reported where it cannot be known.";
    BLOCKING_POOL_FULL: Counter "blocking_pool_full_total" RUNTIME,
        "Times that calls waited for the blocking pool for a second or longer (blocking_pool_full_after), and no thread of \
         it was idle.";
    BLOCKING_POOL_FULL_SECONDS: Counter "blocking_pool_full_seconds_total" RUNTIME,
        "Total duration of the times in blocking_pool_full_total; grows while one lasts.";
    OLDEST_BLOCKING_CALL: Gauge "blocking_pool_oldest_call_seconds" RUNTIME,
        "While the blocking pool is full: how long its oldest call has waited at least, by threads that have not run \
         since. 0 where that is not known.";
    DELAY: Histogram "schedule_delay_seconds" RUNTIME,
        "Delay from waking a task to its poll, measured by a probe task while the runtime is polling. \
         It does not show one blocked worker among several.";
    LATE: Counter "late_reports_total" LATE_REASON,
        "Reports that a woken task waited four thresholds or longer for its poll and no stall explains it, by reason: \
         busy_workers (with short polls), no_cpu (their threads got none), unknown. Measured by a probe task.";
    SITE_POLLS: Counter "site_polls_total" SITE, "Polls of the tasks spawned (or futures watched) at the site.";
    SITE_BUSY: Counter "site_busy_seconds_total" SITE, "Total duration of the polls of the site.";
    SITE_MAX: Gauge "site_poll_max_seconds" SITE, "Duration of the longest poll of the site since the start.";
    SITE_STALLS: Counter "site_stalls_total" SITE,
        "Stalls of the site's tasks that their own code caused, counted as in stalls_total. Stalls that count as \
         starved (the thread got no CPU) or paused (the whole process was stopped) are left out.";
    SITE_STALL_SECONDS: Counter "site_stall_seconds_total" SITE,
        "Total duration of stalls of the site's tasks, without time in which they were starved or paused; grows while \
         one lasts.";
    SPAWNED: Counter "tasks_spawned_total" SITE,
        "Tasks spawned at the site: all tasks with task hooks, otherwise those of Watchdog::spawn.";
    TERMINATED: Counter "tasks_terminated_total" SITE, "Tasks of tasks_spawned_total that have ended, in any way.";
    ALIVE: Gauge "tasks_alive" SITE,
        "Tasks of tasks_spawned_total that have not ended. Not reported for the site other.";
    COMPLETED: Counter "tasks_completed_total" SITE, "Futures given to watch or spawn that completed.";
    CANCELLED: Counter "tasks_cancelled_total" SITE,
        "Futures given to watch or spawn that were dropped before they completed.";
    PANICKED: Counter "tasks_panicked_total" SITE, "Futures given to watch or spawn that panicked.";
    ROUTE_REQUESTS: Counter "route_requests_total" REQUEST,
        "Finished requests. The status is a class such as 2xx, or error, cancelled (dropped before there was a \
         response) or panicked.";
    ROUTE_BUSY: Counter "route_busy_seconds_total" ROUTE,
        "Total duration of the route's calls and polls, response bodies included: time spent computing or blocking, \
         not waiting.";
    ROUTE_MAX: Gauge "route_poll_max_seconds" ROUTE, "Duration of the route's longest call or poll since the start.";
    ROUTE_STALLS: Counter "route_stalls_total" ROUTE,
        "Requests of the route that alone blocked a worker for the threshold or longer. They count with their stall, \
         as in site_stalls_total.";
    ROUTE_STALL_SECONDS: Counter "route_stall_seconds_total" ROUTE,
        "Total duration of such requests, without time in which they were starved or paused; grows while one lasts.";
    ROUTE_SPAWNED_STALLS: Counter "route_spawned_stalls_total" ROUTE,
        "Stalls of tasks that were spawned under the route: by its handler, or by a task that its handler spawned. \
         All such tasks with task hooks, otherwise those of Watchdog::spawn.";
    ROUTE_SPAWNED_STALL_SECONDS: Counter "route_spawned_stall_seconds_total" ROUTE,
        "Total duration of the stalls in route_spawned_stalls_total; grows while one lasts.";
    ROUTE_DURATION: Histogram "route_poll_duration_seconds" ROUTE,
        "Durations of the route's polls, if WatchdogBuilder::route_histograms is on. Not the latency of requests.";
    THRESHOLD: Gauge "threshold_seconds" &[], "A poll that blocks a worker for at least this long is a stall.";
    COVERAGE: Gauge "coverage" &["source"],
        "1 if the source of information is active: hooks (every task of at least one runtime), watch (watched \
         futures), workers (workers inspected from outside), watchdog (stalls are detected), exact_wakeup, \
         cpu_counter, stacks.";
    BUILD: Gauge "build_info" &["version", "mode"],
        "Always 1; the version of pollwatch, and the mode: unstable with tokio_unstable, otherwise stable.";
    SUPPRESSED: Counter "reports_suppressed_total" &[],
        "Stalls, panics and pauses whose first report was not logged because of the rate limit of the log.";
    ALLOWED: Counter "allowed_blocking_seconds_total" &["reason"], "Time in allow_blocking scopes that have ended.";
    REPORTS_LOST: Counter "reports_lost_total" &["stage"],
        "Reports that did not reach a stage, because it was too slow or the reports too many: symbols (stacks and \
         profile), log or callback. The stages do not wait for each other.";
    CAPTURES: Counter "captures_total" &["result"], "Attempts to capture the stack of a blocked thread, by result.";
    OVERFLOWED: Counter "sites_overflowed_total" &[],
        "Sites that exceeded max_sites, counted once for each thread and site.";
    ROUTES_OVERFLOWED: Counter "routes_overflowed_total" &[], "Requests whose route exceeded max_routes.";
    SPAWN_ROUTES_OVERFLOWED: Counter "spawn_routes_overflowed_total" &[],
        "Tasks spawned within requests whose route is not known, because more than about 100,000 are alive.";
    LOST: Counter "lost_polls_total" &[],
        "Slow polls that ended faster than the watchdog could process them. They are in poll_duration_seconds, \
         but not reported as stalls.";
    MEASURED: Gauge "measured_threads" &[], "Threads that are measured now; at most 4,096.";
    UNMEASURED: Counter "unmeasured_threads_total" &[],
        "Threads that were not measured, at least at first, because there were more than 4,096.";
    CLOCK_STEPS: Counter "clock_steps_total" &[],
        "Jumps of the CPU's counter against the monotonic clock, as after the restore of a virtual machine.";
    OVERSLEEPS: Counter "watchdog_oversleeps_total" &[],
        "Wake-ups of the watchdog that were late by the threshold or more, and by at least 5 ms.";
    WAKEUPS: Counter "watchdog_wakeups_total" &[], "Wake-ups of the watchdog.";
    CALLBACK_PANICS: Counter "callback_panics_total" &[], "Panics in callbacks and hooks of the application.";
    INCIDENT_ACTIONS: Counter "incident_actions_total" &["action", "result"],
        "Actions of on_incident, by result: done, failed, timed_out (the end of the process did not wait longer; counted \
         again when it ends), lost (too many earlier ones wait), cancelled (the incident was over before the process \
         was ended). Only for actions that are set.";
    COLLECTOR_FAILURES: Counter "collector_failures_total" &[],
        "Times that a collector of the application was left out of /metrics, because it panicked or returned what \
         would break the page.";
}

// What exists with `WatchdogBuilder::track_unpolled` only.

table! { UNPOLLED_METRICS, Unstable:
    SITE_UNPOLLED: Gauge "site_unpolled_max_seconds" SITE,
        "Longest time for which an alive task of the site has waited for a poll, if WatchdogBuilder::track_unpolled is on.";
}

// What exists with `WatchdogBuilder::track_delays` only.

table! { DELAY_METRICS, Delays:
    TASK_DELAY: Histogram "task_delay_seconds" RUNTIME,
        "Delays of all polls of tasks, from the wake of the task to the start of the poll, if \
         WatchdogBuilder::track_delays is on. Counted at the end of the poll.";
    SITE_DELAY: Counter "site_delay_seconds_total" SITE, "Sum of the delays of the polls of the site's tasks.";
    SITE_DELAY_MAX: Gauge "site_delay_max_seconds" SITE, "Longest delay of a poll of the site since the start.";
    ROUTE_DELAY: Counter "route_delay_seconds_total" ROUTE,
        "Sum of the delays of the polls in which a request of the route was the first that was worked on.";
    VICTIMS: Counter "stall_victims_total" RUNTIME,
        "Tasks that waited behind a stall: woken before its end, and polled by the same thread after it.";
    VICTIM_SECONDS: Counter "stall_victim_seconds_total" RUNTIME,
        "Time that the tasks of stall_victims_total waited during the stalls, in total.";
    LOST_DELAYS: Counter "lost_delays_total" &[],
        "Delays of a quarter of the threshold or more that the watchdog could not read in time. They are in \
         task_delay_seconds, and behind no stall.";
}

// Tokio's own metrics.

table! { RUNTIME_COUNTERS, Both:
    RUNTIME_PARKS: Counter "runtime_parks_total" RUNTIME, "Times that a worker parked.";
    RUNTIME_BUSY: Counter "runtime_busy_seconds_total" RUNTIME,
        "Time during which the workers were not parked, in total. Tokio updates it at a park and every 61 ticks.";
}

table! { UNSTABLE_RUNTIME_COUNTERS, Unstable:
    RUNTIME_NOOPS: Counter "runtime_noops_total" RUNTIME, "Times that a worker was unparked and found nothing to do.";
    RUNTIME_STEALS: Counter "runtime_steals_total" RUNTIME, "Tasks that workers stole from each other.";
    RUNTIME_STEAL_OPERATIONS: Counter "runtime_steal_operations_total" RUNTIME,
        "Times that a worker stole at least one task.";
    RUNTIME_REMOTE_SCHEDULES: Counter "runtime_remote_schedules_total" RUNTIME,
        "Tasks scheduled from outside the runtime.";
    RUNTIME_LOCAL_SCHEDULES: Counter "runtime_local_schedules_total" RUNTIME,
        "Tasks scheduled from within the runtime.";
    RUNTIME_OVERFLOWS: Counter "runtime_overflows_total" RUNTIME, "Times that a worker's local queue was full.";
    RUNTIME_FORCED_YIELDS: Counter "runtime_budget_forced_yields_total" RUNTIME,
        "Times that a task used up its cooperative budget.";
    RUNTIME_IO_READY: Counter "runtime_io_driver_ready_total" RUNTIME, "Readiness events of the I/O driver.";
}

table! { RUNTIME_GAUGES, Both:
    RUNTIME_WORKERS: Gauge "runtime_workers" RUNTIME, "Worker threads.";
    RUNTIME_ALIVE_TASKS: Gauge "runtime_alive_tasks" RUNTIME, "Tasks that are alive, without pollwatch's own.";
    RUNTIME_GLOBAL_QUEUE: Gauge "runtime_global_queue_depth" RUNTIME, "Tasks in the queue that all workers share.";
}

table! { UNSTABLE_RUNTIME_GAUGES, Unstable:
    RUNTIME_LOCAL_QUEUE: Gauge "runtime_local_queue_depth" RUNTIME, "Tasks in the workers' local queues, in total.";
    RUNTIME_BLOCKING_QUEUE: Gauge "runtime_blocking_queue_depth" RUNTIME,
        "Closures waiting for a thread of the blocking pool.";
    RUNTIME_BLOCKING_THREADS: Gauge "runtime_blocking_threads" RUNTIME, "Threads of the blocking pool.";
    RUNTIME_IDLE_BLOCKING: Gauge "runtime_idle_blocking_threads" RUNTIME, "Idle threads of the blocking pool.";
}

table! { WORKER_METRICS, Both:
    RUNTIME_BUSY_RATIO: Gauge "runtime_busy_ratio" RUNTIME,
        "Share of the workers' time in which they were not parked, 0 to 1, over the last second or more.";
    WORKER_BUSY: Counter "runtime_worker_busy_seconds_total" WORKER,
        "Time during which the worker was not parked. Tokio updates it at a park and every 61 ticks.";
    WORKER_PARKS: Counter "runtime_worker_parks_total" WORKER, "Times that the worker parked.";
}

table! { UNSTABLE_WORKER_METRICS, Unstable:
    WORKER_POLLS: Counter "runtime_worker_polls_total" WORKER,
        "Polls that tokio counted on the worker. Tokio updates it at a park and every 61 ticks.";
    WORKER_STEALS: Counter "runtime_worker_steals_total" WORKER, "Tasks that the worker stole.";
    WORKER_LOCAL_QUEUE: Gauge "runtime_worker_local_queue_depth" WORKER, "Tasks in the worker's local queue.";
}

/// Returns all metrics in the order of `/metrics`, also those that this build does not have.
pub(super) fn all() -> impl Iterator<Item = &'static MetricDef> {
    let lists = [
        MEASURED_METRICS,
        UNPOLLED_METRICS,
        DELAY_METRICS,
        RUNTIME_COUNTERS,
        UNSTABLE_RUNTIME_COUNTERS,
        RUNTIME_GAUGES,
        UNSTABLE_RUNTIME_GAUGES,
        WORKER_METRICS,
        UNSTABLE_WORKER_METRICS,
    ];
    lists.into_iter().flatten()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
