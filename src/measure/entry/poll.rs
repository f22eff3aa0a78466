//! The poll path: what happens at the begin and the end of a poll. No lock, no allocation, no system call (but the one that
//! wakes a sleeping watchdog), no read-modify-write on a shared line; the cold parts are functions of their own.

#[cfg(tokio_unstable)]
use std::panic::Location;

#[cfg(tokio_unstable)]
use crate::measure::counters::sites::Event;
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;
use crate::measure::thread::slot::{FrameCell, Kind, What};
use crate::measure::thread::slow_polls::Ended;
use crate::measure::thread::{LocalHandle, SpawnSite};

#[cfg(tokio_unstable)]
#[inline(always)]
fn with(runtime: &Runtime, f: impl FnOnce(&LocalHandle)) {
    crate::measure::thread::with(runtime, f);
}

/// A poll that tokio's hooks report begins.
///
/// Here and in [`end_task`] the usual way calls nothing but at its very end, so that no register has to be saved; every other way is
/// the whole of it once more, out of line.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn begin_task(runtime: &Runtime, place: &'static Location<'static>, task: u64) {
    let begun = crate::measure::thread::with_first(runtime, |thread| {
        let (cell, what) = thread.cached(SpawnSite::Location(place), runtime.runtime_tag)?;
        thread.state.push_poll(thread.state.fast_now()?, What::pack_poll(Kind::Task, None, what), task, None, cell);
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
            thread.push_poll(What::pack_poll(Kind::Task, None, cell.what()), task, None, cell);
        }
    });
}

/// A poll that tokio's hooks report ends: it returned, it panicked, or the task was aborted.
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
        // All that is put upon the frame of a task is taken back by guards on the stack; only a stack that was left (a coroutine's)
        // leaves some there. Its guards find them gone.
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
        // Our own task has no frame, and what lies beneath it is another's.
        Some(_) => {}
        None => end_unpublished(thread, runtime, place),
    });
}

/// The end of a poll that was too deep to be published: it has a place in the depth all the same, unless it was our own.
#[cfg(tokio_unstable)]
fn end_unpublished(thread: &LocalHandle, runtime: &Runtime, place: &'static Location<'static>) {
    if thread.state.slot.depth() > 0 && thread.cell(SpawnSite::Location(place), runtime.id).is_some() {
        thread.state.slot.pop();
    }
}

/// Counts a poll that is about to be withdrawn.
#[inline(always)]
fn finish(thread: &LocalHandle, top: &FrameCell) {
    if !finish_fast(thread, top) {
        finish_slow(thread, top);
    }
}

/// As [`finish`], if there is nothing but to count, and nothing to be called for that; else it does nothing, and returns `false`.
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

/// A wrapper's poll ends, which was none: the call of a service, within a poll that nobody sees. Its time counts.
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

/// Tells the watchdog of a slow poll, before its frame goes: whoever no longer sees the frame finds the word.
fn publish_slow_poll(thread: &LocalHandle, top: &FrameCell, begin: u64, nanos: u64) {
    let frame = top.load();
    let runtime = What::unpack(frame.what).runtime;
    let worker = thread.runtime(runtime).and_then(|r| r.worker_of(&thread.state, &frame));
    thread.state.ended.push(Ended { number: frame.number, begin, nanos, what: frame.what, task: frame.task, worker });
}

/// What a wrapper pushed, for it to take back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entered {
    number: u64,
    poll: bool,
}

/// A wrapper's poll begins, of a future that was made at `site` and spawned under `route`: a poll of its own, unless this thread is
/// within a poll of the same runtime already. Within one of another, the future may have moved there: `resolve` finds its runtime
/// again.
#[inline(always)]
pub(crate) fn enter(
    thread: &LocalHandle,
    runtime: u16,
    (site, route): (SiteId, Option<RouteId>),
    task: impl FnOnce() -> u64,
    resolve: impl FnOnce() -> u16,
) -> Option<Entered> {
    let slot = &thread.state.slot;
    let around = if slot.depth() > 0 { slot.innermost_poll().map(|(_, what)| what.runtime) } else { None };
    let runtime = match around {
        Some(around) if around != runtime => resolve(),
        _ => runtime,
    };
    let within = around == Some(runtime);
    let number = if within {
        // A scope carries no task: only the frame of a poll is one that the hooks may take back.
        // Nor a time of its own.
        let begin = slot.top().map_or(0, FrameCell::begin);
        thread.state.push(begin, What { kind: Kind::Scope, runtime, route, index: site.0 }.pack(), 0, None)
    } else {
        let cell = thread.cell(SpawnSite::Interned(site), runtime)?;
        let place = crate::measure::runtime::ownership::observe(thread, runtime, slot.depth() > 0);
        thread.push_poll(What::pack_poll(Kind::Watched, route, cell.what()), task(), place, cell)
    };
    Some(Entered { number, poll: !within })
}

/// A wrapper's poll ends, by a return or an unwind.
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
        // Too deep to be published, or not ours.
        None if entered.number == 0 && slot.depth() > 0 => slot.pop(),
        _ => {}
    }
}

/// A task was spawned, on whatever thread.
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

/// A task ended. Within its own poll it was one that the hooks saw spawned. Outside of one it was dropped at the runtime's
/// shutdown, or it is no task at all: `spawn_blocking` and the hand-off of `block_in_place` terminate, too, but are never
/// spawned; their places are not known, and are not made known here. Where one place has both, a multi-thread runtime still
/// tells them apart: its shutdown is its workers' work, the others are of the pool.
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
            // On a runtime that is shut down, tokio tells of a task's end before it tells of its spawn.
            None => thread.unplaced.set(task),
        }
    });
}

/// A part of a request.
#[cfg(feature = "tower")]
#[derive(Debug)]
pub(crate) enum RequestPhase<'a> {
    /// The service is called: no poll, but it may be long. Its nanoseconds are left here.
    Call(&'a mut u32),
    /// The response is polled for the first time, after a call that took so many nanoseconds.
    First(u32),
    /// It is polled once more, or a frame of its body is.
    Later,
}

/// A part of a request begins.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn enter_route(thread: &LocalHandle, route: RouteId) -> Entered {
    let what =
        What { kind: Kind::Route, runtime: crate::measure::primitives::frame::OTHER, route: Some(route), index: 0 };
    Entered { number: thread.state.push(thread.state.now(), what.pack(), 0, None), poll: false }
}

/// A part of a request ends, by a return or an unwind.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn leave_route(thread: &LocalHandle, entered: Entered, route: RouteId, part: &mut RequestPhase<'_>) {
    let slot = &thread.state.slot;
    let within = thread.within_request.get().filter(|(of, _)| *of == route).map_or(0, |(_, nanos)| nanos);
    if within > 0 {
        thread.within_request.set(None);
    }
    let mut at_once = within;
    let Some(top) = slot.top().filter(|top| top.number() == entered.number) else {
        return leave(thread, entered);
    };
    let begin = top.begin();
    let nanos = thread.state.since(begin);
    let cell = thread.state.routes.cell(route);
    if let Some(cell) = cell {
        match part {
            RequestPhase::Call(called) => {
                cell.part(nanos);
                **called = u32::try_from(nanos.saturating_add(within)).unwrap_or(u32::MAX);
                at_once = 0;
            }
            part => {
                cell.poll(nanos, thread.state.route_histograms);
                if let RequestPhase::First(called) = part {
                    at_once = nanos.saturating_add((*called).into()).saturating_add(within);
                }
            }
        }
    }
    if nanos >= thread.state.threshold {
        publish_slow_request(thread, top, begin, nanos);
    }
    // A request within another (a service that calls a service): each has its own time.
    slot.delay_requests_around(|| thread.state.now());
    leave(thread, entered);
    if at_once > 0 {
        // Below two layers it is one request: the outer one notes what it did.
        let is_within = slot.depth() > 1 && slot.innermost_request() == Some(route);
        match cell {
            _ if is_within => thread.within_request.set(Some((route, at_once))),
            Some(cell) => cell.first_poll(at_once),
            None => {}
        }
    }
}

/// As [`publish_slow_poll`], with the push number of the poll that it is a part of in place of a task.
#[cfg(feature = "tower")]
#[cold]
#[inline(never)]
fn publish_slow_request(thread: &LocalHandle, top: &FrameCell, begin: u64, nanos: u64) {
    let frame = top.load();
    let Some((poll, _)) = thread.state.slot.innermost_poll() else { return };
    thread.state.ended.push(Ended {
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

    /// As a stackful coroutine does that is left within a watched future: what it pushed is not taken back by the poll's end.
    #[test]
    fn a_poll_takes_what_was_left_on_it() {
        let meter = Meter::of(1_000_000_000, 10);
        let runtime = meter.runtimes.reserve("main", meter.id).unwrap().unwrap();
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
