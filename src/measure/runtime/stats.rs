//! tokio's own figures of a runtime: through `tokio-metrics` for the whole, through
//! `RuntimeMetrics` for each worker.
//!
//! `tokio-metrics` hands out differences between two looks. They are added up here, so that a
//! figure never goes down when a runtime is rebuilt under its name, and any number of scrapers sees
//! the same.

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio_metrics::{RuntimeIntervals, RuntimeMonitor};

use crate::util::call_user;

/// The busy ratio is of a window of at least this length, however often somebody asks.
const RATIO_WINDOW: Duration = Duration::from_secs(1);

/// Name (without prefix), help, and how to read it, of each figure of a kind.
pub(crate) type Table<S> = &'static [(&'static str, &'static str, fn(&S) -> f64)];

/// The same for one worker.
type WorkerTable = &'static [(&'static str, &'static str, fn(&RuntimeMetrics, usize) -> f64)];

type Interval = tokio_metrics::RuntimeMetrics;

/// Sums over the runtime's life.
pub(crate) const COUNTERS: Table<Interval> = &[
    ("runtime_parks_total", "Times that a worker parked.", |m| m.total_park_count as f64),
    (
        "runtime_busy_seconds_total",
        "Time that the workers were not parked, in all; published by tokio every 61 ticks or at a park.",
        |m| m.total_busy_duration.as_secs_f64(),
    ),
    #[cfg(tokio_unstable)]
    ("runtime_noops_total", "Times that a worker was unparked and found nothing to do. Needs tokio_unstable.", |m| {
        m.total_noop_count as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_steals_total", "Tasks that workers stole from each other. Needs tokio_unstable.", |m| {
        m.total_steal_count as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_steal_operations_total", "Times that a worker stole at least one task. Needs tokio_unstable.", |m| {
        m.total_steal_operations as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_remote_schedules_total", "Tasks scheduled from outside of the runtime. Needs tokio_unstable.", |m| {
        m.num_remote_schedules as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_local_schedules_total", "Tasks scheduled from within the runtime. Needs tokio_unstable.", |m| {
        m.total_local_schedule_count as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_overflows_total", "Times that a worker's queue was full. Needs tokio_unstable.", |m| {
        m.total_overflow_count as f64
    }),
    #[cfg(tokio_unstable)]
    (
        "runtime_budget_forced_yields_total",
        "Times that a task used up its cooperative budget. Needs tokio_unstable.",
        |m| m.budget_forced_yield_count as f64,
    ),
    #[cfg(tokio_unstable)]
    ("runtime_io_driver_ready_total", "Readiness events of the I/O driver. Needs tokio_unstable.", |m| {
        m.io_driver_ready_count as f64
    }),
];

/// Values of now.
pub(crate) const GAUGES: Table<Interval> = &[
    ("runtime_workers", "Worker threads.", |m| m.workers_count as f64),
    ("runtime_alive_tasks", "Tasks that are alive (pollwatch's own one left out).", |m| {
        m.live_tasks_count.saturating_sub(1) as f64
    }),
    ("runtime_global_queue_depth", "Tasks in the queue that all workers share.", |m| m.global_queue_depth as f64),
    #[cfg(tokio_unstable)]
    ("runtime_local_queue_depth", "Tasks in the workers' own queues, in all. Needs tokio_unstable.", |m| {
        m.total_local_queue_depth as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_blocking_queue_depth", "Closures that wait for a blocking thread. Needs tokio_unstable.", |m| {
        m.blocking_queue_depth as f64
    }),
    #[cfg(tokio_unstable)]
    ("runtime_blocking_threads", "Threads of the blocking pool. Needs tokio_unstable.", |m| {
        m.blocking_threads_count as f64
    }),
    #[cfg(tokio_unstable)]
    (
        "runtime_idle_blocking_threads",
        "Threads of the blocking pool that have nothing to do. Needs tokio_unstable.",
        |m| m.idle_blocking_threads_count as f64,
    ),
];

/// One worker's sums.
pub(crate) const WORKER_COUNTERS: WorkerTable = &[
    (
        "runtime_worker_busy_seconds_total",
        "Time that the worker was not parked; published by tokio every 61 ticks or at a park.",
        |m, w| m.worker_total_busy_duration(w).as_secs_f64(),
    ),
    ("runtime_worker_parks_total", "Times that the worker parked.", |m, w| m.worker_park_count(w) as f64),
    #[cfg(tokio_unstable)]
    (
        "runtime_worker_polls_total",
        "Polls that tokio counted on the worker; published every 61 ticks or at a park. Needs tokio_unstable.",
        |m, w| m.worker_poll_count(w) as f64,
    ),
    #[cfg(tokio_unstable)]
    ("runtime_worker_steals_total", "Tasks that the worker stole. Needs tokio_unstable.", |m, w| {
        m.worker_steal_count(w) as f64
    }),
];

/// One worker's values of now.
pub(crate) const WORKER_GAUGES: WorkerTable = &[
    #[cfg(tokio_unstable)]
    ("runtime_worker_local_queue_depth", "Tasks in the worker's own queue. Needs tokio_unstable.", |m, w| {
        m.worker_local_queue_depth(w) as f64
    }),
];

/// The share of the workers' time in which they were not parked, 0 to 1.
#[cfg(feature = "prometheus")]
pub(crate) const BUSY_RATIO: (&str, &str) = (
    "runtime_busy_ratio",
    "Share of the workers' time in which they were not parked, 0 to 1, over the last second or more.",
);

/// The figures of one runtime name, in the order of the tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatsTotals {
    pub(crate) counters: [f64; COUNTERS.len()],
    pub(crate) gauges: [f64; GAUGES.len()],
    pub(crate) busy_ratio: f64,
    pub(crate) workers: Vec<WorkerTotals>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerTotals {
    pub(crate) counters: [f64; WORKER_COUNTERS.len()],
    pub(crate) gauges: [f64; WORKER_GAUGES.len()],
}

impl StatsTotals {
    /// The runtime is gone: what it is now is nothing.
    pub(crate) fn clear_gauges(&mut self) {
        self.gauges = Default::default();
        self.busy_ratio = 0.0;
        for worker in &mut self.workers {
            worker.gauges = Default::default();
        }
    }
}

/// Reads one living runtime.
pub(crate) struct RuntimeStats {
    intervals: RuntimeIntervals,
    metrics: RuntimeMetrics,
    /// What each worker had at the last look.
    seen: Vec<[f64; WORKER_COUNTERS.len()]>,
    window: Duration,
    window_busy: Duration,
}

impl RuntimeStats {
    pub(crate) fn new(handle: &Handle) -> RuntimeStats {
        let metrics = handle.metrics();
        RuntimeStats {
            intervals: RuntimeMonitor::new(handle).intervals(),
            seen: vec![Default::default(); metrics.num_workers()],
            metrics,
            window: Duration::ZERO,
            window_busy: Duration::ZERO,
        }
    }

    /// Adds what has happened since the last look. Not on the poll path: some 10 µs, and a lock of
    /// tokio's a worker.
    pub(crate) fn update(&mut self, totals: &mut StatsTotals) {
        // tokio-metrics subtracts without a check; should a figure of tokio's ever go down, that
        // must not reach a worker.
        call_user(|| {
            if let Some(interval) = self.intervals.next() {
                self.add(&interval, totals);
            }
        });
        totals.workers.resize_with(totals.workers.len().max(self.seen.len()), WorkerTotals::default);
        for (worker, (seen, total)) in self.seen.iter_mut().zip(&mut totals.workers).enumerate() {
            for (i, (_, _, read)) in WORKER_COUNTERS.iter().enumerate() {
                let value = read(&self.metrics, worker);
                total.counters[i] += (value - seen[i]).max(0.0);
                seen[i] = value;
            }
            for (gauge, (_, _, read)) in total.gauges.iter_mut().zip(WORKER_GAUGES) {
                *gauge = read(&self.metrics, worker);
            }
        }
    }

    fn add(&mut self, interval: &Interval, totals: &mut StatsTotals) {
        for (total, (_, _, read)) in totals.counters.iter_mut().zip(COUNTERS) {
            *total += read(interval);
        }
        for (gauge, (_, _, read)) in totals.gauges.iter_mut().zip(GAUGES) {
            *gauge = read(interval);
        }
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
