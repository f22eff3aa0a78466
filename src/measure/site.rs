//! Sites: where tasks are spawned and futures are wrapped, interned by content and bounded in number.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crate::model::id::SiteId;
use crate::model::site::Site;
use crate::util::lock;

#[derive(Default)]
struct Table {
    /// The compiler makes several `Location`s of one place (generics, codegen units): equal content is one site.
    ids: HashMap<&'static Location<'static>, SiteId>,
    sites: Vec<&'static Location<'static>>,
}

/// The sites of one watchdog.
pub(crate) struct Sites {
    table: Mutex<Table>,
    max: usize,
    overflowed: AtomicU64,
}

impl Sites {
    pub(crate) fn new(max: usize) -> Sites {
        Sites { table: Mutex::default(), max, overflowed: AtomicU64::new(0) }
    }

    /// The id of a place, given at first sight. Takes a lock: callers keep the answer.
    pub(crate) fn intern(&self, location: &'static Location<'static>) -> SiteId {
        if location.file() == super::probe::FILE {
            return SiteId::OWN;
        }
        let mut table = lock(&self.table);
        if let Some(&id) = table.ids.get(location) {
            return id;
        }
        if table.sites.len() >= self.max {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return SiteId::OTHER;
        }
        table.sites.push(location);
        let id = SiteId(table.sites.len() as u32);
        table.ids.insert(location, id);
        id
    }

    /// The id of a place that is known already.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) fn find(&self, location: &'static Location<'static>) -> Option<SiteId> {
        lock(&self.table).ids.get(location).copied()
    }

    pub(crate) fn get(&self, id: SiteId) -> Site {
        let index = (id.0 as usize).wrapping_sub(1);
        Site::new(lock(&self.table).sites.get(index).copied())
    }

    /// How many times a thread met a place that did not fit (once a thread and place, not once a poll).
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
        let sites = Sites::new(2);
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
