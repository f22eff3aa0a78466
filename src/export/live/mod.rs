//! `/live`: the current activity and all counters as JSON, for the page and for other viewers.
//!
//! Built only on request, on the thread that answers. docs/live.schema.json describes it, and
//! tests/it/live.rs checks the two against each other.

mod runtimes;
mod stalls;
mod tables;
mod watchdog;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::runtimes::LiveRuntime;
use self::stalls::LiveStalls;
use self::tables::{LiveRoute, LiveSite};
use self::watchdog::LiveWatchdog;
use super::families;
use super::page_source::PageSource;
use super::profile::program;

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
    runtimes: Vec<LiveRuntime>,
    sites: Vec<LiveSite>,
    sites_left_out: usize,
    routes: Vec<LiveRoute>,
    routes_left_out: usize,
    #[serde(flatten)]
    stalls: LiveStalls,
    watchdog: LiveWatchdog,
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
        let (sites, sites_left_out) = tables::sites(&snapshot.sites);
        let (routes, routes_left_out) = tables::routes(&snapshot.routes, &source.spawned_stalls());
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
            stalls: LiveStalls::new(source.stalls(), workers),
            runtimes,
            sites,
            sites_left_out,
            routes,
            routes_left_out,
            watchdog: LiveWatchdog::new(&snapshot.watchdog),
        }
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
