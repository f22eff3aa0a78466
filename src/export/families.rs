//! A snapshot as Prometheus metric families.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::outside;
use super::source::MetricsSource;
use super::table::{self, MetricDef, MetricKind, PREFIX};
use crate::snapshot::{
    BucketSnapshot, HistogramSnapshot, RouteSnapshot, RuntimeSnapshot, SiteSnapshot, TokioSnapshot, TokioWorkerSnapshot,
};
use crate::{Coverage, Snapshot, StackCoverage};

/// Returns the metrics in Prometheus' text format, as `/metrics` serves them.
pub(crate) fn text(source: &dyn MetricsSource) -> String {
    // First, so that the snapshot counts those of its collectors that fail.
    let of_user = source.collectors().text();
    // Encoding fails only on a family without metrics, and `families` returns none.
    let own = TextEncoder::new().encode_to_string(&families(&source.snapshot()));
    own.unwrap_or_default() + &of_user
}

/// A family under construction; dropped if it stays empty.
struct Family {
    def: MetricDef,
    metrics: Vec<Metric>,
}

impl Family {
    fn new(def: MetricDef) -> Family {
        Family { def, metrics: Vec::new() }
    }

    fn metric(&mut self, labels: &[&str]) -> Metric {
        debug_assert_eq!(labels.len(), self.def.labels.len(), "{}", self.def.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        };
        Metric::from_label(self.def.labels.iter().zip(labels).map(pair).collect())
    }

    fn value(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.metric(labels);
        match self.def.kind {
            MetricKind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    fn histogram(&mut self, labels: &[&str], from: &HistogramSnapshot) {
        self.buckets(labels, &from.buckets, from.count, from.sum);
    }

    fn buckets(&mut self, labels: &[&str], buckets: &[BucketSnapshot], count: u64, sum: Duration) {
        let bucket = |&BucketSnapshot { bound, count }: &BucketSnapshot| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.iter().map(bucket).collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum.as_secs_f64());
        let mut metric = self.metric(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn finish(self) -> Option<MetricFamily> {
        if self.metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}{}", self.def.name));
        family.set_help(self.def.help.into());
        family.set_field_type(match self.def.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
            MetricKind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        Some(family)
    }
}

/// Builds one family from all items.
fn family<T>(def: MetricDef, items: &[T], mut add: impl FnMut(&mut Family, &T)) -> Option<MetricFamily> {
    let mut family = Family::new(def);
    for item in items {
        add(&mut family, item);
    }
    family.finish()
}

/// Returns all families that have a value.
pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut all = Vec::new();
    runtimes(&snapshot.runtimes, &mut all);
    delays(snapshot, &mut all);
    sites(&snapshot.sites, &mut all);
    routes(&snapshot.routes, &mut all);
    tokio_metrics(&snapshot.runtimes, &mut all);
    watchdog(snapshot, &mut all);
    let is_attached = snapshot.watchdog.coverage.attached.is_some();
    let all = all.into_iter().flatten();
    all.filter(|family| !is_attached || outside::is_known(family.name())).collect()
}

/// Returns the build's mode: with tokio's task hooks or without.
pub(super) fn mode(coverage: &Coverage) -> &'static str {
    if coverage.hooks { "unstable" } else { "stable" }
}

fn runtimes(runtimes: &[RuntimeSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    all.extend([
        family(table::POLLS, runtimes, |f, r| f.value(&[&r.name], r.polls_total as f64)),
        family(table::BUSY, runtimes, |f, r| f.value(&[&r.name], r.polls.sum.as_secs_f64())),
        family(table::DURATION, runtimes, |f, r| f.histogram(&[&r.name], &r.polls)),
        family(table::STALLS, runtimes, |f, r| {
            r.stalls.iter().for_each(|c| f.value(&[&r.name, c.cause.as_str()], c.stalls.count as f64));
        }),
        family(table::STALL_SECONDS, runtimes, |f, r| {
            r.stalls.iter().for_each(|c| f.value(&[&r.name, c.cause.as_str()], c.stalls.time.as_secs_f64()));
        }),
        family(table::SUSPECTED, runtimes, |f, r| f.value(&[&r.name], r.suspected.count as f64)),
        family(table::SUSPECTED_SECONDS, runtimes, |f, r| f.value(&[&r.name], r.suspected.time.as_secs_f64())),
        family(table::ROOT_STALLS, runtimes, |f, r| f.value(&[&r.name], r.root_stalls.count as f64)),
        family(table::ROOT_STALL_SECONDS, runtimes, |f, r| f.value(&[&r.name], r.root_stalls.time.as_secs_f64())),
        family(table::BLOCKED, runtimes, |f, r| f.value(&[&r.name], r.blocked_workers as f64)),
        family(table::OLDEST, runtimes, |f, r| f.value(&[&r.name], r.oldest_stall.as_secs_f64())),
        family(table::OFF_WORKER, runtimes, |f, r| f.value(&[&r.name], r.offworker_polls as f64)),
        family(table::OLDEST_OFF_WORKER, runtimes, |f, r| f.value(&[&r.name], r.oldest_offworker_poll.as_secs_f64())),
        family(table::INCIDENTS, runtimes, |f, r| {
            r.incidents.iter().for_each(|i| f.value(&[&r.name, i.kind.as_str()], i.count as f64));
        }),
        family(table::INCIDENT_ONGOING, runtimes, |f, r| {
            r.incidents.iter().for_each(|i| f.value(&[&r.name, i.kind.as_str()], f64::from(u8::from(i.is_ongoing))));
        }),
        family(table::DRIVER_ATTENDED, runtimes, |f, r| {
            if let Some(attended) = r.driver_attended {
                f.value(&[&r.name], f64::from(u8::from(attended)));
            }
        }),
        family(table::DRIVER_UNATTENDED, runtimes, |f, r| f.value(&[&r.name], r.driver_unattended.count as f64)),
        family(table::DRIVER_UNATTENDED_SECONDS, runtimes, |f, r| {
            f.value(&[&r.name], r.driver_unattended.time.as_secs_f64());
        }),
        family(table::DRIVER_RESCUES, runtimes, |f, r| {
            f.value(&[&r.name], (r.driver_unattended.rescues + r.hung.rescues) as f64);
        }),
        family(table::HANGS, runtimes, |f, r| f.value(&[&r.name], r.hung.count as f64)),
        family(table::HUNG_SECONDS, runtimes, |f, r| f.value(&[&r.name], r.hung.time.as_secs_f64())),
        family(table::BLOCKING_POOL_AVAILABLE, runtimes, |f, r| {
            if let Some(is_full) = r.blocking_pool_is_full {
                f.value(&[&r.name], f64::from(u8::from(!is_full)));
            }
        }),
        family(table::BLOCKING_POOL_FULL, runtimes, |f, r| f.value(&[&r.name], r.blocking_pool_full.count as f64)),
        family(table::BLOCKING_POOL_FULL_SECONDS, runtimes, |f, r| {
            f.value(&[&r.name], r.blocking_pool_full.time.as_secs_f64());
        }),
        family(table::OLDEST_BLOCKING_CALL, runtimes, |f, r| {
            if r.blocking_pool_is_full.is_some() {
                f.value(&[&r.name], r.oldest_blocking_call.unwrap_or_default().as_secs_f64());
            }
        }),
        family(table::DELAY, runtimes, |f, r| f.histogram(&[&r.name], &r.schedule_delay)),
        family(table::LATE, runtimes, |f, r| {
            r.late_reports.iter().for_each(|late| f.value(&[&r.name, late.reason.as_str()], late.count as f64));
        }),
    ]);
}

/// Adds what is measured only where delays are tracked.
fn delays(snapshot: &Snapshot, all: &mut Vec<Option<MetricFamily>>) {
    if !snapshot.watchdog.coverage.delays {
        return;
    }
    let labels = site_labels(&snapshot.sites);
    let sites: Vec<(&SiteSnapshot, &String)> = snapshot.sites.iter().zip(&labels).collect();
    all.extend([
        family(table::TASK_DELAY, &snapshot.runtimes, |f, r| {
            r.delays.iter().for_each(|delays| f.histogram(&[&r.name], delays));
        }),
        family(table::VICTIMS, &snapshot.runtimes, |f, r| f.value(&[&r.name], r.victims.tasks as f64)),
        family(table::VICTIM_SECONDS, &snapshot.runtimes, |f, r| f.value(&[&r.name], r.victims.waited.as_secs_f64())),
        family(table::SITE_DELAY, &sites, |f, (s, label)| f.value(&[&s.runtime, label], s.delay.as_secs_f64())),
        family(table::SITE_DELAY_MAX, &sites, |f, (s, label)| f.value(&[&s.runtime, label], s.delay_max.as_secs_f64())),
        family(table::ROUTE_DELAY, &snapshot.routes, |f, r| f.value(&[&r.route], r.delay.as_secs_f64())),
        family(table::LOST_DELAYS, &[()], |f, ()| f.value(&[], snapshot.watchdog.coverage.lost_delays as f64)),
    ]);
}

fn sites(sites: &[SiteSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    let labels = site_labels(sites);
    let sites: Vec<(&SiteSnapshot, &str)> = sites.iter().zip(labels.iter().map(String::as_str)).collect();
    let mut counts = |def, read: fn(&SiteSnapshot) -> Option<f64>| {
        all.push(family(def, &sites, |f, (site, label)| {
            if let Some(value) = read(site) {
                f.value(&[&site.runtime, label], value);
            }
        }));
    };
    counts(table::SITE_POLLS, |s| Some(s.polls as f64));
    counts(table::SITE_BUSY, |s| Some(s.busy.as_secs_f64()));
    counts(table::SITE_MAX, |s| Some(s.poll_max.as_secs_f64()));
    counts(table::SITE_UNPOLLED, |s| s.unpolled.map(|longest| longest.as_secs_f64()));
    counts(table::SITE_STALLS, |s| Some(s.stalls.count as f64));
    counts(table::SITE_STALL_SECONDS, |s| Some(s.stalls.time.as_secs_f64()));
    // A site where nothing was spawned has no series for tasks.
    counts(table::SPAWNED, |s| (s.spawned > 0).then_some(s.spawned as f64));
    counts(table::TERMINATED, |s| (s.spawned > 0).then_some(s.terminated as f64));
    counts(table::ALIVE, |s| s.alive().filter(|_| s.spawned > 0).map(|alive| alive as f64));
    // The outcomes of a watched site start at 0: Prometheus takes the first value of a series for
    // no increase.
    counts(table::COMPLETED, |s| s.has_outcomes.then_some(s.completed as f64));
    counts(table::CANCELLED, |s| s.has_outcomes.then_some(s.cancelled as f64));
    counts(table::PANICKED, |s| s.has_outcomes.then_some(s.panicked as f64));
}

/// Returns the sites' labels, unique within a runtime.
///
/// Sites whose short paths are equal (one crate from two registries) get their full paths, because
/// no series may appear twice.
pub(super) fn site_labels(sites: &[SiteSnapshot]) -> Vec<String> {
    let mut labels: Vec<String> = sites.iter().map(|s| s.site.to_string()).collect();
    let mut count: HashMap<(&str, &str), u32> = HashMap::new();
    for (site, label) in sites.iter().zip(&labels) {
        *count.entry((&site.runtime, label)).or_default() += 1;
    }
    let ambiguous = |&i: &usize| count[&(&*sites[i].runtime, &*labels[i])] > 1;
    let ambiguous: Vec<usize> = (0..sites.len()).filter(ambiguous).collect();
    for i in ambiguous {
        if let Some(location) = sites[i].site.location() {
            labels[i] = location.to_string();
        }
    }
    labels
}

fn routes(routes: &[RouteSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    all.extend([
        family(table::ROUTE_REQUESTS, routes, |f, r| {
            r.requests.iter().for_each(|q| f.value(&[&r.route, q.method, q.status.as_str()], q.count as f64));
        }),
        family(table::ROUTE_BUSY, routes, |f, r| f.value(&[&r.route], r.busy.as_secs_f64())),
        family(table::ROUTE_MAX, routes, |f, r| f.value(&[&r.route], r.poll_max.as_secs_f64())),
        family(table::ROUTE_STALLS, routes, |f, r| f.value(&[&r.route], r.stalls.count as f64)),
        family(table::ROUTE_STALL_SECONDS, routes, |f, r| f.value(&[&r.route], r.stalls.time.as_secs_f64())),
        family(table::ROUTE_SPAWNED_STALLS, routes, |f, r| f.value(&[&r.route], r.spawned_stalls.count as f64)),
        family(table::ROUTE_SPAWNED_STALL_SECONDS, routes, |f, r| {
            f.value(&[&r.route], r.spawned_stalls.time.as_secs_f64());
        }),
        family(table::ROUTE_DURATION, routes, |f, r| {
            if !r.poll_buckets.is_empty() {
                f.buckets(&[&r.route], &r.poll_buckets, r.polls_in_buckets, r.busy);
            }
        }),
    ]);
}

fn tokio_metrics(runtimes: &[RuntimeSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    let mut figure = |def, read: fn(&TokioSnapshot) -> Option<f64>| {
        all.push(family(def, runtimes, |f, r| {
            if let Some(value) = read(&r.tokio) {
                f.value(&[&r.name], value);
            }
        }));
    };
    figure(table::RUNTIME_PARKS, |t| Some(t.parks as f64));
    figure(table::RUNTIME_BUSY, |t| Some(t.busy.as_secs_f64()));
    figure(table::RUNTIME_NOOPS, |t| count(t.noops));
    figure(table::RUNTIME_STEALS, |t| count(t.steals));
    figure(table::RUNTIME_STEAL_OPERATIONS, |t| count(t.steal_operations));
    figure(table::RUNTIME_REMOTE_SCHEDULES, |t| count(t.remote_schedules));
    figure(table::RUNTIME_LOCAL_SCHEDULES, |t| count(t.local_schedules));
    figure(table::RUNTIME_OVERFLOWS, |t| count(t.overflows));
    figure(table::RUNTIME_FORCED_YIELDS, |t| count(t.budget_forced_yields));
    figure(table::RUNTIME_IO_READY, |t| count(t.io_driver_ready));
    figure(table::RUNTIME_WORKERS, |t| Some(t.worker_threads as f64));
    figure(table::RUNTIME_ALIVE_TASKS, |t| Some(t.alive_tasks as f64));
    figure(table::RUNTIME_GLOBAL_QUEUE, |t| Some(t.global_queue_depth as f64));
    figure(table::RUNTIME_LOCAL_QUEUE, |t| depth(t.local_queue_depth));
    figure(table::RUNTIME_BLOCKING_QUEUE, |t| depth(t.blocking_queue_depth));
    figure(table::RUNTIME_BLOCKING_THREADS, |t| depth(t.blocking_threads));
    figure(table::RUNTIME_IDLE_BLOCKING, |t| depth(t.idle_blocking_threads));
    figure(table::RUNTIME_BUSY_RATIO, |t| Some(t.busy_ratio));
    let mut worker_figure = |def, read: fn(&TokioWorkerSnapshot) -> Option<f64>| {
        all.push(family(def, runtimes, |f, r| {
            for (index, worker) in r.tokio.workers.iter().enumerate() {
                if let Some(value) = read(worker) {
                    f.value(&[&r.name, &index.to_string()], value);
                }
            }
        }));
    };
    worker_figure(table::WORKER_BUSY, |w| Some(w.busy.as_secs_f64()));
    worker_figure(table::WORKER_PARKS, |w| Some(w.parks as f64));
    worker_figure(table::WORKER_POLLS, |w| count(w.polls));
    worker_figure(table::WORKER_STEALS, |w| count(w.steals));
    worker_figure(table::WORKER_LOCAL_QUEUE, |w| depth(w.local_queue_depth));
}

fn count(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn depth(value: Option<usize>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn watchdog(snapshot: &Snapshot, all: &mut Vec<Option<MetricFamily>>) {
    let w = &snapshot.watchdog;
    let mut one = |def, value: f64| all.push(family(def, &[()], |f, ()| f.value(&[], value)));
    one(table::THRESHOLD, w.threshold.as_secs_f64());
    one(table::SUPPRESSED, w.reports_suppressed as f64);
    one(table::OVERFLOWED, w.sites_overflowed as f64);
    one(table::ROUTES_OVERFLOWED, w.routes_overflowed as f64);
    one(table::SPAWN_ROUTES_OVERFLOWED, w.spawn_routes_overflowed as f64);
    one(table::LOST, w.coverage.lost_polls as f64);
    one(table::MEASURED, w.coverage.measured_threads as f64);
    one(table::UNMEASURED, w.coverage.unmeasured_threads as f64);
    one(table::CLOCK_STEPS, w.coverage.clock_steps as f64);
    one(table::OVERSLEEPS, w.oversleeps as f64);
    one(table::WAKEUPS, w.wakeups as f64);
    one(table::CALLBACK_PANICS, w.callback_panics as f64);
    one(table::COLLECTOR_FAILURES, w.collector_failures as f64);
    all.push(family(table::INCIDENT_ACTIONS, &w.incident_actions, |f, a| {
        f.value(&[a.action.as_str(), a.result.as_str()], a.count as f64);
    }));
    all.push(family(table::CAPTURES, &w.captures, |f, c| f.value(&[c.outcome.as_str()], c.count as f64)));
    all.push(family(table::REPORTS_LOST, &w.reports_lost_by_stage, |f, l| {
        f.value(&[l.stage.as_str()], l.count as f64)
    }));
    all.push(family(table::ALLOWED, &w.allowed_blocking, |f, a| f.value(&[a.reason], a.time.as_secs_f64())));
    let sources = [
        ("hooks", w.coverage.runtimes.iter().any(|r| r.alive && r.every_task)),
        ("watch", w.coverage.attached.is_none()),
        ("workers", w.coverage.runtimes.iter().any(|r| r.alive && r.workers)),
        ("watchdog", w.coverage.watching),
        ("exact_wakeup", w.coverage.exact_wakeup),
        ("cpu_counter", w.coverage.clock == "cpu counter"),
        (
            "stacks",
            matches!(
                w.coverage.stacks,
                StackCoverage::Taken | StackCoverage::WaitingThreadsOnly(_) | StackCoverage::RunningThreadsOnly(_)
            ),
        ),
    ];
    all.push(family(table::COVERAGE, &sources, |f, (source, active)| f.value(&[source], f64::from(u8::from(*active)))));
    let version = [env!("CARGO_PKG_VERSION"), mode(&w.coverage)];
    all.push(family(table::BUILD, &[()], |f, ()| f.value(&version, 1.0)));
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_its_buckets_and_their_count() {
        let bound = [600, 2_000].map(Duration::from_micros);
        let route = RouteSnapshot {
            route: "/".into(),
            requests: Vec::new(),
            polls: 17,
            busy: Duration::from_secs(2),
            poll_max: Duration::from_secs(2),
            poll_buckets: BucketSnapshot::list(&bound.map(|b| b.as_nanos() as u64), [0, 16]),
            polls_in_buckets: 17,
            delay: Duration::ZERO,
            stalls: Default::default(),
            spawned_stalls: Default::default(),
        };
        let mut all = Vec::new();
        routes(&[route], &mut all);
        let is_durations = |f: &&MetricFamily| f.name().ends_with(table::ROUTE_DURATION.name);
        let family = all.iter().flatten().find(is_durations).unwrap();
        let histogram = family.get_metric()[0].get_histogram();
        let buckets: Vec<_> = histogram.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!((buckets, histogram.get_sample_count()), (vec![0, 16], 17));
    }
}
