//! Log lines, as `tracing` events outside of any span.

mod unseen;

use std::time::Duration;

use pollwatch_stack::{Frame, Stack};
use tracing::{Level, event};

use crate::model::cause::Certainty;
use crate::model::condition::{Condition, ConditionKind};
use crate::model::coverage::RuntimeCoverage;
use crate::model::event::TaskGroup;
use crate::model::incident::Incident;
use crate::model::late_runtime::{LateReason, LateRuntime};
use crate::model::lock::{DEADLOCK_ADVICE, Deadlock};
use crate::model::log_format::LogFormat;
use crate::model::site::Site;
use crate::model::stall::{Phase, Stall};

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
fn end_of_line(suppressed: u64, format: LogFormat) -> String {
    match (suppressed, format) {
        (0, _) | (_, LogFormat::Fields) => String::new(),
        (n, LogFormat::Text) => suppressed_suffix(n) + FIELDS,
    }
}

/// Logs a stall. `suppressed` is the number of stalls under the same key of the rate limit that
/// were not logged since the previous one. The first that nobody takes is mentioned on the standard
/// error.
pub(crate) fn stall(stall: &Stall, suppressed: u64, format: LogFormat) {
    let task = stall.task.map(tracing::field::display);
    let watched = stall.watched.map(tracing::field::display);
    let (millis, others) = (|time: Duration| time.as_micros() as f64 / 1e3, stall.other_segments());
    let message = match format {
        LogFormat::Text => format!("{stall}{}{FIELDS}", suppressed_suffix(suppressed)),
        LogFormat::Fields => stall.summary().to_string(),
    };
    let message = unseen::Message::new(&message);
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
        task_name = stall.task_name.as_deref(),
        site = (stall.certainty == Certainty::Measured).then(|| tracing::field::display(stall.site)),
        watched,
        route = stall.route.as_deref(),
        parent_route = stall.parent_route.as_deref(),
        spans = (!stall.spans.is_empty()).then(|| stall.spans.join(" › ")),
        cause = %stall.cause,
        reason = (!stall.reason.is_empty()).then_some(stall.reason),
        syscall = stall.syscall.as_ref().map(|s| &*s.name),
        lock = stall.lock.as_ref().map(|lock| tracing::field::display(lock.address)),
        holder = stall.lock.as_ref().filter(|lock| lock.is_informative()).map(tracing::field::display),
        pool = stall.pool.as_ref().map(tracing::field::display),
        at = stall.stack.as_ref().and_then(Stack::location).map(tracing::field::display),
        advice = stall.advice,
        elapsed_ms = millis(stall.elapsed),
        segment_ms = others.as_ref().map(|others| millis(others.shown)),
        other_segments = others.as_ref().map(tracing::field::display),
        suppressed = (suppressed > 0).then_some(suppressed),
        "{message}",
    );
    if !message.was_read() && !tracing::event_enabled!(target: "pollwatch::stall", Level::WARN) {
        unseen::print_hint();
    }
}

/// Logs that the whole process was paused. `suppressed` is the number of pauses that were not
/// logged since the previous one.
pub(crate) fn pause(time: Duration, suppressed: u64, format: LogFormat) {
    let seconds = time.as_secs_f64();
    let end = end_of_line(suppressed, format);
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

/// Logs that a runtime is late. `suppressed` is the number of reports of the same runtime that were
/// not logged since the previous one.
pub(crate) fn late(late: &LateRuntime, suppressed: u64, format: LogFormat) {
    let advice = match late.reason {
        LateReason::BusyWorkers => {
            "use more workers or processes, admit less work at a time, or move computing to spawn_blocking"
        }
        LateReason::NoCpu => "give the process more CPUs, or start fewer threads that compute",
        LateReason::Unknown => "look for threads that hold the process up, and for drivers that nobody polls",
    };
    let end = match format {
        LogFormat::Text => format!("\n  advice: {advice}{}{FIELDS}", suppressed_suffix(suppressed)),
        LogFormat::Fields => String::new(),
    };
    event!(
        target: "pollwatch::late",
        parent: None,
        Level::WARN,
        runtime = &*late.runtime,
        delay_ms = late.delay.as_micros() as f64 / 1e3,
        polling = late.polling,
        on_cpu = late.on_cpu,
        waiting_for_cpu = late.waiting_for_cpu,
        site = late.sites.first().map(|usage| tracing::field::display(usage.site)),
        route = late.routes.first().map(|usage| &*usage.route),
        advice,
        suppressed = (suppressed > 0).then_some(suppressed),
        "{late}{end}",
    );
}

/// Logs that a task of `Watchdog::spawn` panicked. `suppressed` is the number of panics of the same
/// site that were not logged since the previous one.
pub(crate) fn task_panic(
    group: &TaskGroup,
    task: Option<tokio::task::Id>,
    message: &str,
    suppressed: u64,
    format: LogFormat,
) {
    let TaskGroup { runtime, site, .. } = group;
    let text = one_line(message);
    let end = end_of_line(suppressed, format);
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
pub(crate) fn task_growth(group: &TaskGroup, alive: u64, limit: u64, format: LogFormat) {
    const ADVICE: &str =
        "find out what they wait for, and bound how many there may be (a Semaphore, a queue with a limit)";
    let TaskGroup { runtime, site, .. } = group;
    let end = match format {
        LogFormat::Text => format!("\n  advice: {ADVICE}{FIELDS}"),
        LogFormat::Fields => String::new(),
    };
    event!(
        target: "pollwatch::tasks",
        parent: None,
        Level::WARN,
        runtime = &**runtime,
        site = %site,
        alive,
        limit,
        advice = ADVICE,
        "{alive} tasks of {runtime:?} spawned at {site} are alive, more than {limit}: more are spawned than end{end}",
    );
}

/// Logs that a runtime is watched from now on, and what is measured of it.
pub(crate) fn watching(runtime: &RuntimeCoverage) {
    event!(target: "pollwatch::watchdog", parent: None, Level::INFO, runtime = &*runtime.name, "watching {runtime}");
}

/// The part of a field about a thread of a deadlock of which it is not known.
const UNKNOWN: &str = "unknown";

/// Logs a deadlock.
pub(crate) fn deadlock(deadlock: &Deadlock, format: LogFormat) {
    let message = match format {
        LogFormat::Fields => deadlock.summary(),
        LogFormat::Text => format!("{deadlock}{FIELDS}"),
    };
    // Each of these has a part for each thread, in the same order.
    let location = |frame: &Option<Frame>| frame.as_ref().map_or_else(|| UNKNOWN.to_owned(), Frame::to_string);
    let site = |site: &Option<Site>| site.as_ref().map_or_else(|| UNKNOWN.to_owned(), Site::to_string);
    event!(
        target: "pollwatch::deadlock",
        parent: None,
        Level::ERROR,
        threads = deadlock.of_each(|thread| thread.name.to_string()),
        tids = deadlock.of_each(|thread| thread.tid.to_string()),
        sites = deadlock.of_each(|thread| site(&thread.site)),
        locks = deadlock.of_each(|thread| thread.waits_for.to_string()),
        waits_at = deadlock.of_each(|thread| location(&thread.waits_at)),
        holds_at = deadlock.of_each(|thread| location(&thread.holds_at)),
        advice = DEADLOCK_ADVICE,
        "deadlock: {message}",
    );
}

/// Logs the start or the end of an incident. `suppressed` is the number of lines about the same
/// runtime and kind that were not logged since the previous one.
pub(crate) fn incident(incident: &Incident, suppressed: u64, format: LogFormat) {
    let Incident { id, kind, runtime, duration, .. } = incident;
    let (seconds, suppressed_field) = (duration.as_secs_f64(), (suppressed > 0).then_some(suppressed));
    let message = match (format, incident.phase) {
        (LogFormat::Text, Phase::Ongoing) => format!("{incident}{}{FIELDS}", suppressed_suffix(suppressed)),
        _ => format!("{}{}", incident.summary(), end_of_line(suppressed, format)),
    };
    // The level of an event is a constant.
    match incident.phase {
        Phase::Ongoing => event!(
            target: "pollwatch::incident", parent: None, Level::ERROR,
            incident = id, kind = %kind, runtime = &**runtime, seconds, suppressed = suppressed_field, "{message}",
        ),
        Phase::Resolved => event!(
            target: "pollwatch::incident", parent: None, Level::WARN,
            incident = id, kind = %kind, runtime = &**runtime, seconds, suppressed = suppressed_field, "{message}",
        ),
    }
}

/// Logs the threads of the process during an incident.
pub(crate) fn incident_threads(incident: u64, threads: &str, format: LogFormat) {
    let end = match format {
        LogFormat::Text => FIELDS,
        LogFormat::Fields => "",
    };
    let message = format!("the threads of the process in incident #{incident}:\n{threads}{end}");
    event!(target: "pollwatch::incident", parent: None, Level::ERROR, incident, "{message}");
}

/// Logs that an action of an incident ends the process now.
pub(crate) fn process_ends(what: &str) {
    event!(target: "pollwatch::incident", parent: None, Level::ERROR, "{what}");
}

/// Logs a condition of a whole runtime. `suppressed` is the number of conditions of the same kind
/// and runtime that were not logged since the previous one.
pub(crate) fn condition(condition: &Condition, suppressed: u64, format: LogFormat) {
    let Condition { kind, phase, runtime, duration, stall, stall_summary, rescues, remedy, .. } = condition;
    let is_ongoing = *phase == Phase::Ongoing;
    let summary = stall_summary.as_deref().filter(|_| is_ongoing);
    let remedy = Some(*remedy).filter(|_| is_ongoing);
    let text = match format {
        LogFormat::Fields => condition.to_string(),
        LogFormat::Text => {
            let cause = summary.map(|summary| format!("\n  caused by {summary}")).unwrap_or_default();
            let advice = remedy.map(|remedy| format!("\n  advice: {remedy}")).unwrap_or_default();
            let end = suppressed_suffix(suppressed);
            format!("{condition}{cause}{advice}{end}{FIELDS}")
        }
    };
    macro_rules! log_at {
        ($level:expr) => {
            event!(
                target: "pollwatch::runtime",
                parent: None,
                $level,
                runtime = &**runtime,
                kind = %kind,
                phase = %phase,
                seconds = duration.as_secs_f64(),
                stall,
                caused_by = summary,
                rescues,
                advice = remedy,
                suppressed = (suppressed > 0).then_some(suppressed),
                "{text}",
            )
        };
    }
    // The level is a constant of the call site.
    match (kind, is_ongoing) {
        (ConditionKind::RuntimeHung, true) => log_at!(Level::ERROR),
        _ => log_at!(Level::WARN),
    }
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
mod tests;
