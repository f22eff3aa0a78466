//! The state of pollwatch itself.

use serde::Serialize;

use super::seconds;
use crate::snapshot::{
    AllowedSnapshot, CaptureOutcome, CaptureSnapshot, LostReportsSnapshot, ReportStage, WatchdogSnapshot,
};

#[derive(Serialize)]
pub(super) struct LiveWatchdog {
    coverage: LiveCoverage,
    reports_suppressed: u64,
    reports_lost: u64,
    reports_lost_by_stage: Vec<LiveLostReports>,
    captures: Vec<LiveCapture>,
    oversleeps: u64,
    wakeups: u64,
    callback_panics: u64,
    sites_overflowed: u64,
    routes_overflowed: u64,
    allowed_blocking: Vec<LiveAllowed>,
}

#[derive(Serialize)]
struct LiveCoverage {
    hooks: bool,
    exact_wakeup: bool,
    clock: &'static str,
    clock_steps: u64,
    stacks: String,
    measured_threads: usize,
    unmeasured_threads: u64,
    unnamed_runtimes: u64,
    watchdog_panics: u64,
    lost_polls: u64,
    /// The coverage as text, in lines.
    text: String,
}

#[derive(Serialize)]
struct LiveCapture {
    result: CaptureOutcome,
    count: u64,
}

#[derive(Serialize)]
struct LiveLostReports {
    stage: ReportStage,
    count: u64,
}

#[derive(Serialize)]
struct LiveAllowed {
    reason: &'static str,
    seconds: f64,
}

impl LiveWatchdog {
    pub(super) fn new(snapshot: &WatchdogSnapshot) -> LiveWatchdog {
        let coverage = &snapshot.coverage;
        let capture = |c: &CaptureSnapshot| LiveCapture { result: c.outcome, count: c.count };
        let lost = |l: &LostReportsSnapshot| LiveLostReports { stage: l.stage, count: l.count };
        let allowed = |a: &AllowedSnapshot| LiveAllowed { reason: a.reason, seconds: seconds(a.time) };
        LiveWatchdog {
            coverage: LiveCoverage {
                hooks: coverage.hooks,
                exact_wakeup: coverage.exact_wakeup,
                clock: coverage.clock,
                clock_steps: coverage.clock_steps,
                stacks: coverage.stacks.to_string(),
                measured_threads: coverage.measured_threads,
                unnamed_runtimes: coverage.unnamed_runtimes,
                watchdog_panics: coverage.watchdog_panics,
                unmeasured_threads: coverage.unmeasured_threads,
                lost_polls: coverage.lost_polls,
                text: coverage.to_string(),
            },
            reports_suppressed: snapshot.reports_suppressed,
            reports_lost: snapshot.reports_lost,
            reports_lost_by_stage: snapshot.reports_lost_by_stage.iter().map(lost).collect(),
            captures: snapshot.captures.iter().map(capture).collect(),
            oversleeps: snapshot.oversleeps,
            wakeups: snapshot.wakeups,
            callback_panics: snapshot.callback_panics,
            sites_overflowed: snapshot.sites_overflowed,
            routes_overflowed: snapshot.routes_overflowed,
            allowed_blocking: snapshot.allowed_blocking.iter().map(allowed).collect(),
        }
    }
}
