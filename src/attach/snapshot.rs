//! The figures of an attach as a [`Snapshot`].

use std::sync::atomic::Ordering;

use pollwatch_stack::ReadLosses;

use super::runtimes::FoundRuntime;
use super::state::AttachState;
use crate::model::cause::Cause;
use crate::model::coverage::{Coverage, RuntimeCoverage, StackCoverage};
use crate::model::id::RuntimeId;
use crate::model::incident::IncidentKind;
use crate::model::labels::{CaptureOutcome, ReportStage};
use crate::model::snapshot::{
    CaptureSnapshot, CauseSnapshot, IncidentSnapshot, LostReportsSnapshot, RuntimeSnapshot, Snapshot, StallSnapshot,
    TokioSnapshot, WatchdogSnapshot,
};
use crate::report::store::ObservedWorker;
use crate::report::totals::{CountAndTime, StallTotals};
use crate::util::lock;

/// Scans without samples are part of the coverage if they are more than one in so many.
const LIGHT_SHARE: u64 = 20;

/// Returns all figures at this moment.
pub(super) fn snapshot(state: &AttachState) -> Snapshot {
    let totals = lock(&state.stalls).totals(state.now());
    let runtimes: Vec<(RuntimeId, FoundRuntime)> =
        lock(&state.runtimes).all().map(|(id, runtime)| (id, runtime.clone())).collect();
    Snapshot {
        runtimes: runtimes.iter().map(|(id, found)| runtime(state, *id, found, &totals)).collect(),
        sites: Vec::new(),
        routes: Vec::new(),
        watchdog: watchdog(state, &runtimes),
    }
}

/// Returns the workers of a runtime that are blocked for certain.
pub(super) fn blocked(state: &AttachState, id: RuntimeId) -> Vec<ObservedWorker> {
    let now = state.now();
    let mut blocked = lock(&state.stalls).observed_workers(id);
    for worker in &mut blocked {
        worker.elapsed += now.saturating_sub(worker.at);
        worker.at = now;
    }
    blocked
}

fn runtime(state: &AttachState, id: RuntimeId, found: &FoundRuntime, totals: &StallTotals) -> RuntimeSnapshot {
    let blocked = blocked(state, id);
    let of_cause = |&cause| CauseSnapshot { cause, stalls: total(totals.causes.get(&(id, cause))) };
    let tracker = lock(&state.incidents.tracker);
    // The other kinds are not known of another process.
    let kind = IncidentKind::WorkersBlocked;
    let counts = tracker.counts();
    let count = counts.iter().find(|count| count.key.kind == kind && count.key.runtime == found.name);
    let (count, is_ongoing) = count.map_or((0, false), |count| (count.count, count.is_ongoing));
    RuntimeSnapshot {
        name: found.name.clone(),
        stalls: Cause::ALL.iter().map(of_cause).collect(),
        suspected: total(totals.suspected.get(&id)),
        blocked_workers: blocked.len(),
        oldest_stall: blocked.iter().map(|worker| worker.elapsed).max().unwrap_or_default().to_duration(),
        incidents: vec![IncidentSnapshot { kind, count, is_ongoing }],
        tokio: TokioSnapshot { worker_threads: found.threads.len(), ..TokioSnapshot::default() },
        ..RuntimeSnapshot::unmeasured()
    }
}

fn watchdog(state: &AttachState, runtimes: &[(RuntimeId, FoundRuntime)]) -> WatchdogSnapshot {
    let counters = &state.counters;
    let capture = |outcome: CaptureOutcome| CaptureSnapshot { outcome, count: counters.captures(outcome) };
    let lost = |stage: ReportStage| LostReportsSnapshot { stage, count: state.report_counters.lost(stage) };
    let lost: Vec<_> = ReportStage::ALL.iter().copied().map(lost).collect();
    WatchdogSnapshot {
        threshold: state.settings.threshold,
        bucket_bounds: Vec::new(),
        coverage: coverage(state, runtimes),
        reports_suppressed: state.report_counters.suppressed.load(Ordering::Relaxed),
        reports_lost: lost.iter().map(|of_stage| of_stage.count).sum(),
        reports_lost_by_stage: lost,
        captures: CaptureOutcome::ALL.iter().copied().map(capture).collect(),
        allowed_blocking: Vec::new(),
        sites_overflowed: 0,
        routes_overflowed: 0,
        spawn_routes_overflowed: 0,
        oversleeps: counters.late_scans.load(Ordering::Relaxed),
        wakeups: counters.scans.load(Ordering::Relaxed),
        callback_panics: state.report_counters.callback_panics.load(Ordering::Relaxed),
        incident_actions: Vec::new(),
        collector_failures: 0,
    }
}

/// Returns what is covered, and what is not.
fn coverage(state: &AttachState, runtimes: &[(RuntimeId, FoundRuntime)]) -> Coverage {
    let is_alive = state.lifetime.ended().is_none();
    let runtime = |(_, found): &(RuntimeId, FoundRuntime)| RuntimeCoverage {
        name: found.name.clone(),
        alive: is_alive && !found.threads.is_empty(),
        every_task: false,
        workers: true,
        thread_waits: false,
        driver_unobserved: Some("the process is another one"),
        blocking_pool: false,
    };
    let stacks = match state.settings.stop {
        true => StackCoverage::Taken,
        false => StackCoverage::WaitingThreadsOnly("threads that run are not stopped"),
    };
    Coverage {
        hooks: false,
        watching: is_alive,
        watchdog_panics: 0,
        exact_wakeup: false,
        clock: "monotonic",
        clock_steps: 0,
        clock_replaced: None,
        stacks,
        symbols: true,
        unusable_symbol_files: state.report_counters.unusable_symbol_files.load(Ordering::Relaxed),
        delays: false,
        lost_delays: 0,
        untracked_tasks: 0,
        unnamed_requests: 0,
        lock_holders_unavailable: Some("the locks of another process are not searched"),
        runtimes: runtimes.iter().map(runtime).collect(),
        unnamed_runtimes: 0,
        measured_threads: 0,
        unmeasured_threads: state.counters.unscanned.load(Ordering::Relaxed),
        lost_polls: 0,
        attached: Some(coverage_text(state, runtimes)),
    }
}

/// Returns what is covered, and what is not, in lines.
fn coverage_text(state: &AttachState, runtimes: &[(RuntimeId, FoundRuntime)]) -> String {
    let (settings, counters) = (&state.settings, &state.counters);
    let threads = counters.threads.load(Ordering::Relaxed);
    let pid = settings.pid;
    let mut lines = vec![format!("process {pid}, read from outside: {threads} threads")];
    let stop_problem = *lock(&counters.stop_problem);
    let computing = match (settings.stop, stop_problem) {
        (true, None) => "by samples, suspected only".to_owned(),
        (true, Some(why)) => format!("found only in part: {why}"),
        (false, _) => "not found: threads that run are not stopped".to_owned(),
    };
    lines.push("threads that wait in one call, page fault or lock within a task: observed".to_owned());
    lines.push(format!("threads that compute: {computing}"));
    if !counters.has_symbols.load(Ordering::Relaxed) {
        let other = if settings.all_threads { "all threads are watched" } else { "no thread is watched" };
        lines.push(format!("runtimes cannot be recognised: the program has no symbols of tokio; {other}"));
    }
    if counters.may_miss_loops.load(Ordering::Relaxed) {
        lines.push(
            "current-thread runtimes: found only if the compiler has not inlined their loops, since the program has no \
             debug information"
                .to_owned(),
        );
    }
    for (_, found) in runtimes {
        let state = match found.threads.len() {
            0 => "gone".to_owned(),
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        lines.push(format!("runtime {:?}: {state}", found.name));
    }
    let unscanned = counters.unscanned.load(Ordering::Relaxed);
    if unscanned > 0 {
        lines.push(format!("threads of runtimes that are not watched, because there are too many: {unscanned}"));
    }
    let unread = counters.unread.load(Ordering::Relaxed).saturating_sub(unscanned);
    if unread > 0 {
        lines.push(format!("threads whose stack was not read so far, of unknown role: {unread}"));
    }
    let (light, scans) = (counters.light_scans.load(Ordering::Relaxed), counters.scans.load(Ordering::Relaxed));
    if light * LIGHT_SHARE > scans {
        lines.push(format!(
            "scans without samples, because they took their share of the CPU time: {light} of {scans}; what computes \
             may be missed"
        ));
    }
    lines.extend(loss_lines(*lock(&counters.losses)));
    if let Some(ended) = state.lifetime.ended() {
        lines.push(ended.to_string());
    }
    lines.push(
        "not known of another process: ids and spawn sites of tasks, routes, spans, holders of locks, and who \
         attends sockets and timers"
            .to_owned(),
    );
    lines.join("\n")
}

/// Returns a line for each kind of what could not be read of the process.
fn loss_lines(losses: ReadLosses) -> impl Iterator<Item = String> {
    let lines = [
        (losses.memory, "reads of memory that were given up, because it did not come in time: stacks may be missing"),
        (
            losses.files,
            "reads of files that were given up, because they did not come in time: functions may be missing",
        ),
        (
            losses.modules,
            "modules and mappings that were left out, because they are too many or too large: stacks end there",
        ),
    ];
    lines.into_iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{text}: {count}"))
}

fn total(amount: Option<&CountAndTime>) -> StallSnapshot {
    let amount = amount.copied().unwrap_or_default();
    StallSnapshot::new(amount.count, amount.time.to_duration())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_said() {
        let mut losses = ReadLosses::default();
        assert_eq!(loss_lines(losses).count(), 0);
        (losses.memory, losses.modules) = (3, 1);
        let lines: Vec<_> = loss_lines(losses).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("reads of memory") && lines[0].ends_with(": 3"), "{lines:?}");
    }
}
