//! The poll path: what happens at the begin and the end of a poll. No lock, no allocation, no system call (but the one that
//! wakes a sleeping watchdog), no read-modify-write on a shared line; the cold parts are functions of their own.

use super::ended::Ended;
use super::route::RouteId;
#[cfg(tokio_unstable)]
use super::runtime::Runtime;
use super::site::SiteId;
use super::slot::{FrameCell, Kind, What};
use super::tally::Cell;
#[cfg(tokio_unstable)]
use super::tally::Event;
use super::thread::{Attached, Origin};

#[cfg(tokio_unstable)]
#[inline(always)]
fn with(runtime: &Runtime, f: impl FnOnce(&Attached)) {
    super::thread::with(runtime, f);
}

/// A poll that tokio's hooks report begins.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn begin_task(runtime: &Runtime, place: &'static std::panic::Location<'static>, task: u64) {
    with(runtime, |thread| {
        if let Some(cell) = thread.cell(Origin::Place(place), runtime.id) {
            let what = What { kind: Kind::Task, runtime: runtime.id, route: None, index: cell.index() };
            thread.push_poll(what.pack(), task, None, cell);
        }
    });
}

/// A poll that tokio's hooks report ends: it returned, it panicked, or the task was aborted.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn end_task(runtime: &Runtime, place: &'static std::panic::Location<'static>, task: u64) {
    with(runtime, |thread| match thread.state.slot.top() {
        Some(top) if top.task() == task => {
            finish(thread, top);
            thread.state.slot.pop();
        }
        // Our own task has no frame, and what lies beneath it is another's. Nothing can be left upon the frame of a task: all that is
        // put there is taken back by guards on the stack.
        Some(_) => debug_assert!(!thread.state.slot.is_polling(task), "a frame outlived the poll that it is a part of"),
        None => end_unpublished(thread, runtime, place),
    });
}

/// The end of a poll that was too deep to be published: it has a place in the depth all the same, unless it was our own.
#[cfg(tokio_unstable)]
#[cold]
#[inline(never)]
fn end_unpublished(thread: &Attached, runtime: &Runtime, place: &'static std::panic::Location<'static>) {
    if thread.state.slot.depth() > 0 && thread.cell(Origin::Place(place), runtime.id).is_some() {
        thread.state.slot.pop();
    }
}

/// Counts a poll that is about to be withdrawn.
#[inline(always)]
fn finish(thread: &Attached, top: &FrameCell) {
    let nanos = thread.state.since(top.begin());
    if let Some(cell) = thread.cell_of(top) {
        if nanos < thread.state.quick {
            cell.quick_poll(nanos);
        } else {
            finish_slow(thread, top, cell, nanos);
        }
    }
}

#[cold]
#[inline(never)]
fn finish_slow(thread: &Attached, top: &FrameCell, cell: &Cell, nanos: u64) {
    cell.poll(nanos);
    if nanos >= thread.state.threshold {
        leave_word(thread, top, nanos);
    }
}

/// Tells the watchdog of a slow poll, before its frame goes: whoever no longer sees the frame finds the word.
fn leave_word(thread: &Attached, top: &FrameCell, nanos: u64) {
    let frame = top.load();
    let runtime = What::unpack(frame.what).runtime;
    let worker = thread.runtime(runtime).and_then(|r| r.worker_of(&thread.state, frame.place));
    thread.state.ended.push(Ended {
        number: frame.number,
        begin: frame.begin,
        nanos,
        what: frame.what,
        task: frame.task,
        worker,
    });
}

/// What a wrapper pushed, for it to take back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entered {
    number: u64,
    poll: bool,
}

/// A wrapper's poll begins, of a future that was made at `site` and spawned under `route`: a poll of its own, unless this thread is within a poll of the same runtime already.
#[inline(always)]
pub(crate) fn enter(
    thread: &Attached,
    runtime: u16,
    (site, route): (SiteId, Option<RouteId>),
    task: impl FnOnce() -> u64,
) -> Option<Entered> {
    let slot = &thread.state.slot;
    let within = slot.depth() > 0 && slot.innermost_poll().is_some_and(|(_, what)| what.runtime == runtime);
    let number = if within {
        // A scope carries no task: only the frame of a poll is one that the hooks may take back.
        thread.state.push(What { kind: Kind::Scope, runtime, route, index: site.0 }.pack(), 0, None)
    } else {
        let cell = thread.cell(Origin::Site(site), runtime)?;
        let place = super::placement::observe(thread, runtime, slot.depth() > 0);
        let what = What { kind: Kind::Watched, runtime, route, index: cell.index() };
        thread.push_poll(what.pack(), task(), place, cell)
    };
    Some(Entered { number, poll: !within })
}

/// A wrapper's poll ends, by a return or an unwind.
#[inline(always)]
pub(crate) fn leave(thread: &Attached, entered: Entered) {
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
pub(crate) fn spawned(runtime: &Runtime, place: &'static std::panic::Location<'static>, task: u64) {
    with(runtime, |thread| {
        let Some(cell) = thread.cell(Origin::Place(place), runtime.id) else { return };
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
pub(crate) fn terminated(runtime: &Runtime, place: &'static std::panic::Location<'static>, task: u64) {
    if super::thread::is_stranger(runtime, place) {
        return;
    }
    with(runtime, |thread| {
        let polled = thread.state.slot.top().is_some_and(|top| top.task() == task);
        let cell = if polled {
            thread.cell(Origin::Place(place), runtime.id)
        } else if tokio::runtime::worker_index().is_some() || !runtime.is_multi_thread() {
            thread.known_cell(Origin::Place(place), runtime.id)
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

/// A part of a request begins: its response is polled, or a frame of its body.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn enter_route(thread: &Attached, route: RouteId) -> Entered {
    let what = What { kind: Kind::Route, runtime: super::runtime::OTHER, route: Some(route), index: 0 };
    Entered { number: thread.state.push(what.pack(), 0, None), poll: false }
}

/// A part of a request ends, by a return or an unwind.
#[cfg(feature = "tower")]
#[inline]
pub(crate) fn leave_route(thread: &Attached, entered: Entered, route: RouteId) {
    if let Some(top) = thread.state.slot.top().filter(|top| top.number() == entered.number) {
        let nanos = thread.state.since(top.begin());
        if let Some(cell) = thread.state.routes.cell(route) {
            cell.poll(nanos, thread.state.route_histograms);
        }
        if nanos >= thread.state.threshold {
            leave_word_of_route(thread, top, nanos);
        }
        // A request within another (a service that calls a service): each has its own time.
        thread.state.slot.delay_requests_around(|| thread.state.now().saturating_sub(top.begin()));
    }
    leave(thread, entered);
}

/// As [`leave_word`], with the push number of the poll that it is a part of in place of a task.
#[cfg(feature = "tower")]
#[cold]
#[inline(never)]
fn leave_word_of_route(thread: &Attached, top: &FrameCell, nanos: u64) {
    let frame = top.load();
    let Some((poll, _)) = thread.state.slot.innermost_poll() else { return };
    thread.state.ended.push(Ended {
        number: frame.number,
        begin: frame.begin,
        nanos,
        what: frame.what,
        task: poll.number(),
        worker: None,
    });
}
