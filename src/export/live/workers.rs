//! What each worker is doing.

use std::sync::Arc;

use serde::Serialize;

use super::seconds;
use crate::Site;
use crate::detect::scan::{WorkerPoll, worker_polls};
use crate::measure::runtime::Runtime;
use crate::model::time::Nanos;
use crate::util::lock;
use crate::watchdog::WatchdogState;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// In no poll that is seen.
    Idle,
    Busy,
    /// In a poll for the threshold or longer.
    Stalled,
}

#[derive(Serialize)]
pub(super) struct Worker {
    pub(super) index: usize,
    /// The thread's name, where it is known: of every worker with `tokio_unstable`, else of those in a poll.
    thread: Option<Arc<str>>,
    state: State,
    /// The stall that its poll is, if it has been told.
    pub(super) stall: Option<u64>,
    /// How long the poll has lasted.
    pub(super) elapsed_seconds: Option<f64>,
    site: Option<Site>,
    watched: Option<Site>,
    route: Option<Arc<str>>,
    parent_route: Option<Arc<str>>,
    busy_seconds_total: f64,
}

impl Worker {
    pub(super) fn stalled_seconds(&self) -> Option<f64> {
        self.elapsed_seconds.filter(|_| self.state == State::Stalled)
    }
}

/// The workers of a runtime that lives; `busy` tells the time that each was not parked.
pub(super) fn of(shared: &WatchdogState, runtime: &Runtime, busy: impl Fn(usize) -> f64) -> Vec<Worker> {
    let Some(metrics) = runtime.metrics() else { return Vec::new() };
    let polling = worker_polls(&shared.meter, runtime, Nanos::ZERO);
    let blocked = shared.blocked_workers(runtime);
    let threads = shared.meter.threads();
    let idle = |index| {
        #[cfg(tokio_unstable)]
        let thread = metrics.worker_thread_id(index);
        #[cfg(not(tokio_unstable))]
        let thread = None;
        let thread = threads.iter().find(|known| Some(known.thread) == thread).map(|known| known.name.clone());
        Worker {
            index,
            thread,
            state: State::Idle,
            stall: None,
            elapsed_seconds: None,
            site: None,
            watched: None,
            route: None,
            parent_route: None,
            busy_seconds_total: busy(index),
        }
    };
    let worker = |index| {
        let worker = match polling.iter().find(|polling| usize::from(polling.worker) == index) {
            Some(polling) => in_poll(shared, polling, idle(index)),
            None => idle(index),
        };
        // It may have begun since, and need not be in a poll that is seen.
        match blocked.iter().find(|blocked| usize::from(blocked.worker) == index) {
            Some(blocked) if worker.state != State::Stalled => Worker {
                state: State::Stalled,
                elapsed_seconds: Some(seconds(blocked.elapsed.to_duration())),
                ..worker
            },
            _ => worker,
        }
    };
    (0..metrics.num_workers()).map(worker).collect()
}

fn in_poll(shared: &WatchdogState, polling: &WorkerPoll, idle: Worker) -> Worker {
    let stalled = polling.elapsed >= Nanos(shared.meter.threshold);
    let (sites, routes) = (&shared.meter.sites, &shared.meter.routes);
    Worker {
        thread: Some(polling.thread.name.clone()),
        state: if stalled { State::Stalled } else { State::Busy },
        stall: if stalled { lock(&shared.stalls).id_of(polling.poll.key) } else { None },
        elapsed_seconds: Some(seconds(polling.elapsed.to_duration())),
        site: Some(sites.get(polling.poll.site)),
        watched: polling.poll.watched.map(|site| sites.get(site)),
        route: polling.poll.request.map(|request| routes.name(request.route)),
        parent_route: polling.poll.parent_route.map(|route| routes.name(route)),
        ..idle
    }
}
