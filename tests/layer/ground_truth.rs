//! What the handlers did by their own account, compared with the stalls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch::{Cause, Stall};

use crate::fixture::{Fixture, WORKERS};
use test_support::*;

/// The threshold of the tests under load.
pub(crate) const LOAD_THRESHOLD: Duration = Duration::from_millis(4);
/// The time for which a blocking handler sleeps.
const BLOCK: Duration = Duration::from_millis(9);

/// The task, thread and route of a visit.
type Who = (Option<tokio::task::Id>, String, String);

/// The visits of all requests. A visit sleeps for [`BLOCK`] or does not block.
#[derive(Clone, Default)]
pub(crate) struct GroundTruth(Arc<Mutex<HashMap<Who, Visits>>>);

#[derive(Clone, Copy, Default)]
struct Visits {
    all: usize,
    blocked: usize,
}

impl GroundTruth {
    /// Records a visit of a request to its handler, which blocks its thread or does not.
    pub(crate) fn visit(&self, route: &str, blocks: bool) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let who = (tokio::task::try_id(), thread, route.to_owned());
        if blocks {
            block(BLOCK);
        }
        let mut visits = lock(&self.0);
        let visits = visits.entry(who).or_default();
        visits.all += 1;
        visits.blocked += usize::from(blocks);
    }

    /// The number of visits of a route.
    pub(crate) fn visits(&self, route: &str) -> u64 {
        let visits = lock(&self.0);
        visits.iter().filter(|((_, _, name), _)| name == route).map(|(_, visits)| visits.all as u64).sum()
    }

    fn blocked(&self) -> HashMap<String, usize> {
        let mut blocked = HashMap::new();
        for ((_, _, route), visits) in &*lock(&self.0) {
            *blocked.entry(route.clone()).or_default() += visits.blocked;
        }
        blocked
    }

    /// Asserts that every stall with a route belongs to a visit of that route, in that task, on
    /// that thread, and that no handler slept more often than it recorded. Every sleep is counted,
    /// except those that pollwatch accounts for as excused or lost.
    #[track_caller]
    pub(crate) fn check(&self, fixture: &Fixture) {
        let stalls = fixture.stalls();
        let metrics = fixture.metrics();
        let blocked = self.blocked();
        let visits = lock(&self.0);
        let lost = metrics.get("pollwatch_lost_polls_total", &[]) + metrics.get("pollwatch_reports_lost_total", &[]);
        let oversleeps = metrics.get("pollwatch_watchdog_oversleeps_total", &[]);
        let excused = stalls.iter().filter(|s| matches!(s.cause, Cause::Starved | Cause::Paused)).count() as f64;

        let mut asleep: HashMap<Who, usize> = HashMap::new();
        for stall in &stalls {
            let Some(route) = &stall.route else {
                assert!(!is_asleep(stall) || lost + oversleeps > 0.0, "a handler that slept has no route: {stall}");
                continue;
            };
            let who = (stall.task, stall.thread.to_string(), route.to_string());
            if is_asleep(stall) {
                assert!(visits.contains_key(&who), "no such visit was recorded: {who:?}\n{stall}");
                *asleep.entry(who).or_default() += 1;
            } else {
                // A starved thread may be in another part of the request, which may have moved to
                // the other worker.
                let was_there = visits.keys().any(|(task, _, route)| (task, route) == (&who.0, &who.2));
                assert!(was_there, "no such visit was recorded: {who:?}\n{stall}");
            }
        }
        for (who, asleep) in &asleep {
            assert!(*asleep <= visits[who].blocked, "{who:?} slept {} times, not {asleep}", visits[who].blocked);
        }

        // A request is not counted as a stall if its poll was excused, was lost, or was paused.
        let unseen = excused + lost + oversleeps * WORKERS as f64;
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
