//! The totals of stalls: counts and times, which never decrease.

use std::collections::HashMap;

use crate::model::cause::{Cause, Certainty};
use crate::model::event::StallOrigin;
use crate::model::id::{RouteId, RuntimeId, SiteId};
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
    /// The suspected stalls, by runtime. The other totals exclude them.
    pub(crate) suspected: HashMap<RuntimeId, CountAndTime>,
}

/// The key under which a stall is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallKey {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
}

impl StallKey {
    pub(crate) fn new(origin: StallOrigin, stall: &Stall) -> StallKey {
        let StallOrigin { runtime, site, .. } = origin;
        StallKey { runtime, site, cause: stall.cause, certainty: stall.certainty }
    }
}

impl StallTotals {
    /// Adds to all totals that include the stall.
    pub(crate) fn add(&mut self, key: StallKey, count: u64, time: Nanos) {
        let of_runtime = match key.certainty {
            Certainty::Suspected => self.suspected.entry(key.runtime).or_default(),
            _ => self.causes.entry((key.runtime, key.cause)).or_default(),
        };
        of_runtime.add(count, time);
        // The site of a task that was not wrapped is unknown.
        if key.certainty == Certainty::Measured && key.cause.is_blamed() {
            self.sites.entry((key.runtime, key.site)).or_default().add(count, time);
        }
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
    const KEY: StallKey =
        StallKey { runtime: RUNTIME, site: SiteId(1), cause: Cause::Cpu, certainty: Certainty::Measured };
    const ONE: CountAndTime = CountAndTime { count: 1, time: Nanos(500) };

    fn totals_of(key: StallKey) -> StallTotals {
        let mut totals = StallTotals::default();
        totals.add(key, 1, Nanos(500));
        totals
    }

    #[test]
    fn a_pause_is_counted_but_not_under_the_site() {
        let totals = totals_of(StallKey { cause: Cause::Paused, ..KEY });
        assert_eq!(totals.causes[&(RUNTIME, Cause::Paused)], ONE);
        assert!(totals.sites.is_empty());
    }

    #[test]
    fn observed_stalls_have_no_site_and_suspected_ones_are_apart() {
        let totals = totals_of(KEY);
        assert_eq!((totals.causes[&(RUNTIME, Cause::Cpu)], totals.sites[&(RUNTIME, SiteId(1))]), (ONE, ONE));
        let totals = totals_of(StallKey { certainty: Certainty::Observed, ..KEY });
        assert_eq!((totals.causes[&(RUNTIME, Cause::Cpu)], totals.sites.len()), (ONE, 0));
        let totals = totals_of(StallKey { certainty: Certainty::Suspected, ..KEY });
        assert_eq!((totals.suspected[&RUNTIME], totals.causes.len(), totals.sites.len()), (ONE, 0, 0));
    }
}
