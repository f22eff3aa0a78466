//! Routes: the names that a service gives to its requests, bounded in number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use crate::model::id::RouteId;
use crate::util::interner::Interner;

/// Returns the id of the interned name with this number; 0 is not a name.
fn route_of_number(number: u32) -> RouteId {
    u16::try_from(number + 1).ok().and_then(RouteId::from_bits).unwrap_or(RouteId::OTHER)
}

/// How far a name can be trusted to be the service's, and not made up by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
pub(crate) enum Proof {
    /// A router matched the request, or the service answered it.
    Known,
    /// The name came with a request that has not been answered.
    Claimed,
}

struct Table {
    names: Interner<Arc<str>>,
    /// How many of the names are only claimed.
    claimed: usize,
}

/// The routes of one watchdog.
pub(crate) struct Routes {
    table: RwLock<Table>,
    max: usize,
    overflowed: AtomicU64,
}

/// The names of [`RouteId::OTHER`] and [`RouteId::UNMATCHED`].
const FIXED: [&str; 2] = ["other", "unmatched"];

impl Routes {
    /// The highest value of `max_routes`.
    pub(crate) const MAX: usize = 10_000;
    /// The longest name in bytes. A longer one is `other`.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    const MAX_NAME: usize = 256;

    pub(crate) fn new(max: usize) -> Routes {
        let max = max.min(Self::MAX);
        let mut names = Interner::new(max + FIXED.len());
        // In the order of their ids.
        for name in FIXED {
            names.intern(name.into());
        }
        Routes { table: RwLock::new(Table { names, claimed: 0 }), max, overflowed: AtomicU64::new(0) }
    }

    /// Returns the id of a name, and gives it one if there is room. Names that clients may have made up
    /// get at most half of the ids: a flood of them leaves the other half to the service's own. Takes a
    /// lock: callers keep the answer.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn intern(&self, name: &str, proof: Proof) -> RouteId {
        if name.is_empty() {
            return RouteId::UNMATCHED;
        }
        if name.len() > Self::MAX_NAME {
            return RouteId::OTHER;
        }
        // Names are never removed: one that does not fit now does not fit later either. So a flood of
        // names takes no write lock.
        let has_room =
            |table: &Table| !table.names.is_full() && (proof == Proof::Known || table.claimed < self.max.div_ceil(2));
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.names.find(name) {
            Some(number) => return route_of_number(number),
            None if !has_room(&table) => return RouteId::OTHER,
            None => drop(table),
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.names.find(name) {
            return route_of_number(number);
        }
        if !has_room(&table) {
            return RouteId::OTHER;
        }
        let Some(number) = table.names.intern(name.into()) else { return RouteId::OTHER };
        table.claimed += usize::from(proof == Proof::Claimed);
        route_of_number(number)
    }

    /// Returns the name of a route.
    pub(crate) fn name(&self, id: RouteId) -> Arc<str> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let name = table.names.key(id.index() as u32).cloned();
        name.unwrap_or_else(|| FIXED[0].into())
    }

    /// Counts a request whose route did not fit.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn count_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests had a route that did not fit.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Returns the highest number of routes, `other` and `unmatched` included.
    pub(crate) fn capacity(&self) -> usize {
        self.max + FIXED.len()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn interns_up_to_the_bound() {
        let routes = Routes::new(2);
        let a = routes.intern("/a", Proof::Known);
        assert_eq!(routes.intern("/a", Proof::Claimed), a);
        assert_ne!(routes.intern("/b", Proof::Known), a);
        assert_eq!(routes.intern("/c", Proof::Known), RouteId::OTHER);
        assert_eq!((&*routes.name(a), &*routes.name(RouteId::OTHER)), ("/a", "other"));
        assert_eq!(routes.intern("", Proof::Known), RouteId::UNMATCHED);
        assert_eq!(RouteId::from_bits(RouteId::to_bits(Some(a))), Some(a));
        assert_eq!(RouteId::from_bits(RouteId::to_bits(None)), None);
    }

    #[test]
    fn a_flood_of_made_up_names_leaves_room_for_the_real_ones() {
        let routes = Routes::new(100);
        let fitted = (0..10_000).filter(|i| routes.intern(&format!("/{i}"), Proof::Claimed) != RouteId::OTHER).count();
        assert_eq!(fitted, 50);
        assert_eq!(routes.intern(&"long".repeat(100), Proof::Known), RouteId::OTHER);
        let real = (0..50).filter(|i| routes.intern(&format!("/real/{i}"), Proof::Known) != RouteId::OTHER).count();
        assert_eq!(real, 50);
    }
}
