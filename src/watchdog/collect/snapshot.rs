//! Sums the counters of all threads into a [`Snapshot`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::incidents;
use crate::detect::scan;
use crate::measure::counters::routes::{ROUTE_BOUNDS, RouteTotals};
use crate::measure::counters::sites::{CounterSums, SiteEvent, SiteTotals};
use crate::measure::primitives::histogram::{BOUNDS, HistogramTotals};
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::Runtime;
use crate::model::cause::Cause;
use crate::model::condition::ConditionKind;
use crate::model::id::RuntimeId;
use crate::model::labels::{CaptureOutcome, ReportStage};
use crate::model::late_runtime::LateReason;
use crate::model::snapshot::{
    AllowedSnapshot, BucketSnapshot, CaptureSnapshot, CauseSnapshot, LateReportsSnapshot, LostReportsSnapshot,
    RequestsSnapshot, RouteSnapshot, RuntimeSnapshot, SiteSnapshot, Snapshot, StallSnapshot, VictimsSnapshot,
    WatchdogSnapshot,
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
    let capture = |outcome: CaptureOutcome| CaptureSnapshot { outcome, count: state.status.captures(outcome) };
    let lost = |stage: ReportStage| {
        // Panics of tasks are only logged.
        let panics = if stage == ReportStage::Log { meter.panics.lost() } else { 0 };
        LostReportsSnapshot { stage, count: state.report_counters.lost(stage) + panics }
    };
    let allowed = |(reason, time): (_, Nanos)| AllowedSnapshot { reason, time: time.to_duration() };
    let lost: Vec<_> = ReportStage::ALL.iter().copied().map(lost).collect();
    WatchdogSnapshot {
        threshold: meter.threshold.to_duration(),
        bucket_bounds: BOUNDS.map(Nanos::to_duration).into(),
        coverage: state.coverage(),
        reports_suppressed: state.report_counters.suppressed.load(Ordering::Relaxed),
        reports_lost: lost.iter().map(|of_stage| of_stage.count).sum(),
        reports_lost_by_stage: lost,
        captures: CaptureOutcome::ALL.iter().copied().map(capture).collect(),
        allowed_blocking: meter.allowed().into_iter().map(allowed).collect(),
        sites_overflowed: meter.sites.overflowed(),
        routes_overflowed: meter.routes.overflowed(),
        spawn_routes_overflowed: meter.spawn_routes_overflowed(),
        oversleeps: state.status.oversleeps.load(Ordering::Relaxed),
        wakeups: state.status.wakeups.load(Ordering::Relaxed),
        callback_panics: state.report_counters.callback_panics.load(Ordering::Relaxed)
            + meter.hook_panics.load(Ordering::Relaxed),
        incident_actions: incidents::actions(state),
        #[cfg(feature = "prometheus")]
        collector_failures: state.collectors.failures(),
        #[cfg(not(feature = "prometheus"))]
        collector_failures: 0,
    }
}

fn runtime(state: &WatchdogState, runtime: &Runtime, sum: &mut CounterSums, stalls: &StallTotals) -> RuntimeSnapshot {
    let cells = || sum.sites.iter().filter(|((id, _), _)| *id == runtime.id).map(|(_, totals)| totals);
    let (busy, polls_total) = (cells().fold(Nanos::ZERO, |sum, t| sum + t.busy), cells().map(|t| t.polls).sum());
    let delay_sum = cells().fold(Nanos::ZERO, |sum, t| sum + t.delays.sum);
    let delays = state.meter.min_delay.map(|_| sum.delays.get(&runtime.id).cloned().unwrap_or_default());
    let victims = stalls.victims.get(&runtime.id).copied().unwrap_or_default();
    let blocked = state.blocked_workers(runtime);
    let off_worker = scan::off_worker_polls(&state.meter, runtime, state.meter.threshold);
    let mut delay = HistogramTotals::default();
    runtime.delay.add_to(&mut delay);
    let of_cause = |&cause| CauseSnapshot { cause, stalls: total(stalls.causes.get(&(runtime.id, cause))) };
    let of_reason = |&reason| {
        let count = stalls.late.get(&(runtime.id, reason)).copied().unwrap_or(0);
        LateReportsSnapshot { reason, count }
    };
    RuntimeSnapshot {
        name: runtime.name.clone(),
        polls_total,
        polls: sum.polls.remove(&runtime.id).unwrap_or_default().snapshot(busy),
        schedule_delay: delay.snapshot(delay.sum()),
        delays: delays.map(|totals| totals.snapshot(delay_sum)),
        stalls: Cause::ALL.iter().map(of_cause).collect(),
        suspected: total(stalls.suspected.get(&runtime.id)),
        root_stalls: total(stalls.roots.get(&runtime.id)),
        late_reports: LateReason::ALL.iter().map(of_reason).collect(),
        victims: VictimsSnapshot::new(victims.count, victims.time.to_duration()),
        blocked_workers: blocked.len(),
        oldest_stall: blocked.iter().map(|b| b.elapsed).max().unwrap_or_default().to_duration(),
        offworker_polls: off_worker.count,
        oldest_offworker_poll: off_worker.oldest.to_duration(),
        incidents: incidents::of_runtime(state, &runtime.name),
        driver_attended: state.is_driver_attended(runtime),
        driver_unattended: state.condition_totals(runtime, ConditionKind::DriverUnattended),
        hung: state.condition_totals(runtime, ConditionKind::RuntimeHung),
        blocking_pool_is_full: state.is_blocking_pool_full(runtime),
        blocking_pool_full: state.condition_totals(runtime, ConditionKind::BlockingPoolFull),
        oldest_blocking_call: state.oldest_blocking_call(runtime),
        tokio: runtime.stats(),
    }
}

fn sites(
    state: &WatchdogState,
    cells: &HashMap<(RuntimeId, SiteId), SiteTotals>,
    stalls: &StallTotals,
    names: &[Arc<str>],
) -> Vec<SiteSnapshot> {
    let unpolled = state.meter.unpolled().unwrap_or_default();
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
            delay: totals.delays.sum.to_duration(),
            delay_max: totals.delays.max.to_duration(),
            unpolled: unpolled.get(&key).map(|longest| longest.to_duration()),
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
    for route in stalls.routes.keys().chain(stalls.spawned.keys()) {
        totals.entry(*route).or_default();
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_unstable_by_key(|(route, _)| *route);
    let name = |route| state.meter.routes.name(route);
    let route_of = |(id, totals)| RouteSnapshot {
        stalls: total(stalls.routes.get(&id)),
        spawned_stalls: total(stalls.spawned.get(&id)),
        ..route(name(id), &totals)
    };
    totals.into_iter().map(route_of).collect()
}

/// Returns the figures of a route without its stalls.
fn route(route: Arc<str>, totals: &RouteTotals) -> RouteSnapshot {
    let (buckets, polls_in_buckets) = totals.durations().unwrap_or_default();
    let requests = totals.requests().map(|(method, status, count)| RequestsSnapshot { method, status, count });
    RouteSnapshot {
        route,
        requests: requests.collect(),
        polls: totals.polls,
        busy: totals.busy.to_duration(),
        poll_max: totals.max.to_duration(),
        delay: totals.delay.to_duration(),
        poll_buckets: BucketSnapshot::list(&ROUTE_BOUNDS.map(|bound| bound.0), buckets),
        polls_in_buckets,
        stalls: StallSnapshot::default(),
        spawned_stalls: StallSnapshot::default(),
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
        let snapshot = route("/".into(), &sums[&id]);
        let buckets: Vec<_> = snapshot.poll_buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!((buckets, snapshot.polls_in_buckets), (vec![0, 16, 16, 16, 16, 16, 16, 16], 17));
    }
}
