//! The totals of stalls: counts and times, which never decrease.

use std::collections::HashMap;

use crate::model::cause::{Cause, Certainty};
use crate::model::event::StallOrigin;
use crate::model::id::{RouteId, RuntimeId, SiteId};
use crate::model::late_runtime::LateReason;
use crate::model::stall::Stall;
use crate::model::time::Nanos;

/// A number of stalls, and their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountAndTime {
    pub(crate) count: u64,
    pub(crate) time: Nanos,
}

impl CountAndTime {
    pub(crate) fn add(&mut self, count: u64, time: Nanos) {
        self.count += count;
        self.time += time;
    }
}

/// The totals of all stalls.
#[derive(Clone, Debug, Default)]
pub(crate) struct StallTotals {
    /// The stalls by runtime and cause.
    pub(crate) causes: HashMap<(RuntimeId, Cause), CountAndTime>,
    /// The measured stalls that their task caused, by runtime and site.
    pub(crate) sites: HashMap<(RuntimeId, SiteId), CountAndTime>,
    /// The requests that alone blocked a worker for the threshold or longer, by route.
    pub(crate) routes: HashMap<RouteId, CountAndTime>,
    /// The stalls in `sites` of tasks that were spawned under a route, by that route.
    pub(crate) spawned: HashMap<RouteId, CountAndTime>,
    /// The suspected stalls, by runtime. The other totals exclude them.
    pub(crate) suspected: HashMap<RuntimeId, CountAndTime>,
    /// The stalls of roots that occupy no worker, by runtime. The other totals exclude them.
    pub(crate) roots: HashMap<RuntimeId, CountAndTime>,
    /// The tasks that waited behind stalls, and the time that they waited, by runtime.
    pub(crate) victims: HashMap<RuntimeId, CountAndTime>,
    /// The reports of late runtimes, by runtime and reason.
    pub(crate) late: HashMap<(RuntimeId, LateReason), u64>,
}

/// The key under which a stall is counted, beside its cause, which changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallKey {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    pub(crate) parent_route: Option<RouteId>,
    pub(crate) certainty: Certainty,
    /// True for a root that occupies no worker.
    pub(crate) is_root: bool,
}

impl StallKey {
    pub(crate) fn new(origin: StallOrigin, stall: &Stall) -> StallKey {
        let StallOrigin { runtime, site, parent_route, .. } = origin;
        let is_root = stall.is_of_root();
        StallKey { runtime, site, parent_route, certainty: stall.certainty, is_root }
    }
}

impl StallTotals {
    /// Adds to all totals that include a stall, or its time, with this cause.
    pub(crate) fn add(&mut self, key: StallKey, cause: Cause, count: u64, time: Nanos) {
        if key.is_root {
            return self.roots.entry(key.runtime).or_default().add(count, time);
        }
        let of_runtime = match key.certainty {
            Certainty::Suspected => self.suspected.entry(key.runtime).or_default(),
            _ => self.causes.entry((key.runtime, cause)).or_default(),
        };
        of_runtime.add(count, time);
        if cause.is_blamed() {
            self.add_to_site(key, count, time);
        }
    }

    /// Adds time for which a task is to blame to the total of its site only.
    pub(crate) fn add_site_time(&mut self, key: StallKey, time: Nanos) {
        if time > Nanos::ZERO {
            self.add_to_site(key, 0, time);
        }
    }

    fn add_to_site(&mut self, key: StallKey, count: u64, time: Nanos) {
        // The site of a task that was not wrapped is unknown.
        if key.certainty == Certainty::Measured && !key.is_root {
            self.sites.entry((key.runtime, key.site)).or_default().add(count, time);
            if let Some(route) = key.parent_route {
                self.spawned.entry(route).or_default().add(count, time);
            }
        }
    }

    /// Adds a report of a late runtime.
    pub(crate) fn add_late(&mut self, runtime: RuntimeId, reason: LateReason) {
        *self.late.entry((runtime, reason)).or_default() += 1;
    }

    /// Adds tasks that waited behind a stall, and time that they waited.
    pub(crate) fn add_victims(&mut self, runtime: RuntimeId, count: u64, time: Nanos) {
        self.victims.entry(runtime).or_default().add(count, time);
    }

    /// Adds to the total of a route, for a request that alone was long enough.
    pub(crate) fn add_request(&mut self, route: RouteId, count: u64, time: Nanos) {
        self.routes.entry(route).or_default().add(count, time);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const RUNTIME: RuntimeId = RuntimeId(1);
    const KEY: StallKey = StallKey {
        runtime: RUNTIME,
        site: SiteId(1),
        parent_route: None,
        certainty: Certainty::Measured,
        is_root: false,
    };
    const ONE: CountAndTime = CountAndTime { count: 1, time: Nanos(500) };

    fn totals_of(key: StallKey, cause: Cause) -> StallTotals {
        let mut totals = StallTotals::default();
        totals.add(key, cause, 1, Nanos(500));
        totals
    }

    #[test]
    fn a_pause_is_counted_but_not_under_the_site() {
        let totals = totals_of(KEY, Cause::Paused);
        assert_eq!(totals.causes[&(RUNTIME, Cause::Paused)], ONE);
        assert!(totals.sites.is_empty());
    }

    #[test]
    fn a_stall_of_a_spawned_task_is_counted_under_its_site_and_its_route() {
        let route = RouteId::OTHER;
        let totals = totals_of(StallKey { parent_route: Some(route), ..KEY }, Cause::Cpu);
        assert_eq!((totals.sites[&(RUNTIME, SiteId(1))], totals.spawned[&route]), (ONE, ONE));
        let totals = totals_of(StallKey { parent_route: Some(route), ..KEY }, Cause::Starved);
        assert!(totals.spawned.is_empty());
    }

    #[test]
    fn observed_stalls_have_no_site_and_suspected_ones_are_apart() {
        let totals = totals_of(KEY, Cause::Cpu);
        assert_eq!((totals.causes[&(RUNTIME, Cause::Cpu)], totals.sites[&(RUNTIME, SiteId(1))]), (ONE, ONE));
        let totals = totals_of(StallKey { certainty: Certainty::Observed, ..KEY }, Cause::Cpu);
        assert_eq!((totals.causes[&(RUNTIME, Cause::Cpu)], totals.sites.len()), (ONE, 0));
        let totals = totals_of(StallKey { certainty: Certainty::Suspected, ..KEY }, Cause::Cpu);
        assert_eq!((totals.suspected[&RUNTIME], totals.causes.len(), totals.sites.len()), (ONE, 0, 0));
    }

    #[test]
    fn the_stalls_of_roots_are_in_no_figure_of_the_workers() {
        let totals = totals_of(StallKey { is_root: true, ..KEY }, Cause::Cpu);
        assert_eq!((totals.roots[&RUNTIME], totals.causes.len(), totals.sites.len()), (ONE, 0, 0));
    }
}
