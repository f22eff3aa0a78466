//! The poll path: what happens at the start and at the end of a poll.
//!
//! The fast path takes no lock, allocates nothing, makes no system call (except the one that wakes
//! a sleeping watchdog), and does no read-modify-write on a shared cache line. The cold parts (the
//! first poll of a site on a thread, the end of a slow poll) may do all of that, and are functions
//! of their own.

#[cfg(tokio_unstable)]
use std::panic::Location;

#[cfg(tokio_unstable)]
use crate::measure::counters::sites::SiteEvent;
#[cfg(feature = "tower")]
use crate::measure::entry::delays;
#[cfg(tokio_unstable)]
use crate::measure::entry::unpolled;
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;
use crate::measure::runtime::ownership;
use crate::measure::thread::slot::{FrameCell, FrameKind, FrameTag};
use crate::measure::thread::slow_polls::{SlowPoll, SlowSubject};
#[cfg(tokio_unstable)]
use crate::measure::thread::{EndOutsidePoll, LatestEnd, is_spawn_unknown, with_first_handle, with_handle};
use crate::measure::thread::{LocalHandle, SpawnSite};
use crate::model::id::{FrameNumber, RuntimeId};
use crate::model::time::Nanos;

/// Starts a poll that tokio's hooks report.
///
/// The fast path, here and in [`end_task_poll`], calls nothing except at its very end, so that no
/// register has to be saved. All other cases start over in a function out of line.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn start_task_poll(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    let started = with_first_handle(runtime, |thread| {
        let (counters, tag) = thread.cached(SpawnSite::Location(location), runtime.runtime_key)?;
        // One load for both, because the compiler keeps none across a reading of the clock.
        let state = &*thread.state;
        state.push_poll(state.fast_now()?, tag.with(FrameKind::Task, None), task, None, counters);
        Some(())
    });
    if started.flatten().is_none() {
        start_task_poll_cold(runtime, location, task);
    }
}

#[cfg(tokio_unstable)]
#[cold]
#[inline(never)]
fn start_task_poll_cold(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    with_handle(runtime, |thread| {
        if let Some(counters) = thread.counters(SpawnSite::Location(location), runtime.id) {
            thread.push_poll(counters.tag().with(FrameKind::Task, None), task, None, counters);
        }
    });
}

/// Ends a poll that tokio's hooks report: it returned, it panicked, or the task was aborted.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn end_task_poll(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    let ended = with_first_handle(runtime, |thread| {
        let top = thread.state.slot.top().filter(|top| top.task() == task)?;
        finish_fast(thread, top).then(|| thread.state.slot.pop())
    });
    if ended.flatten().is_none() {
        end_task_poll_slow(runtime, location, task);
    }
}

#[cfg(tokio_unstable)]
#[cold]
#[inline(never)]
fn end_task_poll_slow(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    with_handle(runtime, |thread| match thread.state.slot.top() {
        Some(top) if top.task() == task => {
            finish(thread, top);
            thread.state.slot.pop();
        }
        // Guards on the stack pop the frames within that of a task. Only an abandoned stack (of a
        // stackful coroutine) leaves frames behind. If its guards run later, they find that their
        // frames are gone.
        Some(_) if thread.state.slot.is_polling(task) => {
            let slot = &thread.state.slot;
            while slot.top().is_some_and(|top| top.task() != task) {
                slot.pop();
            }
            if let Some(top) = slot.top() {
                finish(thread, top);
                slot.pop();
            }
        }
        // pollwatch's own task has no frame; the innermost one belongs to an enclosing poll.
        Some(_) => {}
        None => end_unpublished(thread, runtime, location),
    });
}

/// Ends a poll that was too deep to be published. It counts in the depth, unless it is pollwatch's
/// own task.
#[cfg(tokio_unstable)]
fn end_unpublished(thread: &LocalHandle, runtime: &Runtime, location: &'static Location<'static>) {
    if thread.state.slot.depth() > 0 && thread.counters(SpawnSite::Location(location), runtime.id).is_some() {
        thread.state.slot.pop();
    }
}

/// Counts the poll of the innermost frame, which is popped next.
#[inline(always)]
fn finish(thread: &LocalHandle, top: &FrameCell) {
    if !finish_fast(thread, top) {
        finish_slow(thread, top);
    }
}

/// Counts the poll if it is below the fast limit and the clock is read without a call. Otherwise
/// does nothing and returns `false`.
#[inline(always)]
fn finish_fast(thread: &LocalHandle, top: &FrameCell) -> bool {
    let is_fast = |duration: &Nanos| *duration < thread.state.fast_limit;
    let Some(duration) = thread.state.fast_since(top.start()).filter(is_fast) else { return false };
    thread.counters_of(top).fast_poll(duration);
    true
}

#[cold]
#[inline(never)]
fn finish_slow(thread: &LocalHandle, top: &FrameCell) {
    let start = top.start();
    let duration = thread.state.since(start);
    thread.counters_of(top).poll(duration);
    if duration >= thread.state.threshold {
        publish_slow_poll(thread, top, start, duration);
    }
}

/// Ends the call of a service within a poll that nothing measures. Its time counts, but it is no
/// poll.
#[cfg(feature = "tower")]
#[inline(never)]
pub(crate) fn leave_call(thread: &LocalHandle, pushed: PushedFrame) {
    if let Some(top) = thread.state.slot.top().filter(|top| pushed.is_poll && top.number() == pushed.number) {
        let start = top.start();
        let duration = thread.state.since(start);
        thread.counters_of(top).part(duration);
        if duration >= thread.state.threshold {
            publish_slow_poll(thread, top, start, duration);
        }
    }
    leave(thread, PushedFrame { is_poll: false, ..pushed });
}

/// Pushes the finished poll to the slow-poll ring *before* popping its frame, so that the watchdog
/// always finds one or the other.
///
/// This reads the thread's CPU clock, which is a system call. Only polls of the threshold or longer
/// come here. Without the reading, nobody could say whether a poll computed or waited for a CPU
/// after the last scan.
fn publish_slow_poll(thread: &LocalHandle, top: &FrameCell, start: Ticks, duration: Nanos) {
    let frame = top.load();
    let tag = frame.tag.unpack();
    let runtime = thread.runtime(tag.runtime);
    let worker = runtime.as_ref().and_then(|runtime| runtime.worker_of(&thread.state, &frame));
    let cpu = Nanos(thread.state.tid.and_then(crate::sys::thread_cpu_nanos).unwrap_or(0));
    let subject = SlowSubject::Poll { task: frame.task, worker, cpu };
    // The task may have ended before the watchdog reads this.
    let route = tag.route.or_else(|| runtime?.meter.upgrade()?.spawn_route(frame.task));
    let tag = FrameTag { route, ..tag }.pack();
    thread.state.slow_polls.push(SlowPoll { number: frame.number, start, duration, tag, subject });
}

/// The frame that a wrapper has pushed, and has to pop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PushedFrame {
    number: FrameNumber,
    /// The frame is a poll, and not a part of one.
    is_poll: bool,
}

/// The origin of a wrapper's future.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrapperOrigin {
    /// The site where the future was wrapped.
    pub(crate) site: SiteId,
    /// The route under which the future was spawned.
    pub(crate) parent_route: Option<RouteId>,
    /// The runtime that polled the future last.
    pub(crate) runtime: RuntimeId,
}

/// Starts a wrapper's poll of a future. It is a poll of its own, unless this thread is within a
/// poll of the same runtime already. Within a poll of another runtime, the future may have moved
/// there: `resolve` finds its runtime again.
#[inline(always)]
pub(crate) fn enter(
    thread: &LocalHandle,
    origin: WrapperOrigin,
    task: impl FnOnce() -> TaskBits,
    resolve: impl FnOnce() -> RuntimeId,
) -> Option<PushedFrame> {
    let WrapperOrigin { site, parent_route, runtime } = origin;
    let slot = &thread.state.slot;
    let enclosing = if slot.depth() > 0 { slot.innermost_poll().map(|(_, tag)| tag.runtime) } else { None };
    let runtime = match enclosing {
        Some(enclosing) if enclosing != runtime => resolve(),
        _ => runtime,
    };
    let is_part = enclosing == Some(runtime);
    let number = if is_part {
        // A scope has no task, because the hooks pop only frames of polls. It has no start of its
        // own, because its time is not counted.
        let start = slot.top().map_or(Ticks(0), FrameCell::start);
        let tag = FrameTag { kind: FrameKind::WatchedPart, runtime, route: parent_route, index: site.0 };
        thread.state.push(start, tag.pack())
    } else {
        let counters = thread.counters(SpawnSite::Interned(site), runtime)?;
        let observed = Some(ownership::observe(thread, runtime, slot.depth() > 0));
        thread.push_poll(counters.tag().with(FrameKind::Watched, parent_route), task(), observed, counters)
    };
    Some(PushedFrame { number, is_poll: !is_part })
}

/// Ends a wrapper's poll, by a return or an unwind.
#[inline(always)]
pub(crate) fn leave(thread: &LocalHandle, pushed: PushedFrame) {
    let slot = &thread.state.slot;
    match slot.top() {
        Some(top) if top.number() == pushed.number => {
            if pushed.is_poll {
                finish(thread, top);
            }
            slot.pop();
        }
        // Too deep to be published, or popped already.
        None if pushed.number == FrameNumber::NONE && slot.depth() > 0 => slot.pop(),
        _ => {}
    }
}

/// Counts a spawned task; on any thread.
#[cfg(tokio_unstable)]
#[inline]
pub(crate) fn count_spawn(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    with_handle(runtime, |thread| {
        let Some(counters) = thread.counters(SpawnSite::Location(location), runtime.id) else { return };
        counters.event(SiteEvent::Spawned);
        if let Some(end) = LatestEnd::of(task) {
            // Whatever is stored of the task would never be removed.
            if !end.is_counted {
                counters.event(SiteEvent::Terminated);
            }
            return;
        }
        if let Some(route) = spawning_route(thread, runtime) {
            runtime.spawn_routes.insert(task, route);
        }
        unpolled::spawn(thread, runtime, counters.site(), task);
    });
}

/// Returns the route that a task is spawned under, if this thread spawns one now: that of the
/// request that it works for, or the one under which the spawning task was spawned itself.
#[cfg(tokio_unstable)]
#[inline]
fn spawning_route(thread: &LocalHandle, runtime: &Runtime) -> Option<RouteId> {
    let slot = &thread.state.slot;
    if slot.depth() == 0 {
        return None;
    }
    slot.current_route().or_else(|| runtime.spawn_routes.find(slot.innermost_poll()?.0.task()))
}

/// Counts a task that ended.
///
/// A task that ends within its own poll is one whose spawn the hooks reported. A task that ends
/// outside of its poll was dropped at the shutdown of the runtime, or is no task at all:
/// `spawn_blocking` and the hand-over of `block_in_place` call the hook for the end, too, but not
/// the one for the spawn. So their locations are not interned here.
///
/// Where one location has both, a multi-thread runtime still distinguishes them: its workers do the
/// shutdown, and threads of the blocking pool run the others.
#[cfg(tokio_unstable)]
#[inline]
pub(crate) fn count_task_end(runtime: &Runtime, location: &'static Location<'static>, task: TaskBits) {
    runtime.spawn_routes.remove(task);
    unpolled::end_task(runtime, task);
    if is_spawn_unknown(runtime, location) {
        return LatestEnd::set(EndOutsidePoll { task, is_counted: false });
    }
    with_handle(runtime, |thread| {
        let is_in_poll = thread.state.slot.top().is_some_and(|top| top.task() == task);
        let counters = if is_in_poll {
            thread.counters(SpawnSite::Location(location), runtime.id)
        } else if tokio::runtime::worker_index().is_some() || !runtime.is_multi_thread() {
            thread.existing_counters(location, runtime.id)
        } else {
            None
        };
        if let Some(counters) = counters {
            counters.event(SiteEvent::Terminated);
        }
        if !is_in_poll {
            LatestEnd::set(EndOutsidePoll { task, is_counted: counters.is_some() });
        }
    });
}

/// The phase of a request in which this thread works for it.
#[cfg(feature = "tower")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestPhase {
    /// The call of the service, which is no poll but may take long.
    Call,
    /// A poll of the response, or of a frame of its body.
    Poll,
}

/// Starts a phase of a request.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn enter_route(thread: &LocalHandle, route: RouteId) -> PushedFrame {
    let tag = FrameTag { kind: FrameKind::Route, runtime: RuntimeId::OTHER, route: Some(route), index: 0 };
    PushedFrame { number: thread.state.push(thread.state.now(), tag.pack()), is_poll: false }
}

/// Ends a phase of a request, by a return or an unwind.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn leave_route(thread: &LocalHandle, pushed: PushedFrame, route: RouteId, phase: RequestPhase) {
    let slot = &thread.state.slot;
    let Some(top) = slot.top().filter(|top| top.number() == pushed.number) else {
        return leave(thread, pushed);
    };
    delays::note_request(thread, route);
    let start = top.start();
    let duration = thread.state.since(start);
    if let Some(counters) = thread.state.routes.get_or_create(route) {
        match phase {
            RequestPhase::Call => counters.part(duration),
            RequestPhase::Poll => counters.poll(duration, thread.state.route_histograms),
        }
    }
    if duration >= thread.state.threshold {
        publish_slow_request(thread, top, start, duration);
    }
    // A request within another one (a service that calls a service) has its own time.
    slot.delay_enclosing_requests(|| thread.state.now());
    leave(thread, pushed);
}

/// Pushes a request to the slow-poll ring, like [`publish_slow_poll`].
#[cfg(feature = "tower")]
#[cold]
#[inline(never)]
fn publish_slow_request(thread: &LocalHandle, top: &FrameCell, start: Ticks, duration: Nanos) {
    let frame = top.load();
    let Some((poll, _)) = thread.state.slot.innermost_poll() else { return };
    let subject = SlowSubject::Request { poll: poll.number() };
    thread.state.slow_polls.push(SlowPoll { number: frame.number, start, duration, tag: frame.tag, subject });
}

#[cfg(all(test, tokio_unstable, not(pollwatch_loom)))]
mod tests;
