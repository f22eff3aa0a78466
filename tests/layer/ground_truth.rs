//! What the handlers did, as they saw it themselves, and whether the stalls agree.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch::{Cause, Stall};

use crate::fixture::{Scene, WORKERS};
use test_support::*;

/// Of the scenes under load.
pub(crate) const LOAD_THRESHOLD: Duration = Duration::from_millis(4);
/// How long a handler blocks that does.
const BLOCK: Duration = Duration::from_millis(9);

/// Task, thread, route: whose stall it is.
type Who = (Option<tokio::task::Id>, String, String);

/// The visits of all requests; each kept its thread, asleep for [`BLOCK`] or not at all.
#[derive(Clone, Default)]
pub(crate) struct Truth(Arc<Mutex<HashMap<Who, Visits>>>);

#[derive(Clone, Copy, Default)]
struct Visits {
    all: usize,
    blocked: usize,
}

impl Truth {
    /// A part of a request: blocks its thread, or does not.
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

    /// How many there were of a route.
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

    /// Every stall with a route was one of that route, in that task, on that thread; no handler was asleep oftener than it said
    /// it was. And none that slept was passed over, but for those of which pollwatch says why.
    #[track_caller]
    pub(crate) fn check(&self, scene: &Scene) {
        let stalls = scene.stalls();
        let metrics = scene.metrics();
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
                assert!(visits.contains_key(&who), "nobody was there: {who:?}\n{stall}");
                *asleep.entry(who).or_default() += 1;
            } else {
                // Kept from a CPU, maybe in another part of the request: it may have gone on on the other worker.
                let was_there = visits.keys().any(|(task, _, route)| (task, route) == (&who.0, &who.2));
                assert!(was_there, "nobody was there: {who:?}\n{stall}");
            }
        }
        for (who, asleep) in &asleep {
            assert!(*asleep <= visits[who].blocked, "{who:?} slept {} times, not {asleep}", visits[who].blocked);
        }

        // A request that is not counted as a stall: what it was part of was excused, was lost, or lay in a pause.
        let unseen = excused + lost + oversleeps * WORKERS as f64;
        for (route, blocked) in blocked.iter().filter(|(_, blocked)| **blocked > 0) {
            let counted = metrics.get("pollwatch_route_stalls_total", &[("route", route)]);
            assert!(
                counted + unseen >= *blocked as f64,
                "{route}: {counted} of {blocked} are counted, {unseen} excused"
            );
        }
        let (found, all) = (asleep.values().sum::<usize>(), blocked.values().sum::<usize>());
        println!("{found} of {all} were seen asleep, {excused} stalls excused, {lost} lost, {oversleeps} oversleeps");
        assert!(found > 0, "none of {all} was seen asleep: {stalls:#?}");
    }
}

fn is_asleep(stall: &Stall) -> bool {
    stall.cause == Cause::Syscall && stall.syscall.as_ref().is_some_and(|syscall| syscall.name.ends_with("nanosleep"))
}
