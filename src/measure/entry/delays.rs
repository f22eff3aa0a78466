//! How long each poll waited since the wake of its task, where delays are tracked.
//!
//! tokio measures the wait: it reads its clock when a task is woken and when the poll starts
//! (`Builder::track_task_schedule_latency`). A poll's delay is counted at the end of the poll, in
//! counters of the thread's own. A runtime without tracked delays has other hooks, which know
//! nothing of this module.

pub(crate) use imp::*;

#[cfg(all(tokio_unstable, feature = "delays"))]
mod imp {
    use tokio::runtime::{Builder, TaskMeta};

    #[cfg(feature = "tower")]
    use crate::measure::primitives::route::RouteId;
    use crate::measure::primitives::task_id::TaskBits;
    use crate::measure::runtime::Runtime;
    use crate::measure::thread::delayed_polls::DelayedPoll;
    use crate::measure::thread::slot::{FrameCell, FrameTag};
    use crate::measure::thread::{LocalHandle, PollRoute, with_handle};
    use crate::model::time::Nanos;

    /// Says whether this build can track delays.
    pub(crate) const AVAILABLE: bool = true;

    /// Makes tokio measure the delays of the runtime that is built, if they are tracked, and
    /// returns whether they are.
    pub(crate) fn track(builder: &mut Builder, runtime: &Runtime) -> bool {
        let is_tracked = runtime.min_delay < Nanos::MAX;
        if is_tracked {
            builder.track_task_schedule_latency();
        }
        is_tracked
    }

    /// Prepares for the end of a poll that starts now. If it was delayed for long, it remembers the
    /// route under which its task was spawned. tokio reports the end of a task before the end of
    /// its last poll, and then the route is gone.
    #[inline]
    pub(crate) fn start_task_poll(runtime: &Runtime, meta: &TaskMeta<'_>) {
        if meta.schedule_latency().is_some_and(|delay| Nanos::from(delay) >= runtime.min_delay) {
            keep_parent_route(runtime, TaskBits::of(meta.id()));
        }
    }

    #[cold]
    #[inline(never)]
    fn keep_parent_route(runtime: &Runtime, task: TaskBits) {
        let Some(route) = runtime.spawn_routes.find(task) else { return };
        with_handle(runtime, |thread| {
            if let Some(top) = thread.state.slot.top().filter(|top| top.task() == task) {
                thread.poll_route.set(PollRoute { poll: top.number(), request: None, parent: Some(route) });
            }
        });
    }

    /// Counts the delay of a poll that ends now. Its frame is not popped yet.
    #[inline]
    pub(crate) fn end_task_poll(runtime: &Runtime, meta: &TaskMeta<'_>) {
        let Some(delay) = meta.schedule_latency().map(Nanos::from) else { return };
        let task = TaskBits::of(meta.id());
        with_handle(runtime, |thread| {
            // A poll that is too deep to be published has no frame, and pollwatch's own none.
            let Some(top) = thread.state.slot.top().filter(|top| top.task() == task) else { return };
            let Some(counters) = thread.counters_of(top).delays() else { return };
            counters.record(delay);
            let route = thread.poll_route.get();
            let route = if route.poll == top.number() { route } else { PollRoute::default() };
            #[cfg(feature = "tower")]
            if let Some(counters) = route.request.and_then(|route| thread.state.routes.get_or_create(route)) {
                counters.delay(delay);
            }
            if delay >= runtime.min_delay {
                publish(thread, top, route, delay);
            }
        });
    }

    /// Pushes a poll that was delayed for long to the ring of the thread.
    #[cold]
    #[inline(never)]
    fn publish(thread: &LocalHandle, top: &FrameCell, route: PollRoute, delay: Nanos) {
        let Some(ring) = &thread.state.delayed_polls else { return };
        let frame = top.load();
        let tag = FrameTag { route: route.request.or(route.parent), ..frame.tag.unpack() }.pack();
        ring.push(DelayedPoll { start: frame.start, delay, tag });
    }

    /// Remembers that the poll that this thread is in works on a request. The first request of a
    /// poll is the one that the poll's delay belongs to.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn note_request(thread: &LocalHandle, route: RouteId) {
        if thread.state.delayed_polls.is_some()
            && let Some((poll, _)) = thread.state.slot.innermost_poll()
        {
            let known = thread.poll_route.get();
            let parent = if known.poll == poll.number() { known.parent } else { None };
            if known.poll != poll.number() || known.request.is_none() {
                thread.poll_route.set(PollRoute { poll: poll.number(), request: Some(route), parent });
            }
        }
    }
}

#[cfg(not(all(tokio_unstable, feature = "delays")))]
mod imp {
    #[cfg(feature = "tower")]
    use crate::measure::primitives::route::RouteId;
    #[cfg(feature = "tower")]
    use crate::measure::thread::LocalHandle;

    #[cfg(tokio_unstable)]
    use tokio::runtime::{Builder, TaskMeta};

    #[cfg(tokio_unstable)]
    use crate::measure::runtime::Runtime;

    /// Says whether this build can track delays.
    pub(crate) const AVAILABLE: bool = false;

    #[cfg(tokio_unstable)]
    pub(crate) fn track(_builder: &mut Builder, _runtime: &Runtime) -> bool {
        false
    }

    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn start_task_poll(_runtime: &Runtime, _meta: &TaskMeta<'_>) {}

    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn end_task_poll(_runtime: &Runtime, _meta: &TaskMeta<'_>) {}

    #[cfg(feature = "tower")]
    #[inline(always)]
    pub(crate) fn note_request(_thread: &LocalHandle, _route: RouteId) {}
}
