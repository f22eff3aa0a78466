//! The visits that handlers record themselves, as the ground truth of the reported stalls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch::{Cause, Stall};

use crate::*;

/// The threshold of the tests under load.
pub const LOAD_THRESHOLD: Duration = Duration::from_millis(4);
/// The time for which a blocking handler sleeps.
const BLOCK: Duration = Duration::from_millis(9);

/// The task, thread and route of visits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Visitor {
    task: Option<tokio::task::Id>,
    thread: String,
    route: String,
}

/// The visits of requests to their handlers. A visit sleeps for 9 ms or does not block.
#[derive(Clone, Default)]
pub struct GroundTruth(Arc<Mutex<HashMap<Visitor, Visits>>>);

#[derive(Clone, Copy, Default)]
struct Visits {
    all: usize,
    blocked: usize,
}

impl GroundTruth {
    /// Records a visit, and blocks the thread if `blocks`.
    pub fn visit(&self, route: &str, blocks: bool) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let visitor = Visitor { task: tokio::task::try_id(), thread, route: route.to_owned() };
        if blocks {
            block(BLOCK);
        }
        let mut visits = lock(&self.0);
        let visits = visits.entry(visitor).or_default();
        visits.all += 1;
        visits.blocked += usize::from(blocks);
    }

    /// Returns the number of visits of a route.
    pub fn visits(&self, route: &str) -> u64 {
        let visits = lock(&self.0);
        visits.iter().filter(|(visitor, _)| visitor.route == route).map(|(_, visits)| visits.all as u64).sum()
    }

    fn blocked(&self) -> HashMap<String, usize> {
        let mut blocked = HashMap::new();
        for (visitor, visits) in &*lock(&self.0) {
            *blocked.entry(visitor.route.clone()).or_default() += visits.blocked;
        }
        blocked
    }

    /// Asserts that every stall with a route belongs to a visit of that route, in that task, on
    /// that thread, and that no handler slept more often than it recorded. Every sleep is counted,
    /// except those that pollwatch accounts for as excused or lost.
    #[track_caller]
    pub fn check(&self, fixture: &LayerFixture) {
        let stalls = fixture.stalls();
        let metrics = fixture.metrics();
        let blocked = self.blocked();
        let visits = lock(&self.0);
        let lost = metrics.get("pollwatch_lost_polls_total", &[]) + metrics.sum("pollwatch_reports_lost_total", &[]);
        let oversleeps = metrics.get("pollwatch_watchdog_oversleeps_total", &[]);
        let excused = stalls.iter().filter(|s| matches!(s.cause, Cause::Starved | Cause::Paused)).count() as f64;

        let mut asleep: HashMap<Visitor, usize> = HashMap::new();
        for stall in &stalls {
            let Some(route) = &stall.route else {
                assert!(!is_asleep(stall) || lost + oversleeps > 0.0, "a handler that slept has no route: {stall}");
                continue;
            };
            let visitor = Visitor { task: stall.task, thread: stall.thread.to_string(), route: route.to_string() };
            if is_asleep(stall) {
                assert!(visits.contains_key(&visitor), "no such visit was recorded: {visitor:?}\n{stall}");
                *asleep.entry(visitor).or_default() += 1;
            } else {
                // A starved thread may be in another part of the request, which may have moved to
                // the other worker.
                let is_same = |other: &Visitor| (other.task, &other.route) == (visitor.task, &visitor.route);
                assert!(visits.keys().any(is_same), "no such visit was recorded: {visitor:?}\n{stall}");
            }
        }
        for (visitor, asleep) in &asleep {
            let blocked = visits[visitor].blocked;
            assert!(*asleep <= blocked, "{visitor:?} slept {blocked} times, not {asleep}");
        }

        // A request is not counted as a stall if its poll was excused, was lost, or was paused.
        let unseen = excused + lost + oversleeps * LAYER_WORKERS as f64;
        for (route, blocked) in blocked.iter().filter(|(_, blocked)| **blocked > 0) {
            let counted = metrics.get("pollwatch_route_stalls_total", &[("route", route)]);
            assert!(
                counted + unseen >= *blocked as f64,
                "{route}: {counted} of {blocked} are counted, {unseen} excused"
            );
        }
        let (found, all) = (asleep.values().sum::<usize>(), blocked.values().sum::<usize>());
        println!(
            "{found} of {all} were reported asleep, {excused} stalls excused, {lost} lost, {oversleeps} oversleeps"
        );
        assert!(found > 0, "none of {all} was reported asleep: {stalls:#?}");
    }
}

fn is_asleep(stall: &Stall) -> bool {
    stall.cause == Cause::Syscall && stall.syscall.as_ref().is_some_and(|syscall| syscall.name.ends_with("nanosleep"))
}
