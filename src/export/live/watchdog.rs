//! pollwatch itself.

use serde::Serialize;

use super::seconds;
use crate::snapshot::WatchdogSnapshot;

#[derive(Serialize)]
pub(super) struct Watchdog {
    coverage: Coverage,
    reports_suppressed: u64,
    reports_lost: u64,
    captures: Vec<Capture>,
    oversleeps: u64,
    wakeups: u64,
    callback_panics: u64,
    sites_overflowed: u64,
    routes_overflowed: u64,
    allowed_blocking: Vec<Allowed>,
}

#[derive(Serialize)]
struct Coverage {
    hooks: bool,
    exact_wakeup: bool,
    clock: &'static str,
    stacks: String,
    measured_threads: usize,
    unmeasured_threads: u64,
    unnamed_runtimes: u64,
    watchdog_panics: u64,
    lost_polls: u64,
    /// All of it, in lines.
    text: String,
}

#[derive(Serialize)]
struct Capture {
    result: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct Allowed {
    reason: &'static str,
    seconds: f64,
}

impl Watchdog {
    pub(super) fn of(snapshot: &WatchdogSnapshot) -> Watchdog {
        let coverage = &snapshot.coverage;
        Watchdog {
            coverage: Coverage {
                hooks: coverage.hooks,
                exact_wakeup: coverage.exact_wakeup,
                clock: coverage.clock,
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
            captures: snapshot.captures.iter().map(|c| Capture { result: c.result, count: c.count }).collect(),
            oversleeps: snapshot.oversleeps,
            wakeups: snapshot.wakeups,
            callback_panics: snapshot.callback_panics,
            sites_overflowed: snapshot.sites_overflowed,
            routes_overflowed: snapshot.routes_overflowed,
            allowed_blocking: snapshot
                .allowed_blocking
                .iter()
                .map(|allowed| Allowed { reason: allowed.reason, seconds: seconds(allowed.time) })
                .collect(),
        }
    }
}
