//! The snapshot as Prometheus metric families. Pure.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::table::{self, Def, PREFIX, Type};
use crate::measure::hooks;
use crate::model::coverage::StackCoverage;
use crate::model::snapshot::{
    BucketSnapshot, HistogramSnapshot, RouteSnapshot, RuntimeSnapshot, SiteSnapshot, Snapshot,
};
use crate::watchdog::WatchdogState;

/// `/metrics`.
pub(crate) fn text(shared: &WatchdogState) -> String {
    // Encoding fails on a family without metrics only, and those are left out.
    TextEncoder::new().encode_to_string(&families(&Snapshot::take(shared))).unwrap_or_default()
}

/// A family under construction: made from its definition, dropped if nothing is in it.
struct Family {
    def: Def,
    metrics: Vec<Metric>,
}

impl Family {
    fn new(def: Def) -> Family {
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
            Type::Counter => {
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
            Type::Counter => MetricType::COUNTER,
            Type::Gauge => MetricType::GAUGE,
            Type::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        Some(family)
    }
}

/// One family of all items.
fn of<T>(def: Def, items: &[T], mut add: impl FnMut(&mut Family, &T)) -> Option<MetricFamily> {
    let mut family = Family::new(def);
    for item in items {
        add(&mut family, item);
    }
    family.finish()
}

/// All families that have a value.
pub(crate) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut all = Vec::new();
    runtimes(&snapshot.runtimes, &mut all);
    sites(&snapshot.sites, &mut all);
    routes(&snapshot.routes, &mut all);
    tokio_figures(&snapshot.runtimes, &mut all);
    watchdog(snapshot, &mut all);
    all.into_iter().flatten().collect()
}

fn runtimes(runtimes: &[RuntimeSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    all.extend([
        of(table::POLLS, runtimes, |f, r| f.value(&[&r.name], r.polls_total as f64)),
        of(table::BUSY, runtimes, |f, r| f.value(&[&r.name], r.polls.sum.as_secs_f64())),
        of(table::DURATION, runtimes, |f, r| f.histogram(&[&r.name], &r.polls)),
        of(table::STALLS, runtimes, |f, r| {
            r.stalls.iter().for_each(|c| f.value(&[&r.name, c.cause.as_str()], c.stalls.count as f64));
        }),
        of(table::STALL_SECONDS, runtimes, |f, r| {
            r.stalls.iter().for_each(|c| f.value(&[&r.name, c.cause.as_str()], c.stalls.time.as_secs_f64()));
        }),
        of(table::SUSPECTED, runtimes, |f, r| f.value(&[&r.name], r.suspected.count as f64)),
        of(table::SUSPECTED_SECONDS, runtimes, |f, r| f.value(&[&r.name], r.suspected.time.as_secs_f64())),
        of(table::BLOCKED, runtimes, |f, r| f.value(&[&r.name], r.blocked_workers as f64)),
        of(table::OLDEST, runtimes, |f, r| f.value(&[&r.name], r.oldest_stall.as_secs_f64())),
        of(table::DELAY, runtimes, |f, r| f.histogram(&[&r.name], &r.schedule_delay)),
    ]);
}

fn sites(sites: &[SiteSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    let places = labels(sites);
    let sites: Vec<(&SiteSnapshot, &str)> = sites.iter().zip(places.iter().map(String::as_str)).collect();
    let mut counts = |def, read: fn(&SiteSnapshot) -> Option<f64>| {
        all.push(of(def, &sites, |f, (s, place)| {
            if let Some(value) = read(s) {
                f.value(&[&s.runtime, place], value);
            }
        }));
    };
    counts(table::SITE_POLLS, |s| Some(s.polls as f64));
    counts(table::SITE_BUSY, |s| Some(s.busy.as_secs_f64()));
    counts(table::SITE_MAX, |s| Some(s.poll_max.as_secs_f64()));
    counts(table::SITE_STALLS, |s| Some(s.stalls.count as f64));
    counts(table::SITE_STALL_SECONDS, |s| Some(s.stalls.time.as_secs_f64()));
    // A place where nothing was spawned has no tasks; one that was never wrapped has no outcomes.
    counts(table::SPAWNED, |s| (s.spawned > 0).then_some(s.spawned as f64));
    counts(table::TERMINATED, |s| (s.spawned > 0).then_some(s.terminated as f64));
    counts(table::ALIVE, |s| s.alive().filter(|_| s.spawned > 0).map(|alive| alive as f64));
    let mut outcomes = |def, read: fn(&SiteSnapshot) -> u64| {
        all.push(of(def, &sites, |f, (s, place)| {
            // At 0 before the first: an increase from nothing is none to Prometheus.
            if s.has_outcomes {
                f.value(&[&s.runtime, place], read(s) as f64);
            }
        }));
    };
    outcomes(table::COMPLETED, |s| s.completed);
    outcomes(table::CANCELLED, |s| s.cancelled);
    outcomes(table::PANICKED, |s| s.panicked);
}

/// The sites' labels. Two that read alike (one crate from two registries) get their whole paths: no series may be there twice.
pub(super) fn labels(sites: &[SiteSnapshot]) -> Vec<String> {
    let mut places: Vec<String> = sites.iter().map(|s| s.site.to_string()).collect();
    let mut count: HashMap<(&str, &str), u32> = HashMap::new();
    for (site, place) in sites.iter().zip(&places) {
        *count.entry((&site.runtime, place)).or_default() += 1;
    }
    let twice: Vec<usize> = (0..sites.len()).filter(|&i| count[&(&*sites[i].runtime, &*places[i])] > 1).collect();
    for i in twice {
        if let Some(location) = sites[i].site.location() {
            places[i] = location.to_string();
        }
    }
    places
}

fn routes(routes: &[RouteSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    all.extend([
        of(table::ROUTE_REQUESTS, routes, |f, r| {
            r.requests.iter().for_each(|q| f.value(&[&r.route, q.method, q.status], q.count as f64));
        }),
        of(table::ROUTE_BUSY, routes, |f, r| f.value(&[&r.route], r.busy.as_secs_f64())),
        of(table::ROUTE_MAX, routes, |f, r| f.value(&[&r.route], r.poll_max.as_secs_f64())),
        of(table::ROUTE_STALLS, routes, |f, r| f.value(&[&r.route], r.stalls.count as f64)),
        of(table::ROUTE_STALL_SECONDS, routes, |f, r| f.value(&[&r.route], r.stalls.time.as_secs_f64())),
        of(table::ROUTE_DURATION, routes, |f, r| {
            if !r.poll_buckets.is_empty() {
                f.buckets(&[&r.route], &r.poll_buckets, r.polls_in_buckets, r.busy);
            }
        }),
        of(table::ROUTE_SHED, routes, |f, r| {
            if r.shed > 0 {
                f.value(&[&r.route], r.shed as f64);
            }
        }),
    ]);
}

fn tokio_figures(runtimes: &[RuntimeSnapshot], all: &mut Vec<Option<MetricFamily>>) {
    for (i, def) in table::runtime_counters().enumerate() {
        all.push(of(def, runtimes, |f, r| f.value(&[&r.name], r.stats.counters[i])));
    }
    for (i, def) in table::runtime_gauges().enumerate() {
        all.push(of(def, runtimes, |f, r| f.value(&[&r.name], r.stats.gauges[i])));
    }
    all.push(of(table::RUNTIME_BUSY_RATIO, runtimes, |f, r| f.value(&[&r.name], r.stats.busy_ratio)));
    for (i, def) in table::worker_counters().enumerate() {
        all.push(of(def, runtimes, |f, r| {
            for (worker, totals) in r.stats.workers.iter().enumerate() {
                f.value(&[&r.name, &worker.to_string()], totals.counters[i]);
            }
        }));
    }
    for (i, def) in table::worker_gauges().enumerate() {
        all.push(of(def, runtimes, |f, r| {
            for (worker, totals) in r.stats.workers.iter().enumerate() {
                f.value(&[&r.name, &worker.to_string()], totals.gauges[i]);
            }
        }));
    }
}

fn watchdog(snapshot: &Snapshot, all: &mut Vec<Option<MetricFamily>>) {
    let w = &snapshot.watchdog;
    let mut one = |def, value: f64| all.push(of(def, &[()], |f, ()| f.value(&[], value)));
    one(table::THRESHOLD, w.threshold.as_secs_f64());
    one(table::SUPPRESSED, w.reports_suppressed as f64);
    one(table::REPORTS_LOST, w.reports_lost as f64);
    one(table::OVERFLOWED, w.sites_overflowed as f64);
    one(table::ROUTES_OVERFLOWED, w.routes_overflowed as f64);
    one(table::LOST, w.coverage.lost_polls as f64);
    one(table::MEASURED, w.coverage.measured_threads as f64);
    one(table::UNMEASURED, w.coverage.unmeasured_threads as f64);
    one(table::OVERSLEEPS, w.oversleeps as f64);
    one(table::WAKEUPS, w.wakeups as f64);
    one(table::CALLBACK_PANICS, w.callback_panics as f64);
    all.push(of(table::CAPTURES, &w.captures, |f, c| f.value(&[c.result], c.count as f64)));
    all.push(of(table::ALLOWED, &w.allowed_blocking, |f, a| f.value(&[a.reason], a.time.as_secs_f64())));
    let ways = [
        ("hooks", w.coverage.runtimes.iter().any(|r| r.alive && r.every_task)),
        ("watch", true),
        ("workers", w.coverage.runtimes.iter().any(|r| r.alive && r.workers)),
        ("watchdog", w.coverage.watching),
        ("exact_wakeup", w.coverage.exact_wakeup),
        ("cpu_counter", w.coverage.clock == "cpu counter"),
        ("sampled_timing", w.coverage.sampled_timing),
        ("stacks", matches!(w.coverage.stacks, StackCoverage::Taken | StackCoverage::WaitingThreadsOnly(_))),
    ];
    all.push(of(table::COVERAGE, &ways, |f, (way, active)| f.value(&[way], f64::from(u8::from(*active)))));
    let mode = if hooks::INSTALLED { "unstable" } else { "stable" };
    all.push(of(table::BUILD, &[()], |f, ()| f.value(&[env!("CARGO_PKG_VERSION"), mode], 1.0)));
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::route::{RouteId, tally::RouteTally};

    /// One timed poll stands for some; and threads count on while they are summed.
    #[test]
    fn no_bucket_of_a_route_is_above_its_count() {
        let (tally, route, mut sums) = (RouteTally::new(1), RouteId::from_bits(1).unwrap(), HashMap::new());
        tally.cell(route).unwrap().poll(600_000, 16, true);
        tally.cell(route).unwrap().poll(2_000_000_000, 1, true);
        tally.add_to(&mut sums);
        let mut all = Vec::new();
        routes(&[RouteSnapshot::new("/".into(), &sums[&route], Default::default())], &mut all);
        let is_durations = |f: &&MetricFamily| f.name().ends_with(table::ROUTE_DURATION.name);
        let family = all.iter().flatten().find(is_durations).unwrap();
        let histogram = family.get_metric()[0].get_histogram();
        let buckets: Vec<_> = histogram.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!((buckets, histogram.get_sample_count()), (vec![0, 16, 16, 16, 16, 16, 16, 16], 17));
    }
}
