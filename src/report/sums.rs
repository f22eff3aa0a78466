//! What stalls add up to: counts and times that only grow.

use std::collections::HashMap;

use crate::measure::route::RouteId;
use crate::measure::site::SiteId;
use crate::model::cause::{Cause, Certainty};

/// How many, and how long in all (nanoseconds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) count: u64,
    pub(crate) nanos: u64,
}

impl Amount {
    pub(crate) fn add(&mut self, count: u64, nanos: u64) {
        self.count += count;
        self.nanos += nanos;
    }
}

/// Sums by runtime and cause, and by runtime and site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) causes: HashMap<(u16, Cause), Amount>,
    pub(crate) sites: HashMap<(u16, SiteId), Amount>,
    /// By route: the requests that were long enough by themselves.
    pub(crate) routes: HashMap<RouteId, Amount>,
    /// By runtime: those that are only suspected, and in none of the others.
    pub(crate) suspected: HashMap<u16, Amount>,
}

/// What the sums are kept by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) runtime: u16,
    pub(crate) site: SiteId,
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
}

impl Sums {
    /// Adds to all that a stall counts in.
    pub(crate) fn add(&mut self, account: Account, count: u64, nanos: u64) {
        let of_runtime = match account.certainty {
            Certainty::Suspected => self.suspected.entry(account.runtime).or_default(),
            _ => self.causes.entry((account.runtime, account.cause)).or_default(),
        };
        of_runtime.add(count, nanos);
        // Nobody knows the place of a task that was not wrapped.
        if account.certainty == Certainty::Measured && account.cause.is_blamed() {
            self.sites.entry((account.runtime, account.site)).or_default().add(count, nanos);
        }
    }

    /// Adds of a request that was long enough by itself.
    pub(crate) fn add_request(&mut self, route: RouteId, count: u64, nanos: u64) {
        self.routes.entry(route).or_default().add(count, nanos);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const ACCOUNT: Account = Account { runtime: 1, site: SiteId(1), cause: Cause::Cpu, certainty: Certainty::Measured };
    const AMOUNT: Amount = Amount { count: 1, nanos: 500 };

    fn of(account: Account) -> Sums {
        let mut sums = Sums::default();
        sums.add(account, 1, 500);
        sums
    }

    #[test]
    fn a_pause_is_counted_but_not_under_the_site() {
        let sums = of(Account { cause: Cause::Paused, ..ACCOUNT });
        assert_eq!(sums.causes[&(1, Cause::Paused)], AMOUNT);
        assert!(sums.sites.is_empty());
    }

    #[test]
    fn what_is_known_from_outside_has_no_site_and_what_is_suspected_is_apart() {
        let sums = of(ACCOUNT);
        assert_eq!((sums.causes[&(1, Cause::Cpu)], sums.sites[&(1, SiteId(1))]), (AMOUNT, AMOUNT));
        let sums = of(Account { certainty: Certainty::Observed, ..ACCOUNT });
        assert_eq!((sums.causes[&(1, Cause::Cpu)], sums.sites.len()), (AMOUNT, 0));
        let sums = of(Account { certainty: Certainty::Suspected, ..ACCOUNT });
        assert_eq!((sums.suspected[&1], sums.causes.len(), sums.sites.len()), (AMOUNT, 0, 0));
    }
}
