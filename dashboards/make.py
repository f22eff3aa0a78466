#!/usr/bin/env python3
"""Prints pollwatch.json, the Grafana dashboard: `python3 dashboards/make.py > dashboards/pollwatch.json`.

This file defines the panels; grafana.py renders Grafana's JSON. `cargo test --test monitoring` checks that
pollwatch.json is up to date and runs each query against a real Prometheus. Names of recorded series (`instance_runtime:...`) come from rules.yml.
"""

from grafana import (
    alerts, bars, choice, dashboard, heatmap, instant, lines, over_time, row, stat, table, variable,
)

# Label filters by the dashboard's variables, for a target and for a runtime in it. Routes have no runtime.
TARGET = 'job=~"$job",instance=~"$instance"'
RUNTIME = TARGET + ',runtime=~"$runtime"'
# Filters for series recorded over all instances of a job, which have no instance label.
JOB = 'job=~"$job"'
JOB_RUNTIME = JOB + ',runtime=~"$runtime"'

OF_RUNTIME, SITE, ROUTE, WORKER = "job, runtime", "job, runtime, site", "job, route", "job, instance, runtime, worker"


def rate(metric, labels=RUNTIME):
    return f"rate(pollwatch_{metric}{{{labels}}}[$__rate_interval])"


def increase(metric, labels=RUNTIME):
    """The increase over the dashboard's whole time range. It is the same at each point, so a ranking by it is stable."""
    return f"increase(pollwatch_{metric}{{{labels}}}[$__range] @ end())"


def worst(expr, by, ranking):
    """The sum by some labels, limited to the $top series that rank first, whatever the number of instances."""
    return f"sum by ({by}) ({expr}) and on ({by}) topk($top, sum by ({by}) ({ranking}) > 0)"


def ranked(metric, by, aggregation="sum", labels=RUNTIME):
    """The rate by some labels, limited to the $top series that rank first, those without any increase included."""
    ranking = f"{aggregation} by ({by}) ({increase(metric, labels)})"
    return f"{aggregation} by ({by}) ({rate(metric, labels)}) and on ({by}) topk($top, {ranking})"


def count_where(gauge, condition):
    """The number of series for which the condition holds. Nothing if there is no series: then it is not known."""
    return f"count({gauge} {condition}) or count({gauge}) * 0"


def quantiles(metric, *which):
    return [
        over_time(f"histogram_quantile({q}, sum by (le) ({rate(metric + '_bucket')}))", f"p{q * 100:g}") for q in which
    ]


def site_columns(*columns):
    """The queries of a table of the sites that block most, one for each column."""
    ranking = increase("site_stall_seconds_total")
    return [instant(worst(expr, SITE, ranking)) for expr in columns]


def route_columns(*columns):
    ranking = increase("route_stall_seconds_total", TARGET)
    return [instant(worst(expr, ROUTE, ranking)) for expr in columns]


def stalled(by=""):
    """The share of the workers' time that stalls take."""
    return f"sum{by} ({rate('stall_seconds_total')}) / sum{by} (pollwatch_runtime_workers{{{RUNTIME}}})"


OVERVIEW = row(
    "Overview",
    stat("Blocked workers", "Workers that are in a poll for the threshold or longer, at this moment.", "suffix: workers",
         f"sum(pollwatch_blocked_workers{{{RUNTIME}}})", red=1),
    stat("Longest block now", "Duration so far of the longest of these polls; 0 when nothing is blocked.", "s",
         f"max(pollwatch_oldest_stall_seconds{{{RUNTIME}}})", yellow=0.01, red=1),
    stat("Runtimes fully blocked", "Runtimes (of one instance) whose workers are all blocked, so that they run no task.",
         "suffix: runtimes",
         count_where(f"pollwatch_blocked_workers{{{RUNTIME}}}", f">= pollwatch_runtime_workers{{{RUNTIME}}}"), red=1),
    stat("Worker time stalled", "Share of the workers' time that stalls take, whatever their cause.", "percentunit",
         stalled(), yellow=0.01, red=0.05),
    stat("Stalls", "Polls that blocked a worker for the threshold or longer, in the time shown.", "short",
         f"sum({increase('stalls_total')})", yellow=1),
    stat("Instances", "Processes that export pollwatch metrics.", "short", f"count(pollwatch_build_info{{{TARGET}}})"),
    stat("Not answering", "Targets of these jobs that Prometheus cannot scrape.", "suffix: targets",
         count_where(f"up{{{TARGET}}}", "== 0"), red=1),
    stat("Threshold", "A poll that blocks a worker this long is a stall. The longest, where instances differ.", "s",
         f"max(pollwatch_threshold_seconds{{{TARGET}}})"),
    lines("Blocked workers over time", "Workers blocked at the time of a scrape. Shorter blocks are visible in the next panel only.",
          "suffix: workers",
          over_time(f"sum by (job, runtime) (pollwatch_blocked_workers{{{RUNTIME}}})", "{{job}} {{runtime}}")),
    lines("Worker time stalled over time", "Share of the workers' time that stalls take. At 100 % every worker is blocked all the time.",
          "percentunit", over_time(stalled(" by (job, runtime)"), "{{job}} {{runtime}}")),
    lines("Poll duration", "Durations of polls. A poll is counted when it ends.", "s",
          *quantiles("poll_duration_seconds", 0.5, 0.99, 0.999)),
    lines("Busy", "Share of the workers' time in which they were not parked. Near 100 % with few stalls, more workers are needed.",
          "percentunit",
          over_time(f"avg by (job, runtime) (pollwatch_runtime_busy_ratio{{{RUNTIME}}})", "{{job}} {{runtime}}")),
)

FLEET = row(
    "Fleet: all instances of the job (needs dashboards/rules.yml)",
    lines("Worker time stalled, by job", "Share of the workers' time that stalls take, over all instances.", "percentunit",
          over_time(f"job_runtime:pollwatch_stalled:ratio_rate5m{{{JOB_RUNTIME}}}", "{{job}} {{runtime}}")),
    lines("Worker time stalled, by rank of the instance",
          "The median instance and the worst. If they are far apart, the problem is in one instance; if they are close, in the program.", "percentunit",
          *[over_time(f"quantile by (job) ({q}, instance_runtime:pollwatch_stalled:ratio_rate5m{{{JOB_RUNTIME}}})", "{{job}} " + name)
            for q, name in [(0.5, "median"), (0.99, "p99"), (1, "worst")]]),
    lines("Blocked time by cause, of the fleet", "The average number of blocked workers, by cause.", "suffix: workers",
          over_time(f"sum by (cause) (job_runtime_cause:pollwatch_stall_seconds:rate5m{{{JOB_RUNTIME}}})", "{{cause}}"), stacked=True),
    lines("Blocked workers, of the fleet", "Workers blocked at the time of a scrape, by job and runtime, over all instances.", "suffix: workers",
          over_time(f"sum by (job, runtime) (pollwatch_blocked_workers{{{JOB_RUNTIME}}})", "{{job}} {{runtime}}")),
    lines("Poll duration, p99", "Over all instances, by job and runtime.", "s",
          over_time(f"job_runtime:pollwatch_poll_duration_seconds:p99_rate5m{{{JOB_RUNTIME}}}", "{{job}} {{runtime}}")),
    lines("Schedule delay, p99", "Over all instances, by job and runtime.", "s",
          over_time(f"job_runtime:pollwatch_schedule_delay_seconds:p99_rate5m{{{JOB_RUNTIME}}}", "{{job}} {{runtime}}")),
    table("Instances that stall most", "Share of the workers' time in the last 5 minutes. A click shows the instance alone.", "percentunit",
          [("Value", "stalled", None)],
          instant(f"topk($top, instance_runtime:pollwatch_stalled:ratio_rate5m{{{JOB_RUNTIME}}})"),
          link=("instance", "/d/pollwatch?${datasource:queryparam}&${job:queryparam}&var-instance=${__data.fields.instance}&${__url_time_range}")),
    table("Worst sites of the fleet", "The spawn sites of the tasks whose polls block, over all instances, in the last 5 minutes.",
          "suffix: workers", [("Value", "blocked on average", None)],
          instant(f"topk($top, job_runtime_site:pollwatch_site_stall_seconds:rate5m{{{JOB_RUNTIME}}})")),
    table("Worst routes of the fleet", "Routes whose requests block, over all instances, in the last 5 minutes.",
          "suffix: workers", [("Value", "blocked on average", None)],
          instant(f"topk($top, job_route:pollwatch_route_stall_seconds:rate5m{{{JOB}}})")),
)

CAUSES = row(
    "Stalls by cause",
    lines("Blocked time by cause",
          "The average number of blocked workers, by cause. The causes starved (the thread got no CPU) and paused (the whole process was "
          "paused) are not the task's fault.", "suffix: workers",
          over_time(f"sum by (cause) ({rate('stall_seconds_total')})", "{{cause}}"), stacked=True),
    lines("Stalls by cause", "Stalls that started, per second.", "cps",
          over_time(f"sum by (cause) ({rate('stalls_total')})", "{{cause}}"), stacked=True),
    bars("Blocked time", "In the time shown, by cause.", "s", instant(f"sum by (cause) ({increase('stall_seconds_total')})", "{{cause}}")),
    bars("Mean length of a stall", "In the time shown, by cause.", "s",
         instant(f"sum by (cause) ({increase('stall_seconds_total')}) / (sum by (cause) ({increase('stalls_total')}) > 0)", "{{cause}}")),
    bars("Allowed blocking", "Time in allow_blocking scopes that ended in the time shown, by their reason; in no stall.", "s",
         instant(f"topk($top, sum by (reason) ({increase('allowed_blocking_seconds_total', TARGET)}))", "{{reason}}")),
    lines("Suspected blocking", "The average number of workers that unwatched tasks probably block, where tokio has no task hooks (stable "
          "mode). They are in no other figure.", "suffix: workers",
          over_time(ranked("suspected_stall_seconds_total", OF_RUNTIME), "{{job}} {{runtime}}")),
    lines("Polls off their worker", "Polls that last for the threshold or longer after block_in_place handed their worker on. They block no "
          "worker, and hold a thread of the blocking pool each.", "short",
          over_time(f"sum by (job, runtime) (pollwatch_offworker_polls{{{RUNTIME}}})", "{{job}} {{runtime}}")),
    lines("Blocked roots", "The average number of watched roots (the futures of block_on) of multi-thread runtimes that are blocked. They "
          "occupy no worker, and are in no other figure.", "short",
          over_time(ranked("root_stall_seconds_total", OF_RUNTIME), "{{job}} {{runtime}}")),
)

CONDITIONS = row(
    "Whole runtimes",
    stat("Ongoing incidents", "Conditions of whole runtimes that have lasted for unhealthy_after or the shortest time of on_incident. "
         "/incidents of the instance has the reasons and the stalls; with ?format=json also the threads of the latest 4 that had an "
         "action.", "suffix: incidents",
         f"sum(pollwatch_incident_ongoing{{{RUNTIME}}})", red=1),
    stat("Incidents", "Incidents that started in the time shown.", "short", f"sum({increase('incidents_total')})", yellow=1),
    stat("Runtimes with an unattended driver", "Runtimes (of one instance) whose sockets and timers no worker attends at this moment, or "
         "which hang. No data where that cannot be known.", "suffix: runtimes", count_where(f"pollwatch_driver_attended{{{RUNTIME}}}", "== 0"), red=1),
    stat("Full blocking pools", "Runtimes (of one instance) whose pool for blocking work is full at this moment, while calls wait for it "
         "(tokio_unstable; no data elsewhere).", "suffix: pools", count_where(f"pollwatch_blocking_pool_available{{{RUNTIME}}}", "== 0"), red=1),
    lines("Incidents by kind", "Incidents that are ongoing at the time of a scrape.", "suffix: incidents",
          over_time(f"sum by (kind) (pollwatch_incident_ongoing{{{RUNTIME}}})", "{{kind}}"), stacked=True),
    lines("Unattended sockets and timers", "Share of the time in which no worker waited for sockets and timers, because the one that did "
          "was blocked, although another was idle; of the worst instance. pollwatch wakes a worker then, unless that is switched off.",
          "percentunit",
          over_time(ranked("driver_unattended_seconds_total", OF_RUNTIME, "max"), "{{job}} {{runtime}}")),
    lines("Hangs", "Share of the time in which all workers were parked and none of them waited for sockets and timers; of the "
          "worst instance.", "percentunit",
          over_time(ranked("runtime_hung_seconds_total", OF_RUNTIME, "max"), "{{job}} {{runtime}}")),
    lines("Driver rescues", "Times that pollwatch woke a worker to attend sockets and timers. If there are any, the program may depend on "
          "pollwatch.", "cps",
          over_time(ranked("driver_rescues_total", OF_RUNTIME), "{{job}} {{runtime}}")),
    lines("Blocking pool full", "Share of the time in which calls waited for the blocking pool and no thread of it was idle "
          "(tokio_unstable); of the worst instance. Files, name lookups and spawn_blocking stand still then.", "percentunit",
          over_time(f"max by (job, runtime) ({rate('blocking_pool_full_seconds_total')})", "{{job}} {{runtime}}")),
    lines("Oldest call of a full blocking pool", "How long the oldest call of a full blocking pool has waited at least; 0 while it is not "
          "full or not known (tokio_unstable).", "s",
          over_time(f"max by (job, runtime) (pollwatch_blocking_pool_oldest_call_seconds{{{RUNTIME}}})", "{{job}} {{runtime}}")),
    lines("Late runtimes", "Reports that a woken task waited four thresholds or longer for its poll although no stall blocked the runtime. "
          "busy_workers: many short polls; no_cpu: the threads got none. The log and the page name the sites and routes.", "cps",
          over_time(ranked("late_reports_total", OF_RUNTIME + ", reason"), "{{job}} {{runtime}} {{reason}}")),
    bars("Actions of incidents", "Actions of on_incident in the time shown, by their result. failed, lost and timed_out: what was set did "
         "not happen.", "short",
         instant(f"sum by (action, result) ({increase('incident_actions_total', TARGET)})", "{{action}}: {{result}}")),
)

SITES = row(
    "Worst sites in the code",
    table("Sites that block most", "The sites where tasks were spawned or futures wrapped, by the time of their stalls in the time shown. "
          "The stack is in the log, in /stalls and on the page.", "short",
          [("Value #A", "blocked", "s"), ("Value #B", "stalls", "short"), ("Value #C", "busy", "s"), ("Value #D", "polls", "short"),
           ("Value #E", "longest poll", "s")],
          *site_columns(increase("site_stall_seconds_total"), increase("site_stalls_total"), increase("site_busy_seconds_total"),
                        increase("site_polls_total")),
          # A maximum since the start can be neither summed nor restricted to a time range.
          instant(f"max by ({SITE}) (pollwatch_site_poll_max_seconds{{{RUNTIME}}}) and on ({SITE}) "
                  f"topk($top, sum by ({SITE}) ({increase('site_stall_seconds_total')}) > 0)"), wide=True),
    lines("Blocked time by site", "The average number of blocked workers, of the sites that block most in the time shown.",
          "suffix: workers",
          over_time(worst(rate("site_stall_seconds_total"), SITE, increase("site_stall_seconds_total")), "{{runtime}} {{site}}")),
    lines("Busy time by site", "The average number of busy workers, of the sites that are busiest in the time shown.",
          "suffix: workers",
          over_time(worst(rate("site_busy_seconds_total"), SITE, increase("site_busy_seconds_total")), "{{runtime}} {{site}}")),
)

FAILED = TARGET + ',status=~"5xx|error|panicked"'
ROUTES = row(
    "Worst routes",
    table("Routes that block most", "The routes by the time of their stalls in the time shown. A stall of several shorter requests has "
          "no route. The time is not the latency of requests: it is computing and blocking only.", "short",
          [("Value #A", "blocked", "s"), ("Value #B", "stalls", "short"), ("Value #C", "busy", "s"), ("Value #D", "requests", "short"),
           ("Value #E", "rejected", "short"), ("Value #F", "longest poll", "s")],
          *route_columns(increase("route_stall_seconds_total", TARGET), increase("route_stalls_total", TARGET),
                         increase("route_busy_seconds_total", TARGET), increase("route_requests_total", TARGET),
                         increase("route_shed_total", TARGET)),
          instant(f"max by ({ROUTE}) (pollwatch_route_poll_max_seconds{{{TARGET}}}) and on ({ROUTE}) "
                  f"topk($top, sum by ({ROUTE}) ({increase('route_stall_seconds_total', TARGET)}) > 0)"), wide=True),
    lines("Blocked time by route", "The average number of blocked workers, of the routes that block most in the time shown.",
          "suffix: workers",
          over_time(worst(rate("route_stall_seconds_total", TARGET), ROUTE, increase("route_stall_seconds_total", TARGET)), "{{route}}")),
    lines("Blocked time of spawned tasks by route", "The average number of workers blocked by tasks that handlers have spawned, such as WebSocket "
          "sessions and background work, by the route of the handler.", "suffix: workers",
          over_time(worst(rate("route_spawned_stall_seconds_total", TARGET), ROUTE, increase("route_spawned_stall_seconds_total", TARGET)),
                    "{{route}}")),
    lines("Requests by status", "By the class of their status. Cancelled requests were dropped before there was a response.", "reqps",
          over_time(f"sum by (status) ({rate('route_requests_total', TARGET)})", "{{status}}"), stacked=True),
    lines("Requests that failed", "Of the routes that fail most in the time shown: 5xx, error, panicked.", "reqps",
          over_time(worst(rate("route_requests_total", FAILED), ROUTE, increase("route_requests_total", FAILED)), "{{route}}")),
    lines("Requests rejected", "By load shedding (pollwatch-shed), of the routes with most rejections. Empty where it is not used.", "reqps",
          over_time(worst(rate("route_shed_total", TARGET), ROUTE, increase("route_shed_total", TARGET)), "{{route}}")),
)

WORKERS = row(
    "Workers",
    lines("Busiest workers", "Share of a worker's time in which it was not parked. If one is far above the others, tasks are not distributed. "
          "The figure of a blocked worker does not change until it is free.", "percentunit",
          over_time(worst(rate("runtime_worker_busy_seconds_total"), WORKER, increase("runtime_worker_busy_seconds_total")),
                    "{{instance}} {{runtime}} {{worker}}")),
    lines("Blocked workers by instance", "Of the instances whose workers are blocked most, in the time shown.", "suffix: workers",
          over_time(worst(rate("stall_seconds_total"), "job, instance, runtime", increase("stall_seconds_total")),
                    "{{instance}} {{runtime}}")),
    lines("Tasks that wait for a worker", "In the shared queue, and in the workers' local queues (tokio_unstable).", "suffix: tasks",
          over_time(f"sum(pollwatch_runtime_global_queue_depth{{{RUNTIME}}})", "shared"),
          over_time(f"sum(pollwatch_runtime_local_queue_depth{{{RUNTIME}}})", "local")),
    lines("Blocking pool", "Threads of spawn_blocking, idle threads, and closures that wait for a thread (tokio_unstable).", "short",
          over_time(f"sum(pollwatch_runtime_blocking_threads{{{RUNTIME}}})", "threads"),
          over_time(f"sum(pollwatch_runtime_idle_blocking_threads{{{RUNTIME}}})", "idle"),
          over_time(f"sum(pollwatch_runtime_blocking_queue_depth{{{RUNTIME}}})", "waiting closures")),
    lines("Parks", "Parks of workers, and wake-ups that found no work (tokio_unstable).", "cps",
          over_time(f"sum({rate('runtime_parks_total')})", "parks"),
          over_time(f"sum({rate('runtime_noops_total')})", "wake-ups without work")),
    lines("Balance", "Tasks that workers stole from each other, queues that overflowed, tasks that yielded because their budget was "
          "used up (tokio_unstable).", "cps",
          over_time(f"sum({rate('runtime_steals_total')})", "stolen"),
          over_time(f"sum({rate('runtime_overflows_total')})", "overflows"),
          over_time(f"sum({rate('runtime_budget_forced_yields_total')})", "budget used up")),
)

DELAY = row(
    "Schedule delay and poll duration",
    lines("Schedule delay", "Delay from waking a task to its poll, measured by a probe while the runtime is polling. It does not show one blocked "
          "worker among several: check the blocked workers as well.", "s", *quantiles("schedule_delay_seconds", 0.5, 0.99, 0.999)),
    bars("Where the delay is longest", "The p99 of the worst instances in the time shown.", "s",
         instant("topk($top, histogram_quantile(0.99, sum by (job, instance, runtime, le) "
                 f"({increase('schedule_delay_seconds_bucket')})) >= 0)", "{{instance}} {{runtime}}")),
    heatmap("Schedule delays", "Probes by their delay.", f"sum by (le) ({rate('schedule_delay_seconds_bucket')})"),
    heatmap("Poll durations", "Polls by their duration.", f"sum by (le) ({rate('poll_duration_seconds_bucket')})"),
)

WAITING = row(
    "Tasks that wait (track_delays)",
    lines("Delay of all polls", "Time from the wake of a task to its poll, of all polls of tasks.", "s", *quantiles("task_delay_seconds", 0.5, 0.99, 0.999)),
    lines("Waiting behind stalls", "Tasks that wait behind a stall on average: the time that they waited during stalls, a second.", "suffix: tasks",
          over_time(f"sum by (runtime) ({rate('stall_victim_seconds_total')})", "{{runtime}}")),
    bars("Routes that wait longest", "Delay of the polls that worked on a request of the route, in the time shown.", "s",
         instant(f"topk($top, sum by ({ROUTE}) ({increase('route_delay_seconds_total', TARGET)}))", "{{route}}")),
    bars("Sites that wait longest", "Delay of the polls of the site's tasks, in the time shown.", "s",
         instant(f"topk($top, sum by ({SITE}) ({increase('site_delay_seconds_total')}))", "{{runtime}} {{site}}")),
)

TASKS = row(
    "Tasks",
    lines("Tasks alive", "Of the sites with most tasks. A line that only rises is a leak.", "suffix: tasks",
          over_time(f"sum by ({SITE}) (pollwatch_tasks_alive{{{RUNTIME}}}) and on ({SITE}) "
                    f"topk($top, sum by ({SITE}) (pollwatch_tasks_alive{{{RUNTIME}}} @ end()))", "{{runtime}} {{site}}")),
    lines("Not polled (track_unpolled)", "The longest time for which one of a site's tasks has waited for a poll. A hint for lost wakers and "
          "async deadlocks: compare a site with what it was before. A task that waits for a client is rightly not polled.", "s",
          over_time(f"max by ({SITE}) (pollwatch_site_unpolled_max_seconds{{{RUNTIME}}}) and on ({SITE}) "
                    f"topk($top, max by ({SITE}) (pollwatch_site_unpolled_max_seconds{{{RUNTIME}}} @ end()))", "{{runtime}} {{site}}")),
    lines("Spawned and ended", "Tasks that were spawned, and tasks that ended, at all sites.", "cps",
          over_time(f"sum({rate('tasks_spawned_total')})", "spawned"),
          over_time(f"sum({rate('tasks_terminated_total')})", "ended")),
    lines("Panics", "Tasks of Watchdog::spawn and futures of watch that panicked, of the sites with most in the time shown.", "cps",
          over_time(worst(rate("tasks_panicked_total"), SITE, increase("tasks_panicked_total")), "{{runtime}} {{site}}")),
    lines("Cancelled futures", "Futures of watch and spawn that were dropped, of the sites with most in the time shown.", "cps",
          over_time(worst(rate("tasks_cancelled_total"), SITE, increase("tasks_cancelled_total")), "{{runtime}} {{site}}")),
)

SELF = row(
    "pollwatch itself",
    lines("Stack captures", "By result: ok; incomplete (the outer part is missing); moved (the poll had ended). The others failed.", "cps",
          over_time(f"sum by (result) ({rate('captures_total', TARGET)})", "{{result}}"), stacked=True),
    lines("Reports lost or suppressed", "Lost: log or callback were too slow. Suppressed: rate limit. Slow polls lost: there were too many at a time.",
          "cps",
          over_time(f"sum({rate('reports_lost_total', TARGET)})", "reports lost"),
          over_time(f"sum({rate('reports_suppressed_total', TARGET)})", "reports suppressed"),
          over_time(f"sum({rate('lost_polls_total', TARGET)})", "slow polls lost"),
          over_time(f"sum({rate('callback_panics_total', TARGET)})", "callback panics")),
    lines("Watchdog", "Wake-ups of the watchdog, those that were late because it got no CPU, and jumps of the counter that times are read from.", "cps",
          over_time(f"sum({rate('watchdog_wakeups_total', TARGET)})", "wake-ups"),
          over_time(f"sum({rate('watchdog_oversleeps_total', TARGET)})", "late wake-ups"),
          over_time(f"sum({rate('clock_steps_total', TARGET)})", "jumps of the CPU's counter")),
    lines("Limits exceeded", "Sites and routes beyond max_sites and max_routes (counted as other), routes of spawned tasks that were not kept, and threads not measured.", "cps",
          over_time(f"sum({rate('sites_overflowed_total', TARGET)})", "sites"),
          over_time(f"sum({rate('routes_overflowed_total', TARGET)})", "routes"),
          over_time(f"sum({rate('spawn_routes_overflowed_total', TARGET)})", "routes of spawned tasks"),
          over_time(f"sum({rate('unmeasured_threads_total', TARGET)})", "threads")),
    bars("Coverage", "Share of the instances in which each source is active; docs/metrics.md describes them.", "percentunit",
         instant(f"avg by (source) (pollwatch_coverage{{{TARGET}}})", "{{source}}"), top=1),
    table("Versions", "Instances by the version of pollwatch, and whether tokio is unstable or stable.", "short",
          [("Value", "instances", None)], instant(f"count by (job, version, mode) (pollwatch_build_info{{{TARGET}}})")),
    lines("Scrape duration", "Time that Prometheus waited for /metrics: the median target and the slowest.", "s",
          *[over_time(f"quantile({q}, scrape_duration_seconds{{{TARGET}}} and on (job, instance) pollwatch_build_info)", name)
            for q, name in [(0.5, "median"), (1, "slowest")]]),
    lines("Samples per scrape", "Of the median target and of the largest.", "short",
          *[over_time(f"quantile({q}, scrape_samples_scraped{{{TARGET}}} and on (job, instance) pollwatch_build_info)", name)
            for q, name in [(0.5, "median"), (1, "largest")]]),
)

VARIABLES = [
    choice("datasource", "Data source", "The Prometheus to query."),
    variable("job", "Job", "label_values(pollwatch_build_info, job)", "Scrape jobs that have pollwatch."),
    variable("instance", "Instance", 'label_values(pollwatch_build_info{job=~"$job"}, instance)', "Processes."),
    variable("runtime", "Runtime", f"label_values(pollwatch_runtime_workers{{{TARGET}}}, runtime)", "Runtimes, by their names."),
    choice("top", "Top", "The number of worst entries that are shown.", ["5", "10", "20"]),
]

if __name__ == "__main__":
    print(dashboard(
        "pollwatch: what blocks the event loop",
        "Polls that block a Tokio worker: where, why and for how long. Generated by dashboards/make.py.",
        VARIABLES,
        alerts(f'ALERTS{{alertname=~"Pollwatch.+",alertstate="firing",{JOB}}}'),
        [OVERVIEW, FLEET, CAUSES, CONDITIONS, SITES, ROUTES, WORKERS, DELAY, WAITING, TASKS, SELF],
    ))
