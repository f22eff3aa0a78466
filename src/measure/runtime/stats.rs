//! Tokio's own metrics of a runtime: through `tokio-metrics` for the whole, through
//! [`RuntimeMetrics`] for each worker.
//!
//! `tokio-metrics` returns the differences between two readings. They are summed here, so that a
//! figure never goes down when a runtime is rebuilt under its name, and any number of scrapers
//! sees the same values.

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio_metrics::{RuntimeIntervals, RuntimeMonitor};

use crate::model::snapshot::{TokioSnapshot, TokioWorkerSnapshot};
use crate::util::call_user;

/// The minimal length of the window that the busy ratio covers, however often it is read.
const RATIO_WINDOW: Duration = Duration::from_secs(1);

type Interval = tokio_metrics::RuntimeMetrics;

/// Resets the figures that describe the present: the runtime is gone.
pub(crate) fn clear_gauges(totals: &mut TokioSnapshot) {
    let cleared = TokioSnapshot::default();
    totals.worker_threads = cleared.worker_threads;
    totals.alive_tasks = cleared.alive_tasks;
    totals.global_queue_depth = cleared.global_queue_depth;
    totals.local_queue_depth = cleared.local_queue_depth;
    totals.blocking_queue_depth = cleared.blocking_queue_depth;
    totals.blocking_threads = cleared.blocking_threads;
    totals.idle_blocking_threads = cleared.idle_blocking_threads;
    totals.busy_ratio = cleared.busy_ratio;
    for worker in &mut totals.workers {
        worker.local_queue_depth = TokioWorkerSnapshot::default().local_queue_depth;
    }
}

/// The reader of one living runtime.
pub(crate) struct RuntimeStats {
    intervals: RuntimeIntervals,
    metrics: RuntimeMetrics,
    /// The figures of each worker at the previous reading.
    previous: Vec<TokioWorkerSnapshot>,
    window: Duration,
    window_busy: Duration,
}

impl RuntimeStats {
    pub(crate) fn new(handle: &Handle) -> RuntimeStats {
        let metrics = handle.metrics();
        RuntimeStats {
            intervals: RuntimeMonitor::new(handle).intervals(),
            previous: vec![TokioWorkerSnapshot::default(); metrics.num_workers()],
            metrics,
            window: Duration::ZERO,
            window_busy: Duration::ZERO,
        }
    }

    /// Adds what has happened since the previous reading.
    ///
    /// Takes some 10 µs and one of tokio's locks for each worker: not for the poll path.
    pub(crate) fn update(&mut self, totals: &mut TokioSnapshot) {
        // tokio-metrics subtracts without a check, and panics should a figure of tokio go down.
        // That must not reach a worker.
        call_user(|| {
            if let Some(interval) = self.intervals.next() {
                add_interval(&interval, totals);
                self.update_busy_ratio(&interval, totals);
            }
        });
        let workers = totals.workers.len().max(self.previous.len());
        totals.workers.resize_with(workers, TokioWorkerSnapshot::default);
        for (index, (previous, total)) in self.previous.iter_mut().zip(&mut totals.workers).enumerate() {
            let now = read_worker(&self.metrics, index);
            add_worker(previous, &now, total);
            *previous = now;
        }
    }

    fn update_busy_ratio(&mut self, interval: &Interval, totals: &mut TokioSnapshot) {
        self.window += interval.elapsed;
        self.window_busy += interval.total_busy_duration;
        if self.window >= RATIO_WINDOW {
            let all = self.window.as_secs_f64() * interval.workers_count.max(1) as f64;
            totals.busy_ratio = (self.window_busy.as_secs_f64() / all).min(1.0);
            self.window = Duration::ZERO;
            self.window_busy = Duration::ZERO;
        }
    }
}

fn add_interval(interval: &Interval, totals: &mut TokioSnapshot) {
    totals.parks += interval.total_park_count;
    totals.busy += interval.total_busy_duration;
    totals.worker_threads = interval.workers_count;
    // One task is pollwatch's own probe.
    totals.alive_tasks = interval.live_tasks_count.saturating_sub(1);
    totals.global_queue_depth = interval.global_queue_depth;
    #[cfg(tokio_unstable)]
    add_unstable(interval, totals);
}

#[cfg(tokio_unstable)]
fn add_unstable(interval: &Interval, totals: &mut TokioSnapshot) {
    let add = |total: &mut Option<u64>, count: u64| *total.get_or_insert(0) += count;
    add(&mut totals.noops, interval.total_noop_count);
    add(&mut totals.steals, interval.total_steal_count);
    add(&mut totals.steal_operations, interval.total_steal_operations);
    add(&mut totals.remote_schedules, interval.num_remote_schedules);
    add(&mut totals.local_schedules, interval.total_local_schedule_count);
    add(&mut totals.overflows, interval.total_overflow_count);
    add(&mut totals.budget_forced_yields, interval.budget_forced_yield_count);
    add(&mut totals.io_driver_ready, interval.io_driver_ready_count);
    totals.local_queue_depth = Some(interval.total_local_queue_depth);
    totals.blocking_queue_depth = Some(interval.blocking_queue_depth);
    totals.blocking_threads = Some(interval.blocking_threads_count);
    totals.idle_blocking_threads = Some(interval.idle_blocking_threads_count);
}

fn read_worker(metrics: &RuntimeMetrics, index: usize) -> TokioWorkerSnapshot {
    let worker = TokioWorkerSnapshot {
        busy: metrics.worker_total_busy_duration(index),
        parks: metrics.worker_park_count(index),
        ..Default::default()
    };
    #[cfg(tokio_unstable)]
    let worker = TokioWorkerSnapshot {
        polls: Some(metrics.worker_poll_count(index)),
        steals: Some(metrics.worker_steal_count(index)),
        local_queue_depth: Some(metrics.worker_local_queue_depth(index)),
        ..worker
    };
    worker
}

/// Adds the difference between two readings of a worker to its total.
fn add_worker(previous: &TokioWorkerSnapshot, now: &TokioWorkerSnapshot, total: &mut TokioWorkerSnapshot) {
    let add = |total: &mut Option<u64>, previous: Option<u64>, now: Option<u64>| {
        let grown = previous.zip(now).map(|(previous, now)| now.saturating_sub(previous));
        *total = total.zip(grown).map(|(total, grown)| total + grown);
    };
    total.busy += now.busy.saturating_sub(previous.busy);
    total.parks += now.parks.saturating_sub(previous.parks);
    add(&mut total.polls, previous.polls, now.polls);
    add(&mut total.steals, previous.steals, now.steals);
    total.local_queue_depth = now.local_queue_depth;
}
