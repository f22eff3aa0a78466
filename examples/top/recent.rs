//! How much of the blocked time is of the last minute: what a route or place had a minute ago is kept.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use crate::rows::{all, num};

const MINUTE: f64 = 60.0;

/// Blocked seconds of a route, in its requests and in what their handlers spawned.
pub(crate) fn of_route(route: &Value) -> f64 {
    num(&route["stalled_seconds"]) + num(&route["spawned_stalled_seconds"])
}

/// Blocked seconds of a place.
pub(crate) fn of_site(site: &Value) -> f64 {
    num(&site["stalled_seconds"])
}

#[derive(Default)]
pub(crate) struct Recent {
    /// By the program's clock, the oldest first.
    looks: VecDeque<(f64, HashMap<String, f64>)>,
}

impl Recent {
    pub(crate) fn add(&mut self, live: &Value) {
        let now = num(&live["uptime_seconds"]);
        if self.looks.back().is_some_and(|(last, _)| now < *last) {
            // Another process answers there now.
            self.looks.clear();
        }
        let routes = all(live, "routes").iter().map(|r| (key(r), of_route(r)));
        let sites = all(live, "sites").iter().map(|s| (key(s), of_site(s)));
        self.looks.push_back((now, routes.chain(sites).collect()));
        // The first is a minute old, or the oldest that there is.
        while self.looks.get(1).is_some_and(|(at, _)| now - at >= MINUTE) {
            self.looks.pop_front();
        }
    }

    /// Of these blocked seconds, those that came in the last minute.
    pub(crate) fn share(&self, of: &Value, blocked: f64) -> f64 {
        let before = self.looks.front().and_then(|(_, seconds)| seconds.get(&key(of)));
        (blocked - before.copied().unwrap_or(0.0)).max(0.0)
    }
}

fn key(of: &Value) -> String {
    format!("{} {} {}", of["route"], of["runtime"], of["site"])
}
