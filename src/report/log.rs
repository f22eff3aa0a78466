//! Stalls as `tracing` events: target `pollwatch::stall`, level WARN, outside of any span.

use std::time::Duration;

use tracing::{Level, event};

use super::tasks::Place;
use crate::model::cause::Certainty;
use crate::model::coverage::RuntimeCoverage;
use crate::model::stall::Stall;

/// Ends a sentence of several lines: a subscriber that prints the fields behind it begins them on a line of their own.
const FIELDS: &str = "\n ";

/// One event; `untold` stalls of the same place were not told since the last one. Called on the teller's thread only.
pub(crate) fn stall(stall: &Stall, untold: u64) {
    let task = stall.task.map(tracing::field::display);
    let watched = stall.watched.map(tracing::field::display);
    let suffix = match untold {
        0 => String::new(),
        n => format!("\n  {n} more from this place since it was last told"),
    };
    event!(
        target: "pollwatch::stall",
        parent: None,
        Level::WARN,
        stall = stall.id,
        phase = %stall.phase,
        certainty = %stall.certainty,
        runtime = &*stall.runtime,
        worker = stall.worker,
        thread = &*stall.thread,
        task,
        site = (stall.certainty == Certainty::Measured).then(|| tracing::field::display(stall.site)),
        watched,
        route = stall.route.as_deref(),
        parent_route = stall.parent_route.as_deref(),
        spans = (!stall.spans.is_empty()).then(|| stall.spans.join(" › ")),
        cause = %stall.cause,
        reason = (!stall.reason.is_empty()).then_some(stall.reason),
        syscall = stall.syscall.as_ref().map(|s| s.name),
        at = stall.stack.as_ref().and_then(|s| s.user_frames().first()).map(tracing::field::display),
        advice = stall.advice,
        elapsed_ms = stall.elapsed.as_micros() as f64 / 1e3,
        untold = (untold > 0).then_some(untold),
        "{stall}{suffix}{FIELDS}",
    );
}

/// The process stood still.
pub(crate) fn pause(seconds: f64) {
    event!(
        target: "pollwatch::watchdog",
        parent: None,
        Level::WARN,
        seconds,
        "the whole process stood still for {seconds:.3} s (stopped, suspended, or without any CPU): no task is blamed for it",
    );
}

/// A task of `Watchdog::spawn` panicked; `untold` others of the same place were not told since the last one.
pub(crate) fn task_panic(place: &Place, task: Option<tokio::task::Id>, text: &str, untold: u64) {
    let Place { runtime, site, .. } = place;
    let suffix = match untold {
        0 => String::new(),
        n => format!("\n  {n} more from this place since it was last told"),
    };
    event!(
        target: "pollwatch::tasks",
        parent: None,
        Level::WARN,
        runtime = &**runtime,
        site = %site,
        task = task.map(tracing::field::display),
        panic = text,
        untold = (untold > 0).then_some(untold),
        "a task of {runtime:?} spawned at {site} panicked: {text}{suffix}",
    );
}

/// The tasks of a place have become more than the limit.
pub(crate) fn task_growth(place: &Place, alive: u64, limit: u64) {
    let Place { runtime, site, .. } = place;
    event!(
        target: "pollwatch::tasks",
        parent: None,
        Level::WARN,
        runtime = &**runtime,
        site = %site,
        alive,
        limit,
        "{alive} tasks of {runtime:?} spawned at {site} are alive, more than {limit}: more are spawned than end\n  \
         advice: find out what they wait for, and bound how many there may be (a Semaphore, a queue with a limit){FIELDS}",
    );
}

/// A runtime is late, and requests are turned away; `untold` times since the last one it was not told.
pub(crate) fn shedding_begins(runtime: &str, lag: u64, high: u64, untold: u64) {
    let [lag, high] = [lag, high].map(|nanos| nanos as f64 / 1e6);
    let suffix = match untold {
        0 => String::new(),
        n => format!(" ({n} more times since it was last told)"),
    };
    event!(
        target: "pollwatch::shed",
        parent: None,
        Level::WARN,
        runtime,
        lag_ms = lag,
        high_ms = high,
        untold = (untold > 0).then_some(untold),
        "requests are turned away: tasks of runtime {runtime:?} wait {lag:.0} ms or longer for their poll, the mark is \
         {high:.0} ms{suffix}",
    );
}

/// It is not late any more.
pub(crate) fn shedding_ends(runtime: &str, time: Duration, requests: u64) {
    let seconds = time.as_secs_f64();
    event!(
        target: "pollwatch::shed",
        parent: None,
        Level::INFO,
        runtime,
        seconds,
        requests,
        "all requests to runtime {runtime:?} are let in again, after {seconds:.1} s in which {requests} were turned away",
    );
}

/// A runtime is watched from here on: what is seen of it, and what is not.
pub(crate) fn watching(runtime: &RuntimeCoverage) {
    event!(target: "pollwatch::watchdog", parent: None, Level::INFO, runtime = &*runtime.name, "watching {runtime}");
}

/// Something that cannot be done; said once.
pub(crate) fn cannot(what: &str) {
    event!(target: "pollwatch::watchdog", parent: None, Level::WARN, "{what}");
}
