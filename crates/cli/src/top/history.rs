//! The blocked time of the last minute, from the totals of each route and site a minute ago.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use super::rows::{list, number};

/// The length of the window, in seconds.
const MINUTE: f64 = 60.0;

/// Returns the blocked seconds of a route: in its requests, and in the tasks that their handlers
/// spawned.
pub(crate) fn route_blocked_seconds(route: &Value) -> f64 {
    number(&route["stalled_seconds"]) + number(&route["spawned_stalled_seconds"])
}

/// Returns the blocked seconds of a spawn site.
pub(crate) fn site_blocked_seconds(site: &Value) -> f64 {
    number(&site["stalled_seconds"])
}

/// The totals in one answer of the server.
struct Sample {
    /// Seconds since the start of the program, by its clock.
    uptime: f64,
    blocked_seconds: HashMap<String, f64>,
}

/// The samples of the last minute, the oldest first.
#[derive(Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds the totals of an answer, and drops samples that are too old.
    pub(crate) fn add(&mut self, live: &Value) {
        let uptime = number(&live["uptime_seconds"]);
        if self.samples.back().is_some_and(|last| uptime < last.uptime) {
            // The program was restarted.
            self.samples.clear();
        }
        let routes = list(live, "routes").iter().map(|r| (key(r), route_blocked_seconds(r)));
        let sites = list(live, "sites").iter().map(|s| (key(s), site_blocked_seconds(s)));
        self.samples.push_back(Sample { uptime, blocked_seconds: routes.chain(sites).collect() });
        // The first sample that is kept is a minute old, or the oldest of all.
        while self.samples.get(1).is_some_and(|sample| uptime - sample.uptime >= MINUTE) {
            self.samples.pop_front();
        }
    }

    /// Returns how much of the total of a route or site was added in the last minute.
    pub(crate) fn last_minute(&self, item: &Value, total: f64) -> f64 {
        let before = self.samples.front().and_then(|sample| sample.blocked_seconds.get(&key(item)));
        (total - before.copied().unwrap_or(0.0)).max(0.0)
    }
}

fn key(item: &Value) -> String {
    format!("{} {} {}", item["route"], item["runtime"], item["site"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn live(uptime: f64, blocked: f64) -> Value {
        json!({"uptime_seconds": uptime, "routes": [{"route": "/a", "stalled_seconds": blocked}]})
    }

    #[test]
    fn last_minute_counts_from_the_sample_a_minute_ago() {
        let mut history = History::default();
        let last_minute = |history: &History, total| history.last_minute(&json!({"route": "/a"}), total);
        for (uptime, blocked, wanted) in [(10.0, 5.0, 0.0), (40.0, 6.0, 1.0), (71.0, 9.0, 4.0), (101.0, 9.5, 3.5)] {
            history.add(&live(uptime, blocked));
            assert_eq!(last_minute(&history, blocked), wanted, "at {uptime} s");
        }
        // The totals of a restarted program start at zero.
        history.add(&live(1.0, 0.5));
        assert_eq!(last_minute(&history, 0.5), 0.0);
    }
}
