//! The runtimes and what their workers are doing.

use std::sync::Arc;

use serde::Serialize;

use super::seconds;
use crate::model::activity::{RuntimeActivity, WorkerActivity, WorkerState};
use crate::snapshot::{CauseSnapshot, HistogramSnapshot, RuntimeSnapshot, StallSnapshot, TokioWorkerSnapshot};
use crate::{Cause, RuntimeCoverage, Site, Snapshot};

#[derive(Serialize)]
pub(super) struct LiveRuntime {
    name: Arc<str>,
    alive: bool,
    every_task: bool,
    pub(super) workers: Vec<LiveWorker>,
    blocked_workers: usize,
    oldest_stall_seconds: f64,
    offworker_polls: usize,
    oldest_offworker_poll_seconds: f64,
    /// `null` where it is not known.
    driver_attended: Option<bool>,
    driver_unattended_seconds: f64,
    hung_seconds: f64,
    driver_rescues: u64,
    busy_ratio: f64,
    alive_tasks: Option<f64>,
    global_queue_depth: Option<f64>,
    // `null` without `tokio_unstable`:
    local_queue_depth: Option<f64>,
    blocking_queue_depth: Option<f64>,
    blocking_threads: Option<f64>,
    idle_blocking_threads: Option<f64>,
    polls: LiveHistogram,
    schedule_delay: LiveHistogram,
    stalls_by_cause: Vec<LiveCause>,
    /// Stalls that are only suspected, and not in `stalls_by_cause`.
    suspected: LiveStallCount,
    /// Stalls of roots that occupy no worker, and not in `stalls_by_cause`.
    root_stalls: LiveStallCount,
}

#[derive(Serialize)]
struct LiveHistogram {
    count: u64,
    sum_seconds: f64,
    /// Cumulative counts, by the bounds of `bucket_bounds_seconds`.
    buckets: Vec<u64>,
}

#[derive(Serialize)]
struct LiveCause {
    cause: Cause,
    stalls: u64,
    stalled_seconds: f64,
}

#[derive(Serialize)]
struct LiveStallCount {
    stalls: u64,
    stalled_seconds: f64,
}

#[derive(Serialize)]
pub(super) struct LiveWorker {
    index: usize,
    thread: Option<Arc<str>>,
    state: WorkerState,
    pub(super) stall: Option<u64>,
    pub(super) elapsed_seconds: Option<f64>,
    site: Option<Site>,
    watched: Option<Site>,
    route: Option<Arc<str>>,
    parent_route: Option<Arc<str>>,
    busy_seconds_total: f64,
}

/// Returns the runtimes of a snapshot, with the workers of those that live.
pub(super) fn list(snapshot: &Snapshot, mut activity: Vec<RuntimeActivity>) -> Vec<LiveRuntime> {
    let runtime = |runtime: &RuntimeSnapshot| {
        let known = snapshot.watchdog.coverage.runtimes.iter().find(|known| known.name == runtime.name);
        let active = activity.iter_mut().find(|active| active.runtime == runtime.name);
        let workers = active.map(|active| std::mem::take(&mut active.workers)).unwrap_or_default();
        let worker = |worker| LiveWorker::new(worker, &runtime.tokio.workers);
        LiveRuntime::new(runtime, known, workers.into_iter().map(worker).collect())
    };
    snapshot.runtimes.iter().map(runtime).collect()
}

impl LiveRuntime {
    fn new(snapshot: &RuntimeSnapshot, known: Option<&RuntimeCoverage>, workers: Vec<LiveWorker>) -> LiveRuntime {
        let tokio = &snapshot.tokio;
        let depth = |depth: Option<usize>| depth.map(|depth| depth as f64);
        let blocked = || workers.iter().filter_map(LiveWorker::stalled_seconds);
        LiveRuntime {
            name: snapshot.name.clone(),
            alive: known.is_some_and(|known| known.alive),
            every_task: known.is_some_and(|known| known.every_task),
            blocked_workers: blocked().count(),
            oldest_stall_seconds: blocked().fold(0.0, f64::max),
            offworker_polls: snapshot.offworker_polls,
            oldest_offworker_poll_seconds: seconds(snapshot.oldest_offworker_poll),
            workers,
            driver_attended: snapshot.driver_attended,
            driver_unattended_seconds: seconds(snapshot.driver_unattended.time),
            hung_seconds: seconds(snapshot.hung.time),
            driver_rescues: snapshot.driver_unattended.rescues + snapshot.hung.rescues,
            busy_ratio: tokio.busy_ratio,
            alive_tasks: Some(tokio.alive_tasks as f64),
            global_queue_depth: Some(tokio.global_queue_depth as f64),
            local_queue_depth: depth(tokio.local_queue_depth),
            blocking_queue_depth: depth(tokio.blocking_queue_depth),
            blocking_threads: depth(tokio.blocking_threads),
            idle_blocking_threads: depth(tokio.idle_blocking_threads),
            polls: LiveHistogram::new(&snapshot.polls),
            schedule_delay: LiveHistogram::new(&snapshot.schedule_delay),
            stalls_by_cause: snapshot.stalls.iter().map(LiveCause::new).collect(),
            suspected: LiveStallCount::new(snapshot.suspected),
            root_stalls: LiveStallCount::new(snapshot.root_stalls),
        }
    }
}

impl LiveHistogram {
    fn new(snapshot: &HistogramSnapshot) -> LiveHistogram {
        let buckets = snapshot.buckets.iter().map(|bucket| bucket.count).collect();
        LiveHistogram { count: snapshot.count, sum_seconds: seconds(snapshot.sum), buckets }
    }
}

impl LiveCause {
    fn new(CauseSnapshot { cause, stalls }: &CauseSnapshot) -> LiveCause {
        LiveCause { cause: *cause, stalls: stalls.count, stalled_seconds: seconds(stalls.time) }
    }
}

impl LiveStallCount {
    fn new(stalls: StallSnapshot) -> LiveStallCount {
        LiveStallCount { stalls: stalls.count, stalled_seconds: seconds(stalls.time) }
    }
}

impl LiveWorker {
    fn new(worker: WorkerActivity, tokio: &[TokioWorkerSnapshot]) -> LiveWorker {
        LiveWorker {
            index: worker.index,
            thread: worker.thread,
            state: worker.state,
            stall: worker.stall,
            elapsed_seconds: worker.elapsed.map(seconds),
            site: worker.site,
            watched: worker.watched,
            route: worker.route,
            parent_route: worker.parent_route,
            busy_seconds_total: tokio.get(worker.index).map_or(0.0, |tokio| seconds(tokio.busy)),
        }
    }

    fn stalled_seconds(&self) -> Option<f64> {
        self.elapsed_seconds.filter(|_| self.state == WorkerState::Stalled)
    }
}
