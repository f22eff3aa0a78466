//! The poll path: what happens at the start and at the end of a poll.
//!
//! It takes no lock, allocates nothing, makes no system call (except the one that wakes a sleeping
//! watchdog), and does no read-modify-write on a shared cache line. Cold parts are functions of
//! their own.

#[cfg(tokio_unstable)]
use std::panic::Location;

#[cfg(tokio_unstable)]
use crate::measure::counters::sites::Event;
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;
use crate::measure::thread::slot::{FrameCell, FrameKind, FrameTag};
use crate::measure::thread::slow_polls::SlowPoll;
use crate::measure::thread::{LocalHandle, SpawnSite};
use crate::model::id::RuntimeId;

#[cfg(tokio_unstable)]
#[inline(always)]
fn with(runtime: &Runtime, f: impl FnOnce(&LocalHandle)) {
    crate::measure::thread::with(runtime, f);
}

/// Starts a poll that tokio's hooks report.
///
/// The fast path, here and in [`end_task`], calls nothing except at its very end, so that no
/// register has to be saved. Whatever else happens starts over in a function out of line.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn begin_task(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    let begun = crate::measure::thread::with_first(runtime, |thread| {
        let (cell, what) = thread.cached(SpawnSite::Location(place), runtime.runtime_tag)?;
        thread.state.push_poll(
            thread.state.fast_now()?,
            FrameTag::pack_poll(FrameKind::Task, None, what),
            task,
            None,
            cell,
        );
        Some(())
    });
    if begun.flatten().is_none() {
        begin_task_cold(runtime, place, task);
    }
}

#[cfg(tokio_unstable)]
#[cold]
#[inline(never)]
fn begin_task_cold(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    with(runtime, |thread| {
        if let Some(cell) = thread.cell(SpawnSite::Location(place), runtime.id) {
            thread.push_poll(FrameTag::pack_poll(FrameKind::Task, None, cell.what()), task, None, cell);
        }
    });
}

/// Ends a poll that tokio's hooks report: it returned, it panicked, or the task was aborted.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn end_task(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    let ended = crate::measure::thread::with_first(runtime, |thread| {
        let top = thread.state.slot.top().filter(|top| top.task() == task)?;
        finish_fast(thread, top).then(|| thread.state.slot.pop())
    });
    if ended.flatten().is_none() {
        end_task_slow(runtime, place, task);
    }
}

#[cfg(tokio_unstable)]
#[cold]
#[inline(never)]
fn end_task_slow(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    with(runtime, |thread| match thread.state.slot.top() {
        Some(top) if top.task() == task => {
            finish(thread, top);
            thread.state.slot.pop();
        }
        // Guards on the stack pop the frames within that of a task. Only an abandoned stack (of a
        // stackful coroutine) leaves some behind; its guards, when they run, find them gone.
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
        None => end_unpublished(thread, runtime, place),
    });
}

/// Ends a poll that was too deep to be published. It counts in the depth, unless it is pollwatch's
/// own task.
#[cfg(tokio_unstable)]
fn end_unpublished(thread: &LocalHandle, runtime: &Runtime, place: &'static Location<'static>) {
    if thread.state.slot.depth() > 0 && thread.cell(SpawnSite::Location(place), runtime.id).is_some() {
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
    let is_fast = |nanos: &u64| *nanos < thread.state.fast_limit;
    let Some(nanos) = thread.state.fast_since(top.begin()).filter(is_fast) else { return false };
    thread.cell_of(top).fast_poll(nanos);
    true
}

#[cold]
#[inline(never)]
fn finish_slow(thread: &LocalHandle, top: &FrameCell) {
    let begin = top.begin();
    let nanos = thread.state.since(begin);
    thread.cell_of(top).poll(nanos);
    if nanos >= thread.state.threshold {
        publish_slow_poll(thread, top, begin, nanos);
    }
}

/// Ends the call of a service within a poll that nothing measures. Its time counts, but it is no
/// poll.
#[cfg(feature = "tower")]
#[inline(never)]
pub(crate) fn leave_call(thread: &LocalHandle, entered: Entered) {
    if let Some(top) = thread.state.slot.top().filter(|top| entered.poll && top.number() == entered.number) {
        let begin = top.begin();
        let nanos = thread.state.since(begin);
        thread.cell_of(top).part(nanos);
        if nanos >= thread.state.threshold {
            publish_slow_poll(thread, top, begin, nanos);
        }
    }
    leave(thread, Entered { poll: false, ..entered });
}

/// Pushes the finished poll to the slow-poll ring *before* popping its frame, so that the watchdog
/// always finds one or the other.
fn publish_slow_poll(thread: &LocalHandle, top: &FrameCell, begin: u64, nanos: u64) {
    let frame = top.load();
    let runtime = FrameTag::unpack(frame.what).runtime;
    let worker = thread.runtime(runtime).and_then(|r| r.worker_of(&thread.state, &frame));
    thread.state.slow_polls.push(SlowPoll {
        number: frame.number,
        begin,
        nanos,
        what: frame.what,
        task: frame.task,
        worker,
    });
}

/// The frame that a wrapper pushed, for the wrapper to pop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entered {
    number: u64,
    poll: bool,
}

/// Starts a wrapper's poll of a future that was made at `site` and spawned under `route`. It is a
/// poll of its own, unless this thread is within a poll of the same runtime already. Within a poll
/// of another runtime, the future may have moved there: `resolve` finds its runtime again.
#[inline(always)]
pub(crate) fn enter(
    thread: &LocalHandle,
    runtime: RuntimeId,
    (site, route): (SiteId, Option<RouteId>),
    task: impl FnOnce() -> u64,
    resolve: impl FnOnce() -> RuntimeId,
) -> Option<Entered> {
    let slot = &thread.state.slot;
    let around = if slot.depth() > 0 { slot.innermost_poll().map(|(_, what)| what.runtime) } else { None };
    let runtime = match around {
        Some(around) if around != runtime => resolve(),
        _ => runtime,
    };
    let within = around == Some(runtime);
    let number = if within {
        // A scope carries no task, because the hooks pop only frames of polls, and no start of its
        // own, because its time is not counted.
        let begin = slot.top().map_or(0, FrameCell::begin);
        thread.state.push(begin, FrameTag { kind: FrameKind::Scope, runtime, route, index: site.0 }.pack(), 0, None)
    } else {
        let cell = thread.cell(SpawnSite::Interned(site), runtime)?;
        let place = crate::measure::runtime::ownership::observe(thread, runtime, slot.depth() > 0);
        thread.push_poll(FrameTag::pack_poll(FrameKind::Watched, route, cell.what()), task(), place, cell)
    };
    Some(Entered { number, poll: !within })
}

/// Ends a wrapper's poll, by a return or an unwind.
#[inline(always)]
pub(crate) fn leave(thread: &LocalHandle, entered: Entered) {
    let slot = &thread.state.slot;
    match slot.top() {
        Some(top) if top.number() == entered.number => {
            if entered.poll {
                finish(thread, top);
            }
            slot.pop();
        }
        // Too deep to be published, or popped already.
        None if entered.number == 0 && slot.depth() > 0 => slot.pop(),
        _ => {}
    }
}

/// Counts a spawned task; on any thread.
#[cfg(tokio_unstable)]
#[inline]
pub(crate) fn spawned(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    with(runtime, |thread| {
        let Some(cell) = thread.cell(SpawnSite::Location(place), runtime.id) else { return };
        cell.event(Event::Spawned);
        if thread.unplaced.get() == task {
            cell.event(Event::Terminated);
        }
    });
}

/// Counts a task that ended.
///
/// Within its own poll it is a task that the hooks saw spawned. Outside of one it was dropped at
/// the shutdown of the runtime, or it is no task at all: `spawn_blocking` and the hand-over of
/// `block_in_place` call the hook for the end, too, but none for a spawn. So their locations are
/// not interned here. Where one location has both, a multi-thread runtime still tells them apart:
/// its workers do the shutdown, and threads of the blocking pool run the others.
#[cfg(tokio_unstable)]
#[inline]
pub(crate) fn terminated(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    if crate::measure::thread::is_stranger(runtime, place) {
        return;
    }
    with(runtime, |thread| {
        let polled = thread.state.slot.top().is_some_and(|top| top.task() == task);
        let cell = if polled {
            thread.cell(SpawnSite::Location(place), runtime.id)
        } else if tokio::runtime::worker_index().is_some() || !runtime.is_multi_thread() {
            thread.known_cell(SpawnSite::Location(place), runtime.id)
        } else {
            None
        };
        match cell {
            Some(cell) => cell.event(Event::Terminated),
            // On a runtime that is shut down, tokio reports a task's end before its spawn.
            None => thread.unplaced.set(task),
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
pub(crate) fn enter_route(thread: &LocalHandle, route: RouteId) -> Entered {
    let what = FrameTag { kind: FrameKind::Route, runtime: RuntimeId::OTHER, route: Some(route), index: 0 };
    Entered { number: thread.state.push(thread.state.now(), what.pack(), 0, None), poll: false }
}

/// Ends a phase of a request, by a return or an unwind.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn leave_route(thread: &LocalHandle, entered: Entered, route: RouteId, phase: RequestPhase) {
    let slot = &thread.state.slot;
    let Some(top) = slot.top().filter(|top| top.number() == entered.number) else {
        return leave(thread, entered);
    };
    let begin = top.begin();
    let nanos = thread.state.since(begin);
    if let Some(cell) = thread.state.routes.cell(route) {
        match phase {
            RequestPhase::Call => cell.part(nanos),
            RequestPhase::Poll => cell.poll(nanos, thread.state.route_histograms),
        }
    }
    if nanos >= thread.state.threshold {
        publish_slow_request(thread, top, begin, nanos);
    }
    // A request within another one (a service that calls a service) has its own time.
    slot.delay_requests_around(|| thread.state.now());
    leave(thread, entered);
}

/// Pushes a request to the slow-poll ring, like [`publish_slow_poll`]; in place of a task it has
/// the push number of the enclosing poll.
#[cfg(feature = "tower")]
#[cold]
#[inline(never)]
fn publish_slow_request(thread: &LocalHandle, top: &FrameCell, begin: u64, nanos: u64) {
    let frame = top.load();
    let Some((poll, _)) = thread.state.slot.innermost_poll() else { return };
    thread.state.slow_polls.push(SlowPoll {
        number: frame.number,
        begin,
        nanos,
        what: frame.what,
        task: poll.number(),
        worker: None,
    });
}

#[cfg(all(test, tokio_unstable, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::runtime::meter::Meter;
    use crate::measure::thread::attached;

    /// A stackful coroutine that is abandoned within a watched future leaves frames behind.
    #[test]
    fn a_poll_takes_what_was_left_on_it() {
        let meter = Meter::of(1_000_000_000, 10);
        let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
        let thread = attached(&meter).unwrap();
        let slot = &thread.state.slot;
        let place = Location::caller();
        begin_task(&runtime, place, 7);
        begin_task(&runtime, place, 8);
        let site = meter.sites.intern(place);
        let left = enter(thread, runtime.id, (site, None), || 8, || runtime.id).unwrap();
        enter(thread, runtime.id, (site, None), || 8, || runtime.id).unwrap();
        assert_eq!(slot.depth(), 4);
        end_task(&runtime, place, 9);
        assert_eq!(slot.depth(), 4, "of no task that is polled");
        end_task(&runtime, place, 8);
        assert_eq!(slot.depth(), 1);
        assert!(slot.is_polling(7) && !slot.is_polling(8));
        leave(thread, left);
        assert_eq!(slot.depth(), 1, "its guard comes late");
        end_task(&runtime, place, 7);
        assert_eq!(slot.depth(), 0);
    }
}
