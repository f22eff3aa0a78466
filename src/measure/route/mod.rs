//! Routes: the names that a service gives to its requests, interned and bounded in number, and what is counted of each.

#[cfg(feature = "tower")]
pub(crate) mod frame;
pub(crate) mod tally;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use crate::model::id::RouteId;

/// How far a name can be trusted to be one of the service's, and not one that a client made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
pub(crate) enum Proof {
    /// A router matched it, or the service answered it.
    Known,
    /// It came with a request that has not been answered.
    Claimed,
}

struct Table {
    ids: HashMap<Arc<str>, RouteId>,
    names: Vec<Arc<str>>,
    /// Of the names, those that are only claimed.
    claimed: usize,
}

/// The routes of one watchdog.
pub(crate) struct Routes {
    table: RwLock<Table>,
    max: usize,
    overflowed: AtomicU64,
}

/// `other` and `unmatched`.
const FIXED: usize = 2;

impl Routes {
    /// The most that `max_routes` may be.
    pub(crate) const MAX: usize = 10_000;
    /// A longer name is `other`.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    const MAX_NAME: usize = 256;

    pub(crate) fn new(max: usize) -> Routes {
        let names: Vec<Arc<str>> = vec!["other".into(), "unmatched".into()];
        let ids = [RouteId::OTHER, RouteId::UNMATCHED].into_iter().map(|id| (names[id.index()].clone(), id)).collect();
        Routes {
            table: RwLock::new(Table { ids, names, claimed: 0 }),
            max: max.min(Self::MAX),
            overflowed: AtomicU64::new(0),
        }
    }

    /// The id of a name, given at first sight as long as there is room. Names that clients may have made up get half of the
    /// room: a flood of them leaves the other half to the service's own. Takes a lock: callers keep the answer.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn intern(&self, name: &str, proof: Proof) -> RouteId {
        if name.is_empty() {
            return RouteId::UNMATCHED;
        }
        if name.len() > Self::MAX_NAME {
            return RouteId::OTHER;
        }
        // Nothing ever goes: what has no room now has none later, and a flood of names takes no lock that others wait for.
        let has_room = |table: &Table| {
            table.names.len() - FIXED < self.max && (proof == Proof::Known || table.claimed < self.max.div_ceil(2))
        };
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.ids.get(name) {
            Some(&id) => return id,
            None if !has_room(&table) => return RouteId::OTHER,
            None => drop(table),
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = table.ids.get(name) {
            return id;
        }
        let id = u16::try_from(table.names.len() + 1).ok().and_then(RouteId::from_bits);
        let Some(id) = id.filter(|_| has_room(&table)) else { return RouteId::OTHER };
        let name: Arc<str> = name.into();
        table.names.push(name.clone());
        table.ids.insert(name, id);
        table.claimed += usize::from(proof == Proof::Claimed);
        id
    }

    /// A route's name.
    pub(crate) fn name(&self, id: RouteId) -> Arc<str> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.names.get(id.index()).unwrap_or(&table.names[0]).clone()
    }

    /// Counts a request whose route did not fit.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn count_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests had a route that did not fit.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// How many there may be, with the fixed ones.
    pub(crate) fn capacity(&self) -> usize {
        self.max + FIXED
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
