//! A stall with all names resolved, before its thread is examined.

use std::sync::Arc;
use std::time::SystemTime;

use super::Emitter;
use crate::detect::track::Poll;
use crate::measure::entry::spans;
use crate::measure::primitives::route::RouteId;
use crate::measure::thread::ThreadState;
use crate::model::id::{RuntimeId, StallId, WorkerIndex};
use crate::model::stall::Stall;

impl Emitter {
    pub(super) fn runtime_name(&self, id: RuntimeId) -> Arc<str> {
        self.meter.runtimes.get(id).map_or_else(|| "other".into(), |runtime| runtime.name.clone())
    }

    pub(super) fn route(&self, route: Option<RouteId>) -> Option<Arc<str>> {
        route.map(|route| self.meter.routes.name(route))
    }

    /// Returns a stall with all that is known without an examination.
    pub(super) fn stall(&self, id: StallId, poll: &Poll, worker: Option<WorkerIndex>, thread: &ThreadState) -> Stall {
        let meter = &self.meter;
        let ago = meter.clock.moment().saturating_sub(poll.start).to_duration();
        let started_at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let runtime = self.runtime_name(poll.runtime);
        let site = meter.sites.get(poll.site);
        Stall {
            worker: worker.map(WorkerIndex::index),
            // SAFETY: the bits are those that a poll of this process published, made by
            // `TaskBits::of`, or 0.
            task: unsafe { poll.task.id() },
            task_name: spans::task_name(thread, poll.key.number),
            watched: poll.watched.map(|site| meter.sites.get(site)),
            parent_route: self.route(poll.parent_route),
            ..Stall::new(id, runtime, thread.name.clone(), site, started_at)
        }
    }
}
