//! A thread's private handle to one watchdog, with its map from spawn sites to counters.
//!
//! The map has two levels. A direct-mapped cache, inline in the handle, answers almost every poll
//! with one comparison. A hash map behind it has all spawn sites that the thread has met.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
#[cfg(tokio_unstable)]
use std::collections::HashSet;
use std::panic::Location;
use std::sync::{Arc, Weak};

use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters};
use crate::measure::entry::spans;
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::frame::{OwnershipRecord, PackedTag};
#[cfg(feature = "tower")]
use crate::measure::primitives::route::NameStatus;
#[cfg(any(feature = "tower", all(tokio_unstable, feature = "delays")))]
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::ownership::OwnershipCache;
use crate::measure::thread::ThreadState;
use crate::measure::thread::slot::FrameCell;
use crate::model::id::{FrameNumber, RuntimeId};

/// The number of entries of the cache.
const CACHE: usize = 128;

/// The location where a task was spawned, or a future wrapped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SpawnSite {
    /// A spawn location that a hook reports.
    #[cfg(tokio_unstable)]
    Location(&'static Location<'static>),
    /// A site that a wrapper has interned.
    Interned(SiteId),
}

impl SpawnSite {
    /// Returns the bits of the site, which are never 0. Locations are aligned, so that their bits
    /// are multiples of 8; those of interned sites are not.
    #[inline(always)]
    fn bits(self) -> u64 {
        match self {
            #[cfg(tokio_unstable)]
            SpawnSite::Location(location) => std::ptr::from_ref(location) as u64,
            SpawnSite::Interned(site) => u64::from(site.0) << 3 | 1,
        }
    }

    #[inline(always)]
    fn key(self, runtime: RuntimeKey) -> CountersKey {
        CountersKey(self.bits() ^ runtime.0)
    }
}

const _: () = assert!(align_of::<Location<'static>>() == 8 || size_of::<usize>() != 8);

/// The bits of a runtime in a [`CountersKey`]. They are the highest, which no address uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeKey(u64);

impl RuntimeKey {
    /// Returns the bits of a runtime.
    #[inline(always)]
    pub(crate) const fn of(runtime: RuntimeId) -> RuntimeKey {
        RuntimeKey((runtime.0 as u64) << 57)
    }
}

/// A spawn site and a runtime in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CountersKey(u64);

impl CountersKey {
    /// The key of an empty entry.
    const NONE: CountersKey = CountersKey(0);
}

/// An entry of the cache.
#[derive(Debug)]
struct CacheEntry {
    key: Cell<CountersKey>,
    /// Counters of the same thread.
    counters: Cell<&'static SiteCounters>,
    /// A copy of the tag in the counters, which saves the poll a dependent load.
    tag: Cell<PackedTag>,
}

/// The index of counters in the thread's table. A site has none if it is that of pollwatch's own
/// tasks, or if the table is full. Its polls have no frames then.
type CountersIndex = Option<u32>;

/// A runtime that was resolved on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolvedRuntime {
    /// tokio's id, which is never reused; `None` outside of any runtime.
    pub(crate) tokio_id: Option<tokio::runtime::Id>,
    pub(crate) id: RuntimeId,
    /// tokio's hooks see the tasks of the runtime.
    pub(crate) is_hooked: bool,
}

/// A thread's private handle to one watchdog: its state, and its map from spawn sites to counters.
#[derive(Debug)]
pub(crate) struct LocalHandle {
    pub(super) meter_id: u64,
    pub(super) meter: Weak<Meter>,
    pub(crate) state: Arc<ThreadState>,
    /// Inline, not behind a pointer, which saves the poll a dependent load.
    cache: [CacheEntry; CACHE],
    known: RefCell<HashMap<CountersKey, CountersIndex>>,
    /// The keys of locations that had no site when the end of a task was reported for them. They
    /// are not looked up again for that. A spawn adds them to `known`.
    #[cfg(tokio_unstable)]
    never_spawned: RefCell<HashSet<CountersKey>>,
    by_site: RefCell<HashMap<(SiteId, RuntimeId), CountersIndex>>,
    /// The sites of locations, by address.
    sites: RefCell<HashMap<usize, SiteId>>,
    #[cfg(feature = "tower")]
    routes: RefCell<HashMap<Box<str>, RouteId>>,
    pub(crate) ownership: OwnershipCache,
    /// The runtime of the last future that was resolved on this thread.
    pub(crate) last_runtime: Cell<Option<ResolvedRuntime>>,
    /// The route of the latest poll that has one, where delays are tracked.
    #[cfg(all(tokio_unstable, feature = "delays"))]
    pub(crate) poll_route: Cell<PollRoute>,
}

/// The routes that a poll belongs to.
#[cfg(all(tokio_unstable, feature = "delays"))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollRoute {
    /// The number of the poll's frame.
    pub(crate) poll: FrameNumber,
    /// The route of the first request that the poll works on.
    pub(crate) request: Option<RouteId>,
    /// The route under which the task was spawned. It is known for polls that were delayed for
    /// long.
    pub(crate) parent: Option<RouteId>,
}

impl LocalHandle {
    /// Registers the calling thread with a meter. Returns `None` when there are too many threads.
    pub(super) fn register(meter: &Arc<Meter>) -> Option<LocalHandle> {
        let state = meter.register_thread()?;
        spans::attach_to(&state, meter.id);
        Some(LocalHandle {
            meter_id: meter.id,
            meter: Arc::downgrade(meter),
            state,
            cache: std::array::from_fn(|_| CacheEntry {
                key: Cell::new(CountersKey::NONE),
                counters: Cell::new(&NO_COUNTERS),
                tag: Cell::default(),
            }),
            known: RefCell::default(),
            #[cfg(tokio_unstable)]
            never_spawned: RefCell::default(),
            by_site: RefCell::default(),
            sites: RefCell::default(),
            #[cfg(feature = "tower")]
            routes: RefCell::default(),
            ownership: Default::default(),
            last_runtime: Cell::default(),
            #[cfg(all(tokio_unstable, feature = "delays"))]
            poll_route: Cell::default(),
        })
    }

    /// Counts the time of a scope of allowed blocking, which ends now.
    pub(crate) fn count_allowed(&self, reason: &'static str, start: Ticks) {
        if let Some(meter) = self.meter.upgrade() {
            meter.count_allowed(reason, meter.clock.elapsed_since(start));
        }
    }

    /// Returns the runtime with an id, while the watchdog exists.
    pub(crate) fn runtime(&self, id: RuntimeId) -> Option<Arc<Runtime>> {
        self.meter.upgrade()?.runtimes.get(id)
    }

    /// Returns the site of a location, and interns it if it is new.
    pub(crate) fn site(&self, location: &'static Location<'static>) -> SiteId {
        let key = std::ptr::from_ref(location) as usize;
        let known = self.sites.borrow().get(&key).copied();
        if let Some(site) = known {
            return site;
        }
        let site = self.meter.upgrade().map_or(SiteId::OTHER, |meter| meter.sites.intern(location));
        self.sites.borrow_mut().insert(key, site);
        site
    }

    /// Returns the id of a route. `other` is not cached, because the name may get an id later.
    #[cfg(feature = "tower")]
    pub(crate) fn route(&self, meter: &Meter, name: &str, status: NameStatus) -> RouteId {
        let known = self.routes.borrow().get(name).copied();
        known.unwrap_or_else(|| {
            let route = meter.routes.intern(name, status);
            if route != RouteId::OTHER {
                self.routes.borrow_mut().insert(name.into(), route);
            }
            route
        })
    }

    /// Returns the counters of a spawn site, and makes them if it is new; `None` for pollwatch's
    /// own tasks.
    #[inline(always)]
    pub(crate) fn counters(&self, site: SpawnSite, runtime: RuntimeId) -> Option<&SiteCounters> {
        match self.cached(site, RuntimeKey::of(runtime)) {
            Some((counters, _)) => Some(counters),
            // One call for each kind, so that the fast path does not build a `SpawnSite` in memory.
            _ => match site {
                #[cfg(tokio_unstable)]
                SpawnSite::Location(location) => self.counters_of_location(location, runtime),
                SpawnSite::Interned(site) => self.counters_of_interned(site, runtime),
            },
        }
    }

    /// Returns the counters of a spawn site and their tag if they are in the cache.
    #[inline(always)]
    pub(crate) fn cached(&self, site: SpawnSite, runtime: RuntimeKey) -> Option<(&SiteCounters, PackedTag)> {
        let entry = self.entry(site);
        (entry.key.get() == site.key(runtime)).then(|| (entry.counters.get(), entry.tag.get()))
    }

    #[cfg(tokio_unstable)]
    #[cold]
    #[inline(never)]
    fn counters_of_location(&self, location: &'static Location<'static>, runtime: RuntimeId) -> Option<&SiteCounters> {
        self.find_and_cache(SpawnSite::Location(location), runtime)
    }

    #[cold]
    #[inline(never)]
    fn counters_of_interned(&self, site: SiteId, runtime: RuntimeId) -> Option<&SiteCounters> {
        self.find_and_cache(SpawnSite::Interned(site), runtime)
    }

    /// Returns the counters of a location if a task was spawned there before. The location is not
    /// interned.
    #[cfg(tokio_unstable)]
    pub(crate) fn existing_counters(
        &self,
        location: &'static Location<'static>,
        runtime: RuntimeId,
    ) -> Option<&SiteCounters> {
        let key = SpawnSite::Location(location).key(RuntimeKey::of(runtime));
        let known = self.known.borrow().get(&key).copied();
        let index = match known {
            Some(index) => index,
            None if self.never_spawned.borrow().contains(&key) => None,
            None => match self.meter.upgrade()?.sites.find(location) {
                Some(site) => self.add_known(key, site, runtime),
                None => {
                    self.never_spawned.borrow_mut().insert(key);
                    None
                }
            },
        };
        self.state.counters.get(index?)
    }

    /// Publishes the frame of a poll that starts now. `counters` are of this thread. Returns what
    /// [`Slot::push_poll`](super::slot::Slot::push_poll) does.
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        tag: PackedTag,
        task: TaskBits,
        ownership: Option<OwnershipRecord>,
        counters: &SiteCounters,
    ) -> FrameNumber {
        self.state.push_poll(self.state.now(), tag, task, ownership, counters)
    }

    /// Returns the counters of a poll, by its frame in this thread's slot.
    #[inline(always)]
    pub(crate) fn counters_of(&self, poll: &FrameCell) -> &SiteCounters {
        // SAFETY: the pointer is to `NO_COUNTERS`, or to counters of this thread (`push_poll`).
        // They stay where they are until the `ThreadCounters` are dropped, which `self.state` keeps
        // alive.
        unsafe { &*poll.counters() }
    }

    /// Returns the entry of a spawn site. The runtime is not part of the index: as a rule a thread
    /// polls one runtime, and this saves the poll a dependent load.
    #[inline(always)]
    fn entry(&self, site: SpawnSite) -> &CacheEntry {
        &self.cache[(site.bits() >> 3) as usize % CACHE]
    }

    fn find_and_cache(&self, site: SpawnSite, runtime: RuntimeId) -> Option<&SiteCounters> {
        let key = site.key(RuntimeKey::of(runtime));
        let known = self.known.borrow().get(&key).copied();
        let index = match known {
            Some(index) => index,
            None => {
                #[cfg(tokio_unstable)]
                let site = match site {
                    SpawnSite::Location(location) => self.meter.upgrade()?.sites.intern(location),
                    SpawnSite::Interned(site) => site,
                };
                #[cfg(not(tokio_unstable))]
                let SpawnSite::Interned(site) = site;
                self.add_known(key, site, runtime)
            }
        };
        let counters = self.state.counters.get(index?)?;
        // SAFETY: as in `counters_of`. `cached` returns the reference only for as long as `self` is
        // borrowed.
        let kept = unsafe { &*std::ptr::from_ref(counters) };
        let entry = self.entry(site);
        entry.counters.set(kept);
        entry.tag.set(kept.tag());
        entry.key.set(key);
        Some(counters)
    }

    /// Adds a spawn site to the hash map.
    fn add_known(&self, key: CountersKey, site: SiteId, runtime: RuntimeId) -> CountersIndex {
        let index = if site == SiteId::OWN { None } else { self.index_of_site(site, runtime) };
        self.known.borrow_mut().insert(key, index);
        index
    }

    /// Returns the index of a site's counters, and makes them if they are new. Two locations may be
    /// the same site: `other`.
    fn index_of_site(&self, site: SiteId, runtime: RuntimeId) -> CountersIndex {
        let known = self.by_site.borrow().get(&(site, runtime)).copied();
        if let Some(index) = known {
            return index;
        }
        let index = match self.state.counters.create(runtime, site) {
            Some(index) => Some(index),
            None if site == SiteId::OTHER => None,
            None => self.index_of_site(SiteId::OTHER, runtime),
        };
        self.by_site.borrow_mut().insert((site, runtime), index);
        index
    }
}

impl Drop for LocalHandle {
    fn drop(&mut self) {
        if let Some(meter) = self.meter.upgrade() {
            meter.retire_thread(&self.state);
        }
    }
}
