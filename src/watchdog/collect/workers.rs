//! What each worker is doing, read from the slots.

use std::sync::Arc;
use std::time::Duration;

use crate::detect::live;
use crate::detect::polling::{Polling, polling};
use crate::measure::runtime::{OTHER, Runtime};
use crate::model::activity::{BlockedWorkers, RuntimeActivity, WorkerActivity, WorkerState};
use crate::shared::Shared;
use crate::util::lock;

/// Returns the living runtimes and what their workers are doing.
pub(super) fn activity(shared: &Shared) -> Vec<RuntimeActivity> {
    let activity = |runtime: Arc<Runtime>| {
        Some(RuntimeActivity { workers: workers(shared, &runtime)?, runtime: runtime.name.clone() })
    };
    named(shared).filter_map(activity).collect()
}

/// Returns the living runtimes and their blocked workers: less work than [`activity`].
pub(super) fn blocked(shared: &Shared) -> Vec<BlockedWorkers> {
    let blocked = |runtime: Arc<Runtime>| {
        let workers = runtime.metrics()?.num_workers();
        let blocked = live::blocked(shared, &runtime);
        let blocked_for = blocked.iter().map(|b| Duration::from_nanos(b.nanos)).collect();
        Some(BlockedWorkers { runtime: runtime.name.clone(), workers, blocked_for })
    };
    named(shared).filter_map(blocked).collect()
}

fn named(shared: &Shared) -> impl Iterator<Item = Arc<Runtime>> {
    shared.meter.runtimes.all().into_iter().filter(|runtime| runtime.id != OTHER)
}

/// Returns the workers of a runtime, `None` if it has been shut down.
fn workers(shared: &Shared, runtime: &Runtime) -> Option<Vec<WorkerActivity>> {
    let metrics = runtime.metrics()?;
    let polling = polling(&shared.meter, runtime);
    let blocked = live::blocked(shared, runtime);
    let threads = shared.meter.threads();
    let idle = |index| {
        #[cfg(tokio_unstable)]
        let thread = metrics.worker_thread_id(index);
        #[cfg(not(tokio_unstable))]
        let thread = None;
        let thread = threads.iter().find(|known| Some(known.thread) == thread);
        WorkerActivity::idle(index, thread.map(|known| known.name.clone()))
    };
    let worker = |index| {
        let worker = match polling.iter().find(|polling| usize::from(polling.worker) == index) {
            Some(polling) => in_poll(shared, polling, idle(index)),
            None => idle(index),
        };
        // The block may have started since the slots were read, and the worker need not be in a
        // poll that is measured.
        match blocked.iter().find(|blocked| usize::from(blocked.worker) == index) {
            Some(blocked) if worker.state != WorkerState::Stalled => WorkerActivity {
                state: WorkerState::Stalled,
                elapsed: Some(Duration::from_nanos(blocked.nanos)),
                ..worker
            },
            _ => worker,
        }
    };
    Some((0..metrics.num_workers()).map(worker).collect())
}

fn in_poll(shared: &Shared, polling: &Polling, idle: WorkerActivity) -> WorkerActivity {
    let stalled = polling.nanos >= shared.meter.threshold;
    let (sites, routes) = (&shared.meter.sites, &shared.meter.routes);
    WorkerActivity {
        thread: Some(polling.thread.name.clone()),
        state: if stalled { WorkerState::Stalled } else { WorkerState::Busy },
        stall: if stalled { lock(&shared.book).id_of(polling.thread.id, polling.number) } else { None },
        elapsed: Some(Duration::from_nanos(polling.nanos)),
        site: Some(sites.get(polling.site)),
        watched: polling.watched.map(|site| sites.get(site)),
        route: polling.route.map(|route| routes.name(route)),
        parent_route: polling.parent_route.map(|route| routes.name(route)),
        ..idle
    }
}
