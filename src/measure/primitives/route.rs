//! Routes: the names of the requests of a service, interned and bounded in number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use crate::model::id::RouteId;
use crate::util::interner::Interner;

/// Returns the id of the name with this number in the interner.
#[cfg(feature = "tower")]
fn route_of_number(number: u32) -> RouteId {
    u16::try_from(number + 1).ok().and_then(RouteId::from_bits).unwrap_or(RouteId::OTHER)
}

/// The evidence that a name is one of the service's, and not made up by a client.
#[cfg(feature = "tower")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameStatus {
    /// A router matched the request, or the service has answered it.
    Confirmed,
    /// The name was taken from a request that has not been answered.
    Unconfirmed,
}

/// The names that have an id.
struct NameTable {
    names: Interner<Arc<str>>,
    /// The number of the names that were interned as unconfirmed ones.
    #[cfg(feature = "tower")]
    unconfirmed: usize,
}

/// The routes of one watchdog.
pub(crate) struct Routes {
    table: RwLock<NameTable>,
    /// The highest number of names beside the fixed ones.
    max: usize,
    /// The number of requests whose route did not fit.
    overflowed: AtomicU64,
}

/// The names of [`RouteId::OTHER`] and [`RouteId::UNMATCHED`].
const FIXED_NAMES: [&str; 2] = ["other", "unmatched"];

impl Routes {
    /// The highest value of `max_routes`.
    pub(crate) const MAX: usize = 10_000;
    /// The length of the longest name that gets an id, in bytes. Longer names count as `other`.
    #[cfg(feature = "tower")]
    const MAX_NAME: usize = 256;

    /// Makes a table for `max` names, at most [`MAX`](Self::MAX), beside `other` and `unmatched`.
    pub(crate) fn new(max: usize) -> Routes {
        let max = max.min(Self::MAX);
        let mut names = Interner::new(max + FIXED_NAMES.len());
        // The fixed names have the first numbers, in the order of their ids.
        for name in FIXED_NAMES {
            names.intern(name.into());
        }
        let table = NameTable {
            names,
            #[cfg(feature = "tower")]
            unconfirmed: 0,
        };
        Routes { table: RwLock::new(table), max, overflowed: AtomicU64::new(0) }
    }

    /// Returns the id of a name, and gives it one if there is room; `other` where there is none.
    ///
    /// Unconfirmed names get at most half of the ids. However many names clients make up, the other
    /// half is left for confirmed ones. Any thread may call this. It takes a lock that all threads
    /// share, so that each thread caches the id.
    #[cfg(feature = "tower")]
    pub(crate) fn intern(&self, name: &str, status: NameStatus) -> RouteId {
        if name.is_empty() {
            return RouteId::UNMATCHED;
        }
        if name.len() > Self::MAX_NAME {
            return RouteId::OTHER;
        }
        // No name is ever removed, so that a name that does not fit now does not fit later either.
        // It is refused under the read lock, and a flood of names takes no write lock.
        let max_unconfirmed = self.max.div_ceil(2);
        let has_room = |table: &NameTable| {
            !table.names.is_full() && (status == NameStatus::Confirmed || table.unconfirmed < max_unconfirmed)
        };
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
        table.unconfirmed += usize::from(status == NameStatus::Unconfirmed);
        route_of_number(number)
    }

    /// Returns the name of a route. Any thread may call this; it takes the lock.
    pub(crate) fn name(&self, id: RouteId) -> Arc<str> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let name = table.names.key(id.index() as u32).cloned();
        name.unwrap_or_else(|| FIXED_NAMES[0].into())
    }

    /// Counts a request whose route did not fit; on any thread.
    #[cfg(feature = "tower")]
    pub(crate) fn count_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests had a route that did not fit.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Returns the highest number of routes, `other` and `unmatched` included.
    pub(crate) fn capacity(&self) -> usize {
        self.max + FIXED_NAMES.len()
    }
}

#[cfg(all(test, feature = "tower", not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, feature = "tower", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn interns_up_to_the_bound() {
        let routes = Routes::new(2);
        let a = routes.intern("/a", NameStatus::Confirmed);
        assert_eq!(routes.intern("/a", NameStatus::Unconfirmed), a);
        assert_ne!(routes.intern("/b", NameStatus::Confirmed), a);
        assert_eq!(routes.intern("/c", NameStatus::Confirmed), RouteId::OTHER);
        assert_eq!((&*routes.name(a), &*routes.name(RouteId::OTHER)), ("/a", "other"));
        assert_eq!(routes.intern("", NameStatus::Confirmed), RouteId::UNMATCHED);
        assert_eq!(RouteId::from_bits(RouteId::to_bits(Some(a))), Some(a));
        assert_eq!(RouteId::from_bits(RouteId::to_bits(None)), None);
    }

    #[test]
    fn a_flood_of_unconfirmed_names_leaves_room_for_confirmed_ones() {
        let routes = Routes::new(100);
        let fitted =
            (0..10_000).filter(|i| routes.intern(&format!("/{i}"), NameStatus::Unconfirmed) != RouteId::OTHER).count();
        assert_eq!(fitted, 50);
        assert_eq!(routes.intern(&"long".repeat(100), NameStatus::Confirmed), RouteId::OTHER);
        let confirmed = (0..50)
            .filter(|i| routes.intern(&format!("/confirmed/{i}"), NameStatus::Confirmed) != RouteId::OTHER)
            .count();
        assert_eq!(confirmed, 50);
    }
}
