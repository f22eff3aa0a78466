//! What one thread counts of each pair of runtime and site, and a histogram for each runtime. The
//! owning thread is the only writer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::measure::primitives::frame::{FrameKind, FrameTag, MAX_RUNTIMES, PackedTag};
use crate::measure::primitives::histogram::{Histogram, HistogramTotals};
use crate::measure::primitives::site::SiteId;
use crate::model::id::RuntimeId;
use crate::sync::add_single_writer as add;

const CHUNK: usize = 64;

/// The events that are counted besides polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Spawned,
    Terminated,
    Completed,
    Cancelled,
    Panicked,
    /// A wrapper's future was polled for the first time, or spawned. It will have an outcome.
    Watched,
}

const EVENTS: usize = 6;

/// The counters of one pair of runtime and site on one thread. The fields that a poll uses come
/// first, in one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct SiteCounters {
    polls: AtomicU64,
    busy: AtomicU64,
    max: AtomicU64,
    /// The runtime, and the index of these counters, packed as in [`FrameTag`].
    tag: AtomicU64,
    /// The histogram of the runtime on this thread.
    histogram: OnceLock<Arc<Histogram>>,
    site: AtomicU32,
    events: [AtomicU64; EVENTS],
}

/// Counters that stand for none. Nothing is counted in them.
pub(crate) static NO_COUNTERS: SiteCounters = SiteCounters::new();

impl SiteCounters {
    const fn new() -> SiteCounters {
        SiteCounters {
            polls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            max: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            site: AtomicU32::new(0),
            histogram: OnceLock::new(),
            events: [const { AtomicU64::new(0) }; EVENTS],
        }
    }

    /// Counts one poll, also in the histogram of its runtime; the owning thread only.
    pub(crate) fn poll(&self, nanos: u64) {
        if let Some(histogram) = self.histogram.get() {
            histogram.record(nanos);
        }
        self.count(nanos);
    }

    /// As [`poll`](Self::poll), of one below
    /// [`SLOW_NANOS`](crate::measure::primitives::histogram::SLOW_NANOS).
    #[inline(always)]
    pub(crate) fn fast_poll(&self, nanos: u64) {
        if let Some(histogram) = self.histogram.get() {
            histogram.record_fast(nanos);
        }
        self.count(nanos);
    }

    #[inline(always)]
    fn count(&self, nanos: u64) {
        add(&self.polls, 1);
        self.part(nanos);
    }

    /// Counts the time of a part of a poll that is not measured as a whole.
    #[inline(always)]
    pub(crate) fn part(&self, nanos: u64) {
        add(&self.busy, nanos);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.store(nanos, Ordering::Relaxed);
        }
    }

    /// Counts one event; the owning thread only.
    #[inline]
    pub(crate) fn event(&self, event: Event) {
        add(&self.events[event as usize], 1);
    }

    /// Returns the runtime and the index, in the bits that a frame's tag has for them.
    #[inline]
    pub(crate) fn tag(&self) -> PackedTag {
        PackedTag(self.tag.load(Ordering::Relaxed))
    }

    fn key(&self) -> (RuntimeId, SiteId) {
        (self.tag().unpack().runtime, self.site())
    }

    pub(crate) fn site(&self) -> SiteId {
        SiteId(self.site.load(Ordering::Relaxed))
    }
}

/// A sum of counters, as plain numbers; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) polls: u64,
    pub(crate) busy: u64,
    pub(crate) max: u64,
    events: [u64; EVENTS],
}

impl Totals {
    pub(crate) fn event(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    pub(crate) fn merge(&mut self, other: &Totals) {
        self.polls += other.polls;
        self.busy += other.busy;
        self.max = self.max.max(other.max);
        for (sum, n) in self.events.iter_mut().zip(other.events) {
            *sum += n;
        }
    }

    fn add(&mut self, cell: &SiteCounters) {
        self.merge(&Totals {
            polls: cell.polls.load(Ordering::Relaxed),
            busy: cell.busy.load(Ordering::Relaxed),
            max: cell.max.load(Ordering::Relaxed),
            events: std::array::from_fn(|i| cell.events[i].load(Ordering::Relaxed)),
        });
    }
}

/// The sums of all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) cells: HashMap<(RuntimeId, SiteId), Totals>,
    pub(crate) polls: HashMap<RuntimeId, HistogramTotals>,
}

/// The counters of one thread.
#[derive(Debug)]
pub(crate) struct ThreadCounters {
    chunks: Box<[OnceLock<Box<[SiteCounters; CHUNK]>>]>,
    used: AtomicU32,
    histograms: [OnceLock<Arc<Histogram>>; MAX_RUNTIMES],
}

impl ThreadCounters {
    /// Makes a table for `max_sites` sites and the `other` of each runtime.
    pub(crate) fn new(max_sites: usize) -> ThreadCounters {
        let chunks = (max_sites + MAX_RUNTIMES).div_ceil(CHUNK) + 1;
        ThreadCounters {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            used: AtomicU32::new(0),
            histograms: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Makes counters and returns their index; the owning thread only. Returns `None` when only
    /// those for `other` are left.
    pub(crate) fn add_cell(&self, runtime: RuntimeId, site: SiteId) -> Option<u32> {
        let index = self.used.load(Ordering::Relaxed);
        let spare = if site == SiteId::OTHER { 0 } else { MAX_RUNTIMES };
        if index as usize + spare >= self.chunks.len() * CHUNK {
            return None;
        }
        let chunk =
            self.chunks[index as usize / CHUNK].get_or_init(|| Box::new([const { SiteCounters::new() }; CHUNK]));
        let cell = &chunk[index as usize % CHUNK];
        let tag = FrameTag { kind: FrameKind::Task, runtime, route: None, index };
        cell.tag.store(tag.pack().0, Ordering::Relaxed);
        cell.site.store(site.0, Ordering::Relaxed);
        let histogram = self.histograms[runtime.index() % MAX_RUNTIMES].get_or_init(|| Arc::new(Histogram::new()));
        let _ = cell.histogram.set(histogram.clone());
        self.used.store(index + 1, Ordering::Release);
        Some(index)
    }

    #[inline]
    pub(crate) fn cell(&self, index: u32) -> Option<&SiteCounters> {
        Some(&self.chunks.get(index as usize / CHUNK)?.get()?[index as usize % CHUNK])
    }

    /// Calls `f` with the number of an event by runtime and site, where it is not 0; any thread.
    pub(crate) fn each(&self, event: Event, mut f: impl FnMut((RuntimeId, SiteId), u64)) {
        for index in 0..self.used.load(Ordering::Acquire) {
            if let Some(cell) = self.cell(index)
                && let n @ 1.. = cell.events[event as usize].load(Ordering::Relaxed)
            {
                f(cell.key(), n);
            }
        }
    }

    /// Adds all counters to `sum`; any thread.
    pub(crate) fn add_to(&self, sum: &mut Sum) {
        for index in 0..self.used.load(Ordering::Acquire) {
            if let Some(cell) = self.cell(index) {
                sum.cells.entry(cell.key()).or_default().add(cell);
            }
        }
        for (runtime, histogram) in self.histograms.iter().enumerate() {
            if let Some(histogram) = histogram.get() {
                histogram.add_to(sum.polls.entry(RuntimeId(runtime as u8)).or_default());
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_tally_keeps_room_for_other() {
        let tally = ThreadCounters::new(10);
        let mut made = 0;
        while tally.add_cell(RuntimeId(1), SiteId(made + 1)).is_some() {
            made += 1;
        }
        assert!(made >= 10);
        for runtime in (0..MAX_RUNTIMES as u8).map(RuntimeId) {
            let index = tally.add_cell(runtime, SiteId::OTHER).expect("other always fits");
            tally.cell(index).unwrap().poll(5);
        }
        let mut sum = Sum::default();
        tally.add_to(&mut sum);
        assert_eq!(sum.cells[&(RuntimeId(3), SiteId::OTHER)].polls, 1);
        assert_eq!(tally.cell(u32::MAX).map(SiteCounters::site), None);
    }

    #[test]
    fn sums_over_threads() {
        let mut sum = Sum::default();
        for nanos in [100, 300] {
            let tally = ThreadCounters::new(10);
            let index = tally.add_cell(RuntimeId(2), SiteId(7)).unwrap();
            let cell = tally.cell(index).unwrap();
            cell.poll(nanos);
            cell.event(Event::Spawned);
            tally.add_to(&mut sum);
        }
        let totals = sum.cells[&(RuntimeId(2), SiteId(7))];
        assert_eq!((totals.polls, totals.busy, totals.max, totals.event(Event::Spawned)), (2, 400, 300, 2));
        assert_eq!(sum.polls[&RuntimeId(2)].count(), 2);
    }
}
