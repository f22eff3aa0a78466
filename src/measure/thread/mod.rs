//! The state of one measured thread, and the thread's private handle to it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::Location;
#[cfg(feature = "spans")]
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use pollwatch_stack::{StackBounds, Tid};

use crate::measure::counters::routes::ThreadRouteCounters;
use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters, ThreadCounters};
use crate::measure::entry::spans;
use crate::measure::primitives::clock::{Clock, Ticks};
use crate::measure::primitives::frame::{OwnershipRecord, PackedTag};
use crate::measure::primitives::histogram::SLOW;
#[cfg(feature = "tower")]
use crate::measure::primitives::route::{Proof, RouteId};
use crate::measure::primitives::site::SiteId;
#[cfg(feature = "spans")]
use crate::measure::primitives::span_slot::SpanSlot;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::ownership::OwnershipCache;
use crate::measure::thread::slot::{FrameCell, Slot};
use crate::measure::thread::slow_polls::SlowPollRing;
use crate::model::id::{FrameNumber, RuntimeId};
use crate::model::time::Nanos;

mod local;
pub(crate) mod slot;
pub(crate) mod slow_polls;

pub(crate) use local::*;

/// What a thread publishes. The thread writes it, any thread reads it.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) slot: Slot,
    pub(crate) counters: ThreadCounters,
    pub(crate) routes: ThreadRouteCounters,
    pub(crate) slow_polls: SlowPollRing,
    /// The thread's span slot, from its first span on.
    #[cfg(feature = "spans")]
    pub(crate) spans: OnceLock<Arc<SpanSlot>>,
    clock: Clock,
    pub(crate) threshold: Nanos,
    /// The duration from which a poll takes the slow path at its end. Shorter ones are only counted:
    /// they are slow neither for the histogram's exact buckets nor for the watchdog.
    pub(crate) fast_limit: Nanos,
    #[cfg(feature = "tower")]
    pub(crate) route_histograms: bool,
    wake: Arc<Wake>,
    /// Unique within the watchdog, never reused.
    pub(crate) id: u64,
    pub(crate) thread: ThreadId,
    pub(crate) name: Arc<str>,
    /// The kernel's thread id, where there is one.
    pub(crate) tid: Option<Tid>,
    /// The thread's run delay when it was first measured, in nanoseconds.
    pub(crate) waited: u64,
    /// The thread's stack, where stacks can be taken.
    pub(crate) stack: Option<StackBounds>,
}

impl ThreadState {
    pub(crate) fn new(meter: &Meter, id: u64) -> ThreadState {
        let thread = std::thread::current();
        ThreadState {
            slot: Slot::new(),
            counters: ThreadCounters::new(meter.max_sites),
            routes: ThreadRouteCounters::new(meter.routes.capacity()),
            slow_polls: SlowPollRing::new(),
            #[cfg(feature = "spans")]
            spans: OnceLock::new(),
            clock: meter.clock.clone(),
            threshold: Nanos(meter.threshold),
            fast_limit: Nanos(meter.threshold).min(SLOW),
            #[cfg(feature = "tower")]
            route_histograms: meter.route_histograms,
            wake: meter.wake.clone(),
            id,
            thread: thread.id(),
            name: thread.name().unwrap_or("unnamed").into(),
            tid: Tid::current(),
            waited: crate::sys::OwnRunDelay::open().nanos().unwrap_or(0),
            stack: StackBounds::current(),
        }
    }

    /// Publishes a frame that is counted nowhere, otherwise like [`push_poll`](Self::push_poll).
    #[inline(always)]
    pub(crate) fn push(&self, start: Ticks, tag: PackedTag) -> FrameNumber {
        self.push_poll(start, tag, TaskBits::NONE, None, &NO_COUNTERS)
    }

    /// Publishes the frame of a poll, and wakes the watchdog if it sleeps. Returns what
    /// [`Slot::push_poll`] does.
    ///
    /// The store of the frame may still be in this CPU's store buffer when the flag is read. The
    /// watchdog makes up for that: see [`Wake::fall_asleep`].
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        start: Ticks,
        tag: PackedTag,
        task: TaskBits,
        ownership: Option<OwnershipRecord>,
        counters: &SiteCounters,
    ) -> FrameNumber {
        let number = self.slot.push_poll(start, tag, task, ownership, counters);
        compiler_fence(Ordering::SeqCst);
        self.wake.check();
        number
    }

    /// Reads the clock.
    #[inline(always)]
    pub(crate) fn now(&self) -> Ticks {
        self.clock.now()
    }

    /// Reads the clock where that takes no call; `None` elsewhere.
    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn fast_now(&self) -> Option<Ticks> {
        self.clock.fast_now()
    }

    /// Returns the time since a reading where that takes no call; `None` elsewhere.
    #[inline(always)]
    pub(crate) fn fast_since(&self, start: Ticks) -> Option<Nanos> {
        self.clock.fast_since(start)
    }

    /// Returns the time since a reading.
    #[inline(always)]
    pub(crate) fn since(&self, start: Ticks) -> Nanos {
        self.clock.since(start)
    }
}

/// The index in place of counters for pollwatch's own tasks, which are in no count and in no slot.
const OWN_CELL: u32 = u32::MAX;
/// The index in place of counters for a location where no task was spawned so far.
const UNKNOWN_CELL: u32 = u32::MAX - 1;

const CACHE: usize = 128;

/// The location where a task was spawned, or a future wrapped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SpawnSite {
    /// A spawn location that a hook reports.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
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
            SpawnSite::Location(location) => std::ptr::from_ref(location) as u64,
            SpawnSite::Interned(site) => u64::from(site.0) << 3 | 1,
        }
    }

    #[inline(always)]
    fn key(self, runtime: RuntimeTag) -> CountersKey {
        CountersKey(self.bits() ^ runtime.0)
    }
}

/// A spawn site and a runtime in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CountersKey(u64);

impl CountersKey {
    /// The key of an empty entry.
    const NONE: CountersKey = CountersKey(0);
}

const _: () = assert!(align_of::<Location<'static>>() == 8 || size_of::<usize>() != 8);

/// The bits that distinguish the keys of a runtime from those of others. They are the highest, which
/// no address uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeTag(u64);

impl RuntimeTag {
    #[inline(always)]
    pub(crate) const fn of(runtime: RuntimeId) -> RuntimeTag {
        RuntimeTag((runtime.0 as u64) << 57)
    }
}

/// An entry of the direct-mapped cache from spawn sites to counters.
#[derive(Debug)]
struct CacheEntry {
    key: Cell<CountersKey>,
    /// Counters of the same thread.
    counters: Cell<&'static SiteCounters>,
    /// A copy of the tag in the counters, which saves the poll a dependent load.
    tag: Cell<PackedTag>,
}

/// A thread's private handle to one watchdog: its state, and its table from spawn sites to
/// counters.
#[derive(Debug)]
pub(crate) struct LocalHandle {
    meter_id: u64,
    meter: Weak<Meter>,
    pub(crate) state: Arc<ThreadState>,
    /// Inline, not behind a pointer, which saves the poll a dependent load.
    cache: [CacheEntry; CACHE],
    cells: RefCell<HashMap<CountersKey, u32>>,
    by_site: RefCell<HashMap<(SiteId, RuntimeId), u32>>,
    sites: RefCell<HashMap<usize, SiteId>>,
    #[cfg(feature = "tower")]
    routes: RefCell<HashMap<Box<str>, RouteId>>,
    pub(crate) ownership: OwnershipCache,
    /// The runtime of the last future that was resolved here: tokio's id (which is never reused),
    /// pollwatch's id, and whether it has task hooks.
    pub(crate) last_runtime: Cell<Option<(tokio::runtime::Id, RuntimeId, bool)>>,
    /// The last task whose end was reported here, at a location where no task was spawned so far.
    /// On a runtime that is shut down, tokio reports a task's end before its spawn.
    #[cfg(tokio_unstable)]
    pub(crate) ended_before_spawn: Cell<TaskBits>,
}

impl LocalHandle {
    fn new(meter: &Arc<Meter>) -> Option<LocalHandle> {
        let state = meter.register_thread()?;
        spans::hand_over(meter.id, &state);
        Some(LocalHandle {
            meter_id: meter.id,
            meter: Arc::downgrade(meter),
            state,
            cache: std::array::from_fn(|_| CacheEntry {
                key: Cell::new(CountersKey::NONE),
                counters: Cell::new(&NO_COUNTERS),
                tag: Cell::default(),
            }),
            cells: RefCell::default(),
            by_site: RefCell::default(),
            sites: RefCell::default(),
            #[cfg(feature = "tower")]
            routes: RefCell::default(),
            ownership: Default::default(),
            last_runtime: Cell::default(),
            #[cfg(tokio_unstable)]
            ended_before_spawn: Cell::default(),
        })
    }

    /// Counts the time of a scope of allowed blocking.
    pub(crate) fn count_allowed(&self, reason: &'static str, start: Ticks, end: Ticks) {
        if let Some(meter) = self.meter.upgrade() {
            meter.count_allowed(reason, meter.clock.delta(start, end));
        }
    }

    pub(crate) fn runtime(&self, id: RuntimeId) -> Option<Arc<Runtime>> {
        self.meter.upgrade()?.runtimes.get(id)
    }

    /// Returns the site of a location, and interns it if it is new.
    pub(crate) fn site(&self, place: &'static Location<'static>) -> SiteId {
        let key = std::ptr::from_ref(place) as usize;
        let known = self.sites.borrow().get(&key).copied();
        if let Some(site) = known {
            return site;
        }
        let site = self.meter.upgrade().map_or(SiteId::OTHER, |meter| meter.sites.intern(place));
        self.sites.borrow_mut().insert(key, site);
        site
    }

    /// Returns the id of a route. `other` is not cached, because the name may get an id later.
    #[cfg(feature = "tower")]
    pub(crate) fn route(&self, meter: &Meter, name: &str, proof: Proof) -> RouteId {
        let known = self.routes.borrow().get(name).copied();
        known.unwrap_or_else(|| {
            let route = meter.routes.intern(name, proof);
            if route != RouteId::OTHER {
                self.routes.borrow_mut().insert(name.into(), route);
            }
            route
        })
    }

    /// Returns the counters of a spawn site, and makes them if it is new; `None` for pollwatch's
    /// own tasks.
    #[inline(always)]
    pub(crate) fn cell(&self, site: SpawnSite, runtime: RuntimeId) -> Option<&SiteCounters> {
        match self.cached(site, RuntimeTag::of(runtime)) {
            Some((cell, _)) => Some(cell),
            // One call for each kind, so that the fast path does not build a `SpawnSite` in memory.
            _ => match site {
                SpawnSite::Location(place) => self.cell_of_place(place, runtime),
                SpawnSite::Interned(site) => self.cell_of_wrapped(site, runtime),
            },
        }
    }

    /// Returns the counters of a spawn site and their tag if they are in the cache.
    #[inline(always)]
    pub(crate) fn cached(&self, site: SpawnSite, runtime: RuntimeTag) -> Option<(&SiteCounters, PackedTag)> {
        let entry = self.entry(site);
        (entry.key.get() == site.key(runtime)).then(|| (entry.counters.get(), entry.tag.get()))
    }

    #[cold]
    #[inline(never)]
    fn cell_of_place(&self, place: &'static Location<'static>, runtime: RuntimeId) -> Option<&SiteCounters> {
        self.find_and_cache(SpawnSite::Location(place), runtime)
    }

    #[cold]
    #[inline(never)]
    fn cell_of_wrapped(&self, site: SiteId, runtime: RuntimeId) -> Option<&SiteCounters> {
        self.find_and_cache(SpawnSite::Interned(site), runtime)
    }

    /// Returns the counters of a spawn site where a task was spawned before.
    #[cfg(tokio_unstable)]
    pub(crate) fn known_cell(&self, site: SpawnSite, runtime: RuntimeId) -> Option<&SiteCounters> {
        self.state.counters.get(self.find(site, runtime, false))
    }

    /// Publishes the frame of a poll that starts now. `cell` are counters of this thread. Returns
    /// what [`Slot::push_poll`] does.
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
    pub(crate) fn cell_of(&self, poll: &FrameCell) -> &SiteCounters {
        // SAFETY: the pointer is to `NO_COUNTERS`, or to counters of this thread (`push_poll`).
        // Those neither move nor go before the `ThreadCounters`, which `self.state` keeps alive.
        unsafe { &*poll.counters() }
    }

    /// Returns the entry of a spawn site. The runtime is not part of the index: a thread polls one
    /// runtime, as a rule, and this saves the poll a dependent load.
    #[inline(always)]
    fn entry(&self, site: SpawnSite) -> &CacheEntry {
        &self.cache[(site.bits() >> 3) as usize % CACHE]
    }

    fn find_and_cache(&self, site: SpawnSite, runtime: RuntimeId) -> Option<&SiteCounters> {
        let cell = self.state.counters.get(self.find(site, runtime, true))?;
        // SAFETY: as in `cell_of`; cached counters are lent only for as long as `self` is borrowed.
        let kept = unsafe { &*std::ptr::from_ref(cell) };
        let entry = self.entry(site);
        entry.counters.set(kept);
        entry.tag.set(kept.tag());
        entry.key.set(site.key(RuntimeTag::of(runtime)));
        Some(cell)
    }

    fn find(&self, site: SpawnSite, runtime: RuntimeId, make: bool) -> u32 {
        let key = site.key(RuntimeTag::of(runtime));
        let known = self.cells.borrow().get(&key).copied();
        match known {
            Some(UNKNOWN_CELL) if make => {}
            Some(cell) => return cell,
            None => {}
        }
        let Some(meter) = self.meter.upgrade() else { return OWN_CELL };
        let site = match site {
            SpawnSite::Interned(site) => Some(site),
            SpawnSite::Location(location) if make => Some(meter.sites.intern(location)),
            SpawnSite::Location(location) => meter.sites.find(location),
        };
        let cell = match site {
            None => UNKNOWN_CELL,
            Some(SiteId::OWN) => OWN_CELL,
            Some(site) => self.cell_of_site(site, runtime),
        };
        self.cells.borrow_mut().insert(key, cell);
        cell
    }

    fn cell_of_site(&self, site: SiteId, runtime: RuntimeId) -> u32 {
        let known = self.by_site.borrow().get(&(site, runtime)).copied();
        if let Some(cell) = known {
            return cell;
        }
        let cell = match self.state.counters.create(runtime, site) {
            Some(cell) => cell,
            None if site == SiteId::OTHER => OWN_CELL,
            None => self.cell_of_site(SiteId::OTHER, runtime),
        };
        self.by_site.borrow_mut().insert((site, runtime), cell);
        cell
    }
}

impl Drop for LocalHandle {
    fn drop(&mut self) {
        if let Some(meter) = self.meter.upgrade() {
            meter.retire_thread(&self.state);
        }
    }
}
