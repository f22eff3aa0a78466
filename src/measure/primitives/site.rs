//! Sites: the locations where tasks are spawned and futures are wrapped.

use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crate::model::id::SiteId;
use crate::model::site::Site;
use crate::util::interner::Interner;
use crate::util::lock;

/// The sites of one watchdog, bounded in number.
pub(crate) struct Sites {
    /// The compiler makes several `Location`s of one line (generics, codegen units). Equal content
    /// is one site.
    table: Mutex<Interner<&'static Location<'static>>>,
    /// Tasks that are spawned in this file are pollwatch's own.
    own_file: &'static str,
    overflowed: AtomicU64,
}

impl Sites {
    pub(crate) fn new(max: usize, own_file: &'static str) -> Sites {
        Sites { table: Mutex::new(Interner::new(max)), own_file, overflowed: AtomicU64::new(0) }
    }

    /// Returns the id of a location, and gives it one if there is room. Takes a lock: callers keep
    /// the answer.
    pub(crate) fn intern(&self, location: &'static Location<'static>) -> SiteId {
        if location.file() == self.own_file {
            return SiteId::OWN;
        }
        let number = lock(&self.table).intern(location);
        number.map_or_else(
            || {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                SiteId::OTHER
            },
            |number| SiteId(number + 1),
        )
    }

    /// Returns the id of a location that has one.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) fn find(&self, location: &'static Location<'static>) -> Option<SiteId> {
        lock(&self.table).find(location).map(|number| SiteId(number + 1))
    }

    pub(crate) fn get(&self, id: SiteId) -> Site {
        Site::new(id.0.checked_sub(1).and_then(|number| lock(&self.table).key(number).copied()))
    }

    /// Returns how often a location did not fit: once for each thread and location, not for each
    /// poll.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn interns_up_to_the_bound() {
        let sites = Sites::new(2, "");
        let places: Vec<_> = [Location::caller(), Location::caller(), Location::caller()].into();
        let ids: Vec<_> = places.iter().map(|p| sites.intern(p)).collect();
        assert_eq!(ids, [SiteId(1), SiteId(2), SiteId::OTHER]);
        assert_eq!(sites.intern(places[1]), SiteId(2));
        assert_eq!(sites.find(places[2]), None);
        assert_eq!(sites.overflowed(), 1);
        assert_eq!(sites.get(SiteId(1)).to_string(), places[0].to_string());
        assert_eq!(sites.get(SiteId::OTHER).to_string(), "other");
    }
}
