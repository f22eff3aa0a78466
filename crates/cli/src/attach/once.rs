//! `pollwatch attach --once`: what is blocked now.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::attach::Attached;
use pollwatch::{Phase, Stall};
use serde_json::json;

use super::output::Output;
use super::process::ProcessInfo;
use super::{AttachArgs, AttachCommandError, CHECK_INTERVAL, IS_BLOCKED, settings, stall_object, start};

/// The time for which the process is watched: some scans more than a stall needs, and the symbols.
const MIN_TIME: Duration = Duration::from_millis(500);

/// The thresholds for which the process is watched at least.
const THRESHOLDS: u32 = 4;

/// The time for which a runtime, and the stacks of all threads, are waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The name of what is no runtime: the threads that `--all-threads` adds.
const OTHER_THREADS: &str = "other threads";

/// The time for which the stacks of stalls that were found are waited for.
const STACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints what is blocked. The exit code says whether anything is, or whether that is not known.
pub(super) fn run(
    args: &AttachArgs,
    process: &ProcessInfo,
    output: &Arc<Output>,
    is_ended: &AtomicBool,
) -> Result<ExitCode, AttachCommandError> {
    let attached = start(settings(args, process).log(false))?;
    let time = args.duration.unwrap_or(MIN_TIME.max(args.threshold * THRESHOLDS));
    let started = Instant::now();
    let (ongoing, unknown) = loop {
        let ended = attached.wait(Some(CHECK_INTERVAL.min(time.saturating_sub(started.elapsed()))));
        let passed = started.elapsed();
        let unknown = match &ended {
            Some(ended) => Some(ended.to_string()),
            None if passed < time => Some("it was ended by a signal".into()),
            None => unknown(&attached),
        };
        let mut stalls = attached.stalls();
        stalls.retain(|stall: &Stall| stall.phase == Phase::Ongoing);
        let has_stacks = stalls.iter().all(|stall| stall.stack.is_some()) || passed > time + STACK_TIMEOUT;
        let is_read = unknown.is_none() || !stalls.is_empty() || passed > time + READ_TIMEOUT;
        if ended.is_some() || is_ended.load(Ordering::Relaxed) || (passed >= time && has_stacks && is_read) {
            break (stalls, unknown);
        }
        if passed >= time {
            std::thread::sleep(CHECK_INTERVAL);
        }
    };
    output.begin(None);
    for stall in &ongoing {
        match args.json {
            true => output.json(&stall_object(stall)),
            false => output.text(&stall.to_string()),
        }
    }
    if !ongoing.is_empty() {
        return Ok(ExitCode::from(IS_BLOCKED));
    }
    let label = format!("{} ({})", process.label(), process.pid);
    let (object, text, code) = match unknown {
        None => (json!({ "event": "nothing_blocked" }), format!("nothing in {label} is blocked"), ExitCode::SUCCESS),
        Some(why) => (
            json!({ "event": "unknown", "reason": why }),
            format!("it is not known whether anything in {label} is blocked: {why}"),
            ExitCode::FAILURE,
        ),
    };
    match args.json {
        true => output.json(&object),
        false => output.text(&text),
    }
    Ok(code)
}

/// Returns why it is not known that nothing is blocked where no stall was found. `None` if it is
/// known: a runtime was found, and all threads were read.
fn unknown(attached: &Attached) -> Option<String> {
    let coverage = attached.snapshot().watchdog.coverage;
    let is_runtime = |name: &str| name != OTHER_THREADS;
    if attached.scans() == 0 || !coverage.runtimes.iter().any(|runtime| runtime.alive && is_runtime(&runtime.name)) {
        let coverage = coverage.to_string().replace('\n', "; ");
        return Some(format!("no Tokio runtime has been found in it ({coverage})"));
    }
    match attached.unread_threads() {
        0 => None,
        1 => Some("the stack of 1 thread could not be read".into()),
        threads => Some(format!("the stacks of {threads} threads could not be read")),
    }
}
