//! One thread's share of the measuring floor.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use pollwatch_stack::{StackBounds, Tid};

use super::clock::Clock;
use super::ended::EndedRing;
use super::histogram::SLOW_NANOS;
use super::meter::Meter;
use super::placement::PlaceCache;
use super::route::tally::RouteTally;
#[cfg(feature = "tower")]
use super::route::{Proof, RouteId};
use super::runtime::Runtime;
use super::sampling::Sampling;
use super::site::SiteId;
use super::slot::{FrameCell, Slot, UNTIMED};
use super::spans;
use super::tally::{self, NO_CELL, Tally};
use super::wake::Wake;

mod local;

pub(crate) use local::*;

/// What a thread publishes. It writes, all others read.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) slot: Slot,
    pub(crate) tally: Tally,
    pub(crate) routes: RouteTally,
    pub(crate) ended: EndedRing,
    #[cfg_attr(not(feature = "spans"), allow(dead_code))]
    pub(crate) spans: spans::Published,
    clock: Clock,
    /// In nanoseconds.
    pub(crate) threshold: u64,
    /// Whatever is shorter is only counted: neither slow for the histogram nor for the watchdog. 0 with sampled timing.
    pub(crate) quick: u64,
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) route_histograms: bool,
    wake: Arc<Wake>,
    /// Unique within the watchdog, never reused.
    pub(crate) id: u64,
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) thread: ThreadId,
    pub(crate) name: Arc<str>,
    /// The kernel's thread id, where there is one.
    pub(crate) tid: Option<Tid>,
    /// How long it had been kept from a CPU in all when it was first measured, in nanoseconds.
    pub(crate) waited: u64,
    /// The thread's stack, where stacks can be taken.
    pub(crate) stack: Option<StackBounds>,
}

impl ThreadState {
    pub(crate) fn new(meter: &Meter, id: u64) -> ThreadState {
        let thread = std::thread::current();
        ThreadState {
            slot: Slot::new(),
            tally: Tally::new(meter.max_sites),
            routes: RouteTally::new(meter.routes.capacity()),
            ended: EndedRing::new(),
            spans: Default::default(),
            clock: meter.clock.clone(),
            threshold: meter.threshold,
            // Of those that are timed, when few are, each takes the longer way.
            quick: if meter.sampled { 0 } else { meter.threshold.min(SLOW_NANOS) },
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

    /// Publishes a frame; then, should the watchdog sleep, wakes it. Returns what [`Slot::push_poll`] does.
    ///
    /// The store of the frame may still be in this CPU's buffer when the flag is read. That is made safe from the other
    /// side: see [`Wake::fall_asleep`].
    #[inline(always)]
    pub(crate) fn push(&self, begin: u64, what: u64, task: u64, place: Option<u64>) -> u64 {
        self.push_poll(begin, what, task, place, &NO_CELL)
    }

    #[inline(always)]
    pub(crate) fn push_poll(&self, begin: u64, what: u64, task: u64, place: Option<u64>, cell: &tally::Cell) -> u64 {
        let number = self.slot.push_poll(begin, what, task, place, cell);
        compiler_fence(Ordering::SeqCst);
        self.wake.check();
        number
    }

    /// A reading of the clock.
    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// As [`now`](Self::now) and [`since`](Self::since), where nothing has to be called for it.
    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn quick_now(&self) -> Option<u64> {
        self.clock.quick_now()
    }

    #[inline(always)]
    pub(crate) fn quick_since(&self, begin: u64) -> Option<u64> {
        self.clock.quick_since(begin)
    }

    /// Nanoseconds since a reading.
    #[inline(always)]
    pub(crate) fn since(&self, begin: u64) -> u64 {
        self.clock.since(begin)
    }
}

/// A cell index that stands for pollwatch's own tasks: in no count, in no slot.
const OWN_CELL: u32 = u32::MAX;
/// A cell index that stands for a place where no task was ever seen to be spawned.
const UNKNOWN_CELL: u32 = u32::MAX - 1;

const CACHE: usize = 128;

/// Where a poll or a task comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// A spawn location, as the hooks tell it.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    Place(&'static Location<'static>),
    /// A site that a wrapper has interned.
    Site(SiteId),
}

impl Origin {
    /// In one word with a runtime (its [`salt`]); never 0. Those of locations are multiples of 8, as they are aligned; of sites, none is.
    #[inline(always)]
    fn key(self, salt: u64) -> u64 {
        let key = match self {
            Origin::Place(location) => std::ptr::from_ref(location) as u64,
            Origin::Site(site) => u64::from(site.0) << 3 | 1,
        };
        key ^ salt
    }
}

const _: () = assert!(align_of::<Location<'static>>() == 8 || size_of::<usize>() != 8);

/// What tells a runtime's origins from those of others: in the highest bits, which no address needs.
#[inline(always)]
pub(crate) const fn salt(runtime: u16) -> u64 {
    (runtime as u64) << 57
}

#[derive(Debug)]
struct Cached {
    /// 0 for none.
    key: Cell<u64>,
    /// Of the thread's own tally.
    cell: Cell<&'static tally::Cell>,
    /// What it says, so that this need not be waited for.
    what: Cell<u64>,
}

/// A thread's tie to one watchdog: its state, and its private table from origins to cells.
#[derive(Debug)]
pub(crate) struct Attached {
    meter_id: u64,
    meter: Weak<Meter>,
    pub(crate) state: Arc<ThreadState>,
    /// In here, not behind a pointer: each step to what a poll needs is waited for.
    cache: [Cached; CACHE],
    pub(crate) sampling: Sampling,
    cells: RefCell<HashMap<u64, u32>>,
    by_site: RefCell<HashMap<(SiteId, u16), u32>>,
    sites: RefCell<HashMap<usize, SiteId>>,
    #[cfg(feature = "tower")]
    routes: RefCell<HashMap<Box<str>, RouteId>>,
    /// How long a request took at once within another of its route, which has not ended: the same one, below two layers.
    #[cfg(feature = "tower")]
    pub(crate) within_request: Cell<Option<(RouteId, u64)>>,
    pub(crate) place: PlaceCache,
    /// The runtime of the last future that was resolved here: its id of tokio's (never used again), ours, and whether it is hooked.
    pub(crate) last_runtime: Cell<Option<(tokio::runtime::Id, u8, bool)>>,
    /// The last task that ended here, of a place where none was spawned so far.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) unplaced: Cell<u64>,
}

impl Attached {
    fn new(meter: &Arc<Meter>) -> Option<Attached> {
        let state = meter.register_thread()?;
        spans::tie(meter.id, &state);
        Some(Attached {
            meter_id: meter.id,
            meter: Arc::downgrade(meter),
            state,
            sampling: Sampling::new(meter.sampled),
            cache: std::array::from_fn(|_| Cached { key: Cell::new(0), cell: Cell::new(&NO_CELL), what: Cell::new(0) }),
            cells: RefCell::default(),
            by_site: RefCell::default(),
            sites: RefCell::default(),
            #[cfg(feature = "tower")]
            routes: RefCell::default(),
            #[cfg(feature = "tower")]
            within_request: Cell::default(),
            place: Default::default(),
            last_runtime: Cell::default(),
            unplaced: Cell::default(),
        })
    }

    /// Counts time that was meant to block.
    pub(crate) fn add_allowed(&self, reason: &'static str, began: u64, ended: u64) {
        if let Some(meter) = self.meter.upgrade() {
            meter.add_allowed(reason, meter.clock.delta(began, ended));
        }
    }

    pub(crate) fn runtime(&self, id: u16) -> Option<Arc<Runtime>> {
        self.meter.upgrade()?.runtimes.get(id)
    }

    /// The site of a place, interned at first sight.
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

    /// The id of a route. What is `other` now may have a name of its own later: it is not remembered, but asked for again.
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

    /// The cell of an origin, made at first sight; `None` for our own tasks.
    #[inline(always)]
    pub(crate) fn cell(&self, origin: Origin, runtime: u16) -> Option<&tally::Cell> {
        match self.cached(origin, salt(runtime)) {
            Some((cell, _)) => Some(cell),
            // By their kinds, so that the path that is taken does not put an `Origin` together.
            _ => match origin {
                Origin::Place(place) => self.cell_of_place(place, runtime),
                Origin::Site(site) => self.cell_of_wrapped(site, runtime),
            },
        }
    }

    /// As [`cell`](Self::cell), if it is at hand; with what it says.
    #[inline(always)]
    pub(crate) fn cached(&self, origin: Origin, salt: u64) -> Option<(&tally::Cell, u64)> {
        let entry = self.entry(origin);
        (entry.key.get() == origin.key(salt)).then(|| (entry.cell.get(), entry.what.get()))
    }

    #[cold]
    #[inline(never)]
    fn cell_of_place(&self, place: &'static Location<'static>, runtime: u16) -> Option<&tally::Cell> {
        self.find_and_cache(Origin::Place(place), runtime)
    }

    #[cold]
    #[inline(never)]
    fn cell_of_wrapped(&self, site: SiteId, runtime: u16) -> Option<&tally::Cell> {
        self.find_and_cache(Origin::Site(site), runtime)
    }

    /// The cell of an origin that was seen to spawn.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) fn known_cell(&self, origin: Origin, runtime: u16) -> Option<&tally::Cell> {
        self.state.tally.cell(self.find(origin, runtime, false))
    }

    /// Publishes the frame of a poll that is counted in `cell`, one of this thread's; reads the clock, if this one is timed. Returns
    /// what [`Slot::push_poll`] does.
    #[inline(always)]
    pub(crate) fn push_poll(&self, what: u64, task: u64, place: Option<u64>, cell: &tally::Cell) -> u64 {
        let begin = if self.sampling.is_due() { self.state.now() } else { UNTIMED };
        self.state.push_poll(begin, what, task, place, cell)
    }

    /// The cell that a poll is counted in, by its frame, which is one of this thread's.
    #[inline(always)]
    pub(crate) fn cell_of(&self, poll: &FrameCell) -> &tally::Cell {
        // SAFETY: `NO_CELL`, or one of this thread's cells (`push_poll`). They never move or go before the tally does, which
        // `self.state` holds.
        unsafe { &*poll.cell() }
    }

    /// By the origin alone: a thread polls one runtime, as a rule, and what is not looked up need not be waited for.
    #[inline(always)]
    fn entry(&self, origin: Origin) -> &Cached {
        &self.cache[(origin.key(0) >> 3) as usize % CACHE]
    }

    fn find_and_cache(&self, origin: Origin, runtime: u16) -> Option<&tally::Cell> {
        let cell = self.state.tally.cell(self.find(origin, runtime, true))?;
        // SAFETY: as in `cell_of`; what is cached is given out for as long as `self` is borrowed.
        let kept = unsafe { &*std::ptr::from_ref(cell) };
        let entry = self.entry(origin);
        entry.cell.set(kept);
        entry.what.set(kept.what());
        entry.key.set(origin.key(salt(runtime)));
        Some(cell)
    }

    fn find(&self, origin: Origin, runtime: u16, make: bool) -> u32 {
        let key = origin.key(salt(runtime));
        let known = self.cells.borrow().get(&key).copied();
        match known {
            Some(UNKNOWN_CELL) if make => {}
            Some(cell) => return cell,
            None => {}
        }
        let Some(meter) = self.meter.upgrade() else { return OWN_CELL };
        let site = match origin {
            Origin::Site(site) => Some(site),
            Origin::Place(location) if make => Some(meter.sites.intern(location)),
            Origin::Place(location) => meter.sites.find(location),
        };
        let cell = match site {
            None => UNKNOWN_CELL,
            Some(SiteId::OWN) => OWN_CELL,
            Some(site) => self.cell_of_site(site, runtime),
        };
        self.cells.borrow_mut().insert(key, cell);
        cell
    }

    fn cell_of_site(&self, site: SiteId, runtime: u16) -> u32 {
        let known = self.by_site.borrow().get(&(site, runtime)).copied();
        if let Some(cell) = known {
            return cell;
        }
        let cell = match self.state.tally.add_cell(runtime, site) {
            Some(cell) => cell,
            None if site == SiteId::OTHER => OWN_CELL,
            None => self.cell_of_site(SiteId::OTHER, runtime),
        };
        self.by_site.borrow_mut().insert((site, runtime), cell);
        cell
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(meter) = self.meter.upgrade() {
            meter.retire_thread(&self.state);
        }
    }
}
