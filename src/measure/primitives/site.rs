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
    /// The locations that have an id. They are compared by content, because the compiler may make
    /// several `Location`s of one line (generics, codegen units).
    table: Mutex<Interner<&'static Location<'static>>>,
    /// The source file of pollwatch's own tasks, whose locations all are [`SiteId::OWN`].
    own_file: &'static str,
    /// The number of times that a location did not fit.
    overflowed: AtomicU64,
}

impl Sites {
    /// Makes a table for `max` sites beside `other`.
    pub(crate) fn new(max: usize, own_file: &'static str) -> Sites {
        Sites { table: Mutex::new(Interner::new(max)), own_file, overflowed: AtomicU64::new(0) }
    }

    /// Returns the id of a location, and gives it one if there is room; `other` where there is
    /// none.
    ///
    /// Any thread may call this. It takes a lock that all threads share, so that each thread caches
    /// the id.
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

    /// Returns the id of a location that has one, and gives it none otherwise; any thread.
    #[cfg(any(test, tokio_unstable))]
    pub(crate) fn find(&self, location: &'static Location<'static>) -> Option<SiteId> {
        lock(&self.table).find(location).map(|number| SiteId(number + 1))
    }

    /// Returns the site with an id; any thread.
    pub(crate) fn get(&self, id: SiteId) -> Site {
        Site::new(id.0.checked_sub(1).and_then(|number| lock(&self.table).key(number).copied()))
    }

    /// Returns how often a location did not fit. A location counts once for each thread that met
    /// it, not once for each poll.
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
        let locations: Vec<_> = [Location::caller(), Location::caller(), Location::caller()].into();
        let ids: Vec<_> = locations.iter().map(|location| sites.intern(location)).collect();
        assert_eq!(ids, [SiteId(1), SiteId(2), SiteId::OTHER]);
        assert_eq!(sites.intern(locations[1]), SiteId(2));
        assert_eq!(sites.find(locations[2]), None);
        assert_eq!(sites.overflowed(), 1);
        assert_eq!(sites.get(SiteId(1)).to_string(), locations[0].to_string());
        assert_eq!(sites.get(SiteId::OTHER).to_string(), "other");
    }
}
