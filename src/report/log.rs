//! Log lines, as `tracing` events outside of any span.

use std::time::Duration;

use tracing::{Level, event};

use crate::model::cause::Certainty;
use crate::model::coverage::RuntimeCoverage;
use crate::model::event::TaskGroup;
use crate::model::stall::Stall;

/// The end of a message of several lines: a subscriber that prints the fields after it starts them
/// on a line of their own.
const FIELDS: &str = "\n ";

/// Returns the line of a message that says how many others were suppressed before it: those under
/// the same key of the rate limit.
fn suppressed_suffix(suppressed: u64) -> String {
    match suppressed {
        0 => String::new(),
        n => format!("\n  {n} more like this since it was last logged"),
    }
}

/// Returns the end of a message of one line, which becomes one of several where others were
/// suppressed.
fn end_of_line(suppressed: u64) -> String {
    match suppressed {
        0 => String::new(),
        n => suppressed_suffix(n) + FIELDS,
    }
}

/// Logs a stall. `suppressed` is the number of stalls of the same runtime, site, route and
/// certainty that were not logged since the previous one.
pub(crate) fn stall(stall: &Stall, suppressed: u64) {
    let task = stall.task.map(tracing::field::display);
    let watched = stall.watched.map(tracing::field::display);
    let suffix = suppressed_suffix(suppressed);
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
        suppressed = (suppressed > 0).then_some(suppressed),
        "{stall}{suffix}{FIELDS}",
    );
}

/// Logs that the whole process was paused. `suppressed` is the number of pauses that were not
/// logged since the previous one.
pub(crate) fn pause(time: Duration, suppressed: u64) {
    let seconds = time.as_secs_f64();
    let end = end_of_line(suppressed);
    event!(
        target: "pollwatch::watchdog",
        parent: None,
        Level::WARN,
        seconds,
        suppressed = (suppressed > 0).then_some(suppressed),
        "the whole process was paused for {seconds:.3} s (stopped, suspended, or without any CPU). No task is blamed for \
         it{end}",
    );
}

/// Logs that a task of `Watchdog::spawn` panicked. `suppressed` is the number of panics of the same
/// site that were not logged since the previous one.
pub(crate) fn task_panic(group: &TaskGroup, task: Option<tokio::task::Id>, message: &str, suppressed: u64) {
    let TaskGroup { runtime, site, .. } = group;
    let text = one_line(message);
    let end = end_of_line(suppressed);
    event!(
        target: "pollwatch::tasks",
        parent: None,
        Level::WARN,
        runtime = &**runtime,
        site = %site,
        task = task.map(tracing::field::display),
        panic = text.as_str(),
        suppressed = (suppressed > 0).then_some(suppressed),
        "a task of {runtime:?} spawned at {site} panicked: {text}{end}",
    );
}

/// Logs that a site has more alive tasks than the limit.
pub(crate) fn task_growth(group: &TaskGroup, alive: u64, limit: u64) {
    let TaskGroup { runtime, site, .. } = group;
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

/// Logs that a runtime is watched from now on, and what is measured of it.
pub(crate) fn watching(runtime: &RuntimeCoverage) {
    event!(target: "pollwatch::watchdog", parent: None, Level::INFO, runtime = &*runtime.name, "watching {runtime}");
}

/// Logs a limitation of pollwatch in this process. The caller logs each limitation once.
pub(crate) fn degraded(what: &str) {
    event!(target: "pollwatch::watchdog", parent: None, Level::WARN, "{what}");
}

/// Joins a text of several lines (such as the one of `assert_eq`) into one line, without control
/// characters.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(one_line("assertion `left == right` failed\n  left: 1\n right: 2"), {
            "assertion `left == right` failed left: 1 right: 2"
        });
        assert_eq!(one_line("a\r\nb\u{1b}[31mc\t"), "a b [31mc");
        assert_eq!(one_line(""), "");
    }
}
