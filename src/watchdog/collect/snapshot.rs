//! Sums the counters of all threads into a [`Snapshot`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::detect::capture_outcome::CaptureOutcome;
use crate::measure::counters::routes::{ROUTE_BOUNDS, RouteTotals};
use crate::measure::counters::sites::{CounterSums, SiteEvent, SiteTotals};
use crate::measure::primitives::histogram::{BOUNDS, HistogramTotals};
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::Runtime;
use crate::model::cause::Cause;
use crate::model::id::RuntimeId;
use crate::model::snapshot::{
    AllowedSnapshot, BucketSnapshot, CaptureSnapshot, CauseSnapshot, RequestsSnapshot, RouteSnapshot, RuntimeSnapshot,
    SiteSnapshot, Snapshot, StallSnapshot, WatchdogSnapshot,
};
use crate::model::time::Nanos;
use crate::report::totals::{CountAndTime, StallTotals};
use crate::watchdog::WatchdogState;

/// Returns all metrics at this moment. Takes some milliseconds with 1,000 sites.
pub(in crate::watchdog) fn snapshot(state: &WatchdogState) -> Snapshot {
    let meter = &state.meter;
    let mut sum = meter.sum();
    let stalls = state.totals();
    let known = meter.runtimes.all();
    let names: Vec<Arc<str>> = known.iter().map(|r| r.name.clone()).collect();
    let sites = sites(state, &sum.sites, &stalls, &names);
    // The runtime `other` appears once a poll outside of all known runtimes was measured.
    let counted: Vec<_> =
        known.into_iter().filter(|r| r.id != RuntimeId::OTHER || sum.polls.contains_key(&RuntimeId::OTHER)).collect();
    Snapshot {
        sites,
        routes: routes(state, &stalls),
        runtimes: counted.iter().map(|r| runtime(state, r, &mut sum, &stalls)).collect(),
        watchdog: watchdog(state),
    }
}

fn watchdog(state: &WatchdogState) -> WatchdogSnapshot {
    let meter = &state.meter;
    let capture =
        |outcome: CaptureOutcome| CaptureSnapshot { result: outcome.as_str(), count: state.status.captures(outcome) };
    let allowed = |(reason, time): (_, Nanos)| AllowedSnapshot { reason, time: time.to_duration() };
    WatchdogSnapshot {
        threshold: meter.threshold.to_duration(),
        bucket_bounds: BOUNDS.map(Nanos::to_duration).into(),
        coverage: state.coverage(),
        reports_suppressed: state.report_counters.suppressed.load(Ordering::Relaxed),
        reports_lost: state.report_counters.lost.load(Ordering::Relaxed) + meter.panics.lost(),
        captures: CaptureOutcome::ALL.map(capture).into(),
        allowed_blocking: meter.allowed().into_iter().map(allowed).collect(),
        sites_overflowed: meter.sites.overflowed(),
        routes_overflowed: meter.routes.overflowed(),
        oversleeps: state.status.oversleeps.load(Ordering::Relaxed),
        wakeups: state.status.wakeups.load(Ordering::Relaxed),
        callback_panics: state.report_counters.callback_panics.load(Ordering::Relaxed)
            + meter.hook_panics.load(Ordering::Relaxed),
        #[cfg(feature = "prometheus")]
        collector_failures: state.collectors.failures(),
        #[cfg(not(feature = "prometheus"))]
        collector_failures: 0,
    }
}

fn runtime(state: &WatchdogState, runtime: &Runtime, sum: &mut CounterSums, stalls: &StallTotals) -> RuntimeSnapshot {
    let cells = || sum.sites.iter().filter(|((id, _), _)| *id == runtime.id).map(|(_, totals)| totals);
    let (busy, polls_total) = (cells().fold(Nanos::ZERO, |sum, t| sum + t.busy), cells().map(|t| t.polls).sum());
    let blocked = state.blocked_workers(runtime);
    let mut delay = HistogramTotals::default();
    runtime.delay.add_to(&mut delay);
    let of_cause = |&cause| CauseSnapshot { cause, stalls: total(stalls.causes.get(&(runtime.id, cause))) };
    RuntimeSnapshot {
        name: runtime.name.clone(),
        polls_total,
        polls: sum.polls.remove(&runtime.id).unwrap_or_default().snapshot(busy),
        schedule_delay: delay.snapshot(delay.sum()),
        stalls: Cause::ALL.iter().map(of_cause).collect(),
        suspected: total(stalls.suspected.get(&runtime.id)),
        blocked_workers: blocked.len(),
        oldest_stall: blocked.iter().map(|b| b.elapsed).max().unwrap_or_default().to_duration(),
        tokio: runtime.stats(),
    }
}

fn sites(
    state: &WatchdogState,
    cells: &HashMap<(RuntimeId, SiteId), SiteTotals>,
    stalls: &StallTotals,
    names: &[Arc<str>],
) -> Vec<SiteSnapshot> {
    let mut keys: Vec<_> = cells.keys().copied().collect();
    keys.sort_unstable();
    let snapshot = |key: (RuntimeId, SiteId)| {
        let totals = &cells[&key];
        Some(SiteSnapshot {
            runtime: names.get(key.0.index())?.clone(),
            site: state.meter.sites.get(key.1),
            polls: totals.polls,
            busy: totals.busy.to_duration(),
            poll_max: totals.max.to_duration(),
            stalls: total(stalls.sites.get(&(key.0, key.1))),
            spawned: totals.event(SiteEvent::Spawned),
            terminated: totals.event(SiteEvent::Terminated),
            completed: totals.event(SiteEvent::Completed),
            cancelled: totals.event(SiteEvent::Cancelled),
            panicked: totals.event(SiteEvent::Panicked),
            has_outcomes: totals.event(SiteEvent::Watched) > 0,
        })
    };
    keys.into_iter().filter_map(snapshot).collect()
}

fn routes(state: &WatchdogState, stalls: &StallTotals) -> Vec<RouteSnapshot> {
    let mut totals = state.meter.sum_of_routes();
    // A route is counted when its first poll ends, which may still be blocking.
    for route in stalls.routes.keys() {
        totals.entry(*route).or_default();
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_unstable_by_key(|(route, _)| *route);
    let name = |route| state.meter.routes.name(route);
    let route_of = |(id, totals)| route(name(id), &totals, total(stalls.routes.get(&id)));
    totals.into_iter().map(route_of).collect()
}

fn route(route: Arc<str>, totals: &RouteTotals, stalls: StallSnapshot) -> RouteSnapshot {
    let (buckets, polls_in_buckets) = totals.durations().unwrap_or_default();
    let requests = totals.requests().map(|(method, status, count)| RequestsSnapshot { method, status, count });
    RouteSnapshot {
        route,
        requests: requests.collect(),
        polls: totals.polls,
        busy: totals.busy.to_duration(),
        poll_max: totals.max.to_duration(),
        poll_buckets: BucketSnapshot::list(&ROUTE_BOUNDS.map(|bound| bound.0), buckets),
        polls_in_buckets,
        stalls,
    }
}

fn total(amount: Option<&CountAndTime>) -> StallSnapshot {
    let amount = amount.copied().unwrap_or_default();
    StallSnapshot::new(amount.count, amount.time.to_duration())
}

#[cfg(all(test, feature = "tower", not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::counters::routes::ThreadRouteCounters;
    use crate::measure::primitives::route::RouteId;

    /// Threads continue to count while their counters are summed.
    #[test]
    fn no_bucket_of_a_route_is_above_its_count() {
        let (counters, id, mut sums) = (ThreadRouteCounters::new(1), RouteId::from_bits(1).unwrap(), HashMap::new());
        (0..16).for_each(|_| counters.get_or_create(id).unwrap().poll(Nanos(600_000), true));
        counters.get_or_create(id).unwrap().poll(Nanos(2_000_000_000), true);
        counters.add_to(&mut sums);
        let snapshot = route("/".into(), &sums[&id], StallSnapshot::default());
        let buckets: Vec<_> = snapshot.poll_buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!((buckets, snapshot.polls_in_buckets), (vec![0, 16, 16, 16, 16, 16, 16, 16], 17));
    }
}
