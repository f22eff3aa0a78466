//! The current activity of each worker, read from the slots.

use std::sync::Arc;

use crate::detect::scan::{WorkerPoll, worker_polls};
use crate::measure::runtime::Runtime;
use crate::model::activity::{RuntimeActivity, WorkerActivity, WorkerState};
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;
use crate::util::lock;
use crate::watchdog::WatchdogState;

/// Returns the living runtimes and what their workers are doing.
pub(super) fn activity(state: &WatchdogState) -> Vec<RuntimeActivity> {
    let activity = |runtime: Arc<Runtime>| {
        Some(RuntimeActivity { workers: workers(state, &runtime)?, runtime: runtime.name.clone() })
    };
    named(state).filter_map(activity).collect()
}

fn named(state: &WatchdogState) -> impl Iterator<Item = Arc<Runtime>> {
    state.meter.runtimes.all().into_iter().filter(|runtime| runtime.id != RuntimeId::OTHER)
}

/// Returns the workers of a runtime, `None` if it has been shut down.
fn workers(state: &WatchdogState, runtime: &Runtime) -> Option<Vec<WorkerActivity>> {
    let metrics = runtime.metrics()?;
    let polls = worker_polls(&state.meter, runtime, Nanos::ZERO);
    let blocked = state.blocked_workers(runtime);
    #[cfg(tokio_unstable)]
    let threads = state.meter.threads();
    let idle = |index| {
        #[cfg(tokio_unstable)]
        let name = {
            let id = metrics.worker_thread_id(index);
            threads.iter().find(|thread| Some(thread.thread) == id).map(|thread| thread.name.clone())
        };
        #[cfg(not(tokio_unstable))]
        let name = None;
        WorkerActivity::idle(index, name)
    };
    let worker = |index| {
        let worker = match polls.iter().find(|poll| poll.worker.index() == index) {
            Some(poll) => in_poll(state, poll, idle(index)),
            None => idle(index),
        };
        // The block may have started since the slots were read, and the worker need not be in a
        // poll that is measured.
        match blocked.iter().find(|blocked| blocked.worker.index() == index) {
            Some(blocked) if worker.state != WorkerState::Stalled => {
                WorkerActivity { state: WorkerState::Stalled, elapsed: Some(blocked.elapsed.to_duration()), ..worker }
            }
            _ => worker,
        }
    };
    Some((0..metrics.num_workers()).map(worker).collect())
}

fn in_poll(state: &WatchdogState, running: &WorkerPoll, idle: WorkerActivity) -> WorkerActivity {
    let stalled = running.elapsed >= state.meter.threshold;
    let (sites, routes) = (&state.meter.sites, &state.meter.routes);
    let poll = &running.poll;
    WorkerActivity {
        thread: Some(running.thread.name.clone()),
        state: if stalled { WorkerState::Stalled } else { WorkerState::Busy },
        stall: if stalled { lock(&state.stalls).id_of(poll.key) } else { None },
        elapsed: Some(running.elapsed.to_duration()),
        site: Some(sites.get(poll.site)),
        watched: poll.watched.map(|site| sites.get(site)),
        route: poll.request.map(|request| routes.name(request.route)),
        parent_route: poll.parent_route.map(|route| routes.name(route)),
        ..idle
    }
}
