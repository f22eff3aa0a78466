//! The sites and routes with the most blocked time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::super::families;
use super::seconds;
use crate::snapshot::{RouteSnapshot, SiteSnapshot, StallSnapshot};

/// The number of sites, and of routes: the ones that blocked longest, then the busiest.
const MAX_ROWS: usize = 100;

#[derive(Serialize)]
pub(super) struct LiveSite {
    runtime: Arc<str>,
    site: String,
    polls: u64,
    busy_seconds: f64,
    max_seconds: f64,
    /// `None` unless delays are tracked.
    delay_seconds: Option<f64>,
    /// `None` unless the last polls of tasks are tracked.
    unpolled_seconds: Option<f64>,
    stalls: u64,
    stalled_seconds: f64,
    alive_tasks: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct LiveRoute {
    route: Arc<str>,
    requests: u64,
    polls: u64,
    busy_seconds: f64,
    max_seconds: f64,
    /// `None` unless delays are tracked.
    delay_seconds: Option<f64>,
    stalls: u64,
    stalled_seconds: f64,
    /// Stalls of the tasks that the route's handlers spawned.
    spawned_stalls: u64,
    spawned_stalled_seconds: f64,
}

/// Returns the sites with the most blocked time, and how many others there are.
pub(super) fn sites(all: &[SiteSnapshot], has_delays: bool) -> (Vec<LiveSite>, usize) {
    let mut sites: Vec<_> = all.iter().zip(families::site_labels(all)).collect();
    sites.sort_by_key(|(site, _)| Reverse((site.stalls.time, site.busy)));
    let site = |(site, label): (&SiteSnapshot, String)| LiveSite {
        runtime: site.runtime.clone(),
        site: label,
        polls: site.polls,
        busy_seconds: seconds(site.busy),
        max_seconds: seconds(site.poll_max),
        delay_seconds: has_delays.then(|| seconds(site.delay)),
        unpolled_seconds: site.unpolled.map(seconds),
        stalls: site.stalls.count,
        stalled_seconds: seconds(site.stalls.time),
        alive_tasks: site.alive().filter(|_| site.spawned > 0),
    };
    (sites.into_iter().take(MAX_ROWS).map(site).collect(), all.len().saturating_sub(MAX_ROWS))
}

/// Returns the routes with the most blocked time, and how many others there are.
///
/// `spawned` are the stalls of the tasks that each route's handlers spawned.
pub(super) fn routes(
    all: &[RouteSnapshot],
    spawned: &HashMap<Arc<str>, StallSnapshot>,
    has_delays: bool,
) -> (Vec<LiveRoute>, usize) {
    let spawned = |route: &RouteSnapshot| spawned.get(&route.route).copied().unwrap_or_default();
    let mut routes: Vec<_> = all.iter().map(|route| (route, spawned(route))).collect();
    routes.sort_by_key(|(route, spawned)| Reverse((route.stalls.time + spawned.time, route.busy)));
    let route = |(route, spawned): (&RouteSnapshot, StallSnapshot)| LiveRoute {
        route: route.route.clone(),
        requests: route.requests.iter().map(|requests| requests.count).sum(),
        polls: route.polls,
        busy_seconds: seconds(route.busy),
        max_seconds: seconds(route.poll_max),
        delay_seconds: has_delays.then(|| seconds(route.delay)),
        stalls: route.stalls.count,
        stalled_seconds: seconds(route.stalls.time),
        spawned_stalls: spawned.count,
        spawned_stalled_seconds: seconds(spawned.time),
    };
    (routes.into_iter().take(MAX_ROWS).map(route).collect(), all.len().saturating_sub(MAX_ROWS))
}
