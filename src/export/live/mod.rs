//! `/live`: the current activity and all counters as JSON, for the page and for other viewers.
//!
//! Built only on request, on the thread that answers. docs/live.schema.json describes it, and
//! tests/it/live.rs checks the two against each other.

mod conditions;
mod incidents;
mod runtimes;
mod stalls;
mod tables;
mod watchdog;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::conditions::LiveCondition;
use self::incidents::LiveIncident;
use self::runtimes::LiveRuntime;
use self::stalls::{LiveStalls, MAX_STALLS};
use self::tables::{LiveRoute, LiveSite};
use self::watchdog::LiveWatchdog;
use super::families;
use super::page_source::PageSource;
use super::profile::program;

use crate::LateRuntime;
use crate::model::activity::StopReason;

/// The version of the format. It changes when a field is removed or changes its meaning, not when
/// one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct LiveResponse {
    schema: u32,
    version: &'static str,
    mode: &'static str,
    program: String,
    pid: u32,
    now_unix_seconds: f64,
    uptime_seconds: f64,
    /// `true` while stalls are detected.
    watching: bool,
    /// The reason why stalls are no longer detected.
    stopped: Option<StopReason>,
    threshold_seconds: f64,
    bucket_bounds_seconds: Vec<f64>,
    /// The ongoing incidents, the oldest first.
    incidents: Vec<LiveIncident>,
    /// The ongoing conditions of whole runtimes, the oldest first.
    conditions: Vec<LiveCondition>,
    runtimes: Vec<LiveRuntime>,
    sites: Vec<LiveSite>,
    sites_left_out: usize,
    routes: Vec<LiveRoute>,
    routes_left_out: usize,
    /// The latest reports of late runtimes, the most recent one last.
    late_runtimes: Vec<LiveLateRuntime>,
    #[serde(flatten)]
    stalls: LiveStalls,
    watchdog: LiveWatchdog,
}

/// A report of a late runtime, with its text.
#[derive(Serialize)]
struct LiveLateRuntime {
    #[serde(flatten)]
    report: LateRuntime,
    text: String,
}

impl LiveLateRuntime {
    fn new(report: LateRuntime) -> LiveLateRuntime {
        LiveLateRuntime { text: report.to_string(), report }
    }
}

/// Returns the response to `/live`.
pub(crate) fn json(source: &dyn PageSource) -> serde_json::Result<String> {
    serde_json::to_string(&LiveResponse::new(source))
}

impl LiveResponse {
    fn new(source: &dyn PageSource) -> LiveResponse {
        let snapshot = source.snapshot();
        let status = source.status();
        let runtimes = runtimes::list(&snapshot, source.activity());
        let has_delays = snapshot.watchdog.coverage.delays;
        let (sites, sites_left_out) = tables::sites(&snapshot.sites, has_delays);
        let (routes, routes_left_out) = tables::routes(&snapshot.routes, &source.spawned_stalls(), has_delays);
        let workers = runtimes.iter().flat_map(|runtime| &runtime.workers);
        LiveResponse {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            mode: families::mode(&snapshot.watchdog.coverage),
            program: program(),
            pid: std::process::id(),
            now_unix_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, seconds),
            uptime_seconds: seconds(status.uptime),
            watching: status.stopped.is_none(),
            stopped: status.stopped,
            threshold_seconds: seconds(snapshot.watchdog.threshold),
            bucket_bounds_seconds: snapshot.watchdog.bucket_bounds.iter().copied().map(seconds).collect(),
            incidents: incidents::ongoing(source.incidents()),
            conditions: source.conditions().into_iter().map(LiveCondition::new).collect(),
            stalls: LiveStalls::new(source.stalls(MAX_STALLS), workers),
            runtimes,
            sites,
            sites_left_out,
            routes,
            routes_left_out,
            late_runtimes: source.late_runtimes().into_iter().map(LiveLateRuntime::new).collect(),
            watchdog: LiveWatchdog::new(&snapshot.watchdog),
        }
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
