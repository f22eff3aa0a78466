//! The counters of one thread by runtime and site, and a histogram of its polls for each runtime.
//!
//! The owning thread is the only writer, so that a count is a relaxed load and a store. The
//! watchdog and scrapes read, and sum over all threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::measure::counters::delays::{DelayCounters, DelayHistograms};
use crate::measure::primitives::frame::{FrameKind, FrameTag, MAX_RUNTIMES, PackedTag};
use crate::measure::primitives::histogram::{Histogram, HistogramTotals};
use crate::measure::primitives::site::SiteId;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;
use crate::sync::add_single_writer as add;

/// The number of sites whose counters are allocated at a time.
const CHUNK: usize = 64;

/// The events that are counted besides polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SiteEvent {
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
    /// The sum of all polls, in nanoseconds.
    busy: AtomicU64,
    /// The longest poll, in nanoseconds.
    max: AtomicU64,
    /// The runtime, and the index of these counters, in the bits of a [`PackedTag`].
    tag: AtomicU64,
    /// The histogram of the runtime on this thread.
    histogram: OnceLock<Arc<Histogram>>,
    site: AtomicU32,
    events: [AtomicU64; EVENTS],
    /// The delays of the polls, where they are tracked.
    delays: OnceLock<Box<DelayCounters>>,
}

/// Counters of no site, for frames that are not counted. Nothing writes to them.
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
            delays: OnceLock::new(),
        }
    }

    /// Counts one poll, also in the histogram of its runtime; the owning thread only.
    pub(crate) fn poll(&self, duration: Nanos) {
        if let Some(histogram) = self.histogram.get() {
            histogram.record(duration);
        }
        self.count(duration);
    }

    /// Counts like [`poll`](Self::poll) one below
    /// [`SLOW`](crate::measure::primitives::histogram::SLOW).
    #[inline(always)]
    pub(crate) fn fast_poll(&self, duration: Nanos) {
        if let Some(histogram) = self.histogram.get() {
            histogram.record_fast(duration);
        }
        self.count(duration);
    }

    #[inline(always)]
    fn count(&self, duration: Nanos) {
        add(&self.polls, 1);
        self.part(duration);
    }

    /// Counts the time of a part of a poll that is not measured as a whole.
    #[inline(always)]
    pub(crate) fn part(&self, duration: Nanos) {
        add(&self.busy, duration.0);
        if duration.0 > self.max.load(Ordering::Relaxed) {
            self.max.store(duration.0, Ordering::Relaxed);
        }
    }

    /// Counts one event; the owning thread only.
    #[inline]
    pub(crate) fn event(&self, event: SiteEvent) {
        add(&self.events[event as usize], 1);
    }

    /// Returns the counters of the polls' delays, where these are tracked.
    #[cfg(all(tokio_unstable, feature = "delays"))]
    #[inline]
    pub(crate) fn delays(&self) -> Option<&DelayCounters> {
        self.delays.get().map(|delays| &**delays)
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

/// The counters of one pair of runtime and site, summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SiteTotals {
    pub(crate) polls: u64,
    /// The sum of all polls.
    pub(crate) busy: Nanos,
    /// The longest poll.
    pub(crate) max: Nanos,
    /// The delays of the polls; zero where they are not tracked.
    pub(crate) delays: DelayTotals,
    events: [u64; EVENTS],
}

impl SiteTotals {
    pub(crate) fn event(&self, event: SiteEvent) -> u64 {
        self.events[event as usize]
    }

    pub(crate) fn merge(&mut self, other: &SiteTotals) {
        self.polls += other.polls;
        self.busy += other.busy;
        self.max = self.max.max(other.max);
        self.delays.merge(other.delays);
        for (sum, n) in self.events.iter_mut().zip(other.events) {
            *sum += n;
        }
    }

    fn add(&mut self, counters: &SiteCounters) {
        self.merge(&SiteTotals {
            polls: counters.polls.load(Ordering::Relaxed),
            busy: Nanos(counters.busy.load(Ordering::Relaxed)),
            max: Nanos(counters.max.load(Ordering::Relaxed)),
            delays: counters.delays.get().map(|delays| delays.totals()).unwrap_or_default(),
            events: std::array::from_fn(|i| counters.events[i].load(Ordering::Relaxed)),
        });
    }
}

/// The delays of one site, summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DelayTotals {
    /// The sum of all delays.
    pub(crate) sum: Nanos,
    /// The longest delay.
    pub(crate) max: Nanos,
}

impl DelayTotals {
    fn merge(&mut self, other: DelayTotals) {
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }
}

/// The sums over all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct CounterSums {
    pub(crate) sites: HashMap<(RuntimeId, SiteId), SiteTotals>,
    /// The durations of the polls of each runtime.
    pub(crate) polls: HashMap<RuntimeId, HistogramTotals>,
    /// The delays of the polls of each runtime, where they are tracked.
    pub(crate) delays: HashMap<RuntimeId, HistogramTotals>,
}

/// The counters of all sites on one thread. They are made when the thread meets a site, and are
/// found by an index from then on.
#[derive(Debug)]
pub(crate) struct ThreadCounters {
    chunks: Box<[OnceLock<Box<[SiteCounters; CHUNK]>>]>,
    used: AtomicU32,
    histograms: [OnceLock<Arc<Histogram>>; MAX_RUNTIMES],
    /// The histograms of delays, where delays are tracked.
    delay_histograms: Option<Box<DelayHistograms>>,
}

impl ThreadCounters {
    /// Makes a table for `max_sites` sites and the `other` of each runtime.
    pub(crate) fn new(max_sites: usize) -> ThreadCounters {
        let chunks = (max_sites + MAX_RUNTIMES).div_ceil(CHUNK) + 1;
        ThreadCounters {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            used: AtomicU32::new(0),
            histograms: std::array::from_fn(|_| OnceLock::new()),
            delay_histograms: None,
        }
    }

    /// Makes the counters track delays as well, if `track` is true.
    pub(crate) fn tracking_delays(self, track: bool) -> ThreadCounters {
        ThreadCounters { delay_histograms: DelayHistograms::create(track), ..self }
    }

    /// Makes counters and returns their index; the owning thread only. Returns `None` when only
    /// those for `other` are left.
    pub(crate) fn create(&self, runtime: RuntimeId, site: SiteId) -> Option<u32> {
        let index = self.used.load(Ordering::Relaxed);
        let reserved = if site == SiteId::OTHER { 0 } else { MAX_RUNTIMES };
        if index as usize + reserved >= self.chunks.len() * CHUNK {
            return None;
        }
        let chunk =
            self.chunks[index as usize / CHUNK].get_or_init(|| Box::new([const { SiteCounters::new() }; CHUNK]));
        let counters = &chunk[index as usize % CHUNK];
        let tag = FrameTag { kind: FrameKind::Task, runtime, route: None, index };
        counters.tag.store(tag.pack().0, Ordering::Relaxed);
        counters.site.store(site.0, Ordering::Relaxed);
        let histogram = self.histograms[runtime.index() % MAX_RUNTIMES].get_or_init(|| Arc::new(Histogram::new()));
        let _ = counters.histogram.set(histogram.clone());
        if let Some(delays) = DelayCounters::create(self.delay_histograms.as_deref(), runtime) {
            let _ = counters.delays.set(delays);
        }
        self.used.store(index + 1, Ordering::Release);
        Some(index)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&SiteCounters> {
        Some(&self.chunks.get(index as usize / CHUNK)?.get()?[index as usize % CHUNK])
    }

    /// Calls `f` with the number of an event by runtime and site, where it is not 0; any thread.
    pub(crate) fn for_each_event(&self, event: SiteEvent, mut f: impl FnMut((RuntimeId, SiteId), u64)) {
        for index in 0..self.used.load(Ordering::Acquire) {
            if let Some(counters) = self.get(index)
                && let n @ 1.. = counters.events[event as usize].load(Ordering::Relaxed)
            {
                f(counters.key(), n);
            }
        }
    }

    /// Calls `f` with the polls of each site of a runtime, and the time that they took; any thread.
    pub(crate) fn for_each_busy(&self, runtime: RuntimeId, mut f: impl FnMut(SiteId, u64, Nanos)) {
        for index in 0..self.used.load(Ordering::Acquire) {
            if let Some(counters) = self.get(index).filter(|counters| counters.key().0 == runtime) {
                let busy = Nanos(counters.busy.load(Ordering::Relaxed));
                f(counters.site(), counters.polls.load(Ordering::Relaxed), busy);
            }
        }
    }

    /// Adds all counters to `sums`; any thread.
    pub(crate) fn add_to(&self, sums: &mut CounterSums) {
        for index in 0..self.used.load(Ordering::Acquire) {
            if let Some(counters) = self.get(index) {
                sums.sites.entry(counters.key()).or_default().add(counters);
            }
        }
        for (runtime, histogram) in self.histograms.iter().enumerate() {
            if let Some(histogram) = histogram.get() {
                histogram.add_to(sums.polls.entry(RuntimeId(runtime as u8)).or_default());
            }
        }
        for (runtime, histogram) in self.delay_histograms.iter().flat_map(|histograms| histograms.iter()) {
            histogram.add_to(sums.delays.entry(runtime).or_default());
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_has_room_for_other() {
        let thread = ThreadCounters::new(10);
        let mut made = 0;
        while thread.create(RuntimeId(1), SiteId(made + 1)).is_some() {
            made += 1;
        }
        assert!(made >= 10);
        for runtime in (0..MAX_RUNTIMES as u8).map(RuntimeId) {
            let index = thread.create(runtime, SiteId::OTHER).expect("other always fits");
            thread.get(index).unwrap().poll(Nanos(5));
        }
        let mut sums = CounterSums::default();
        thread.add_to(&mut sums);
        assert_eq!(sums.sites[&(RuntimeId(3), SiteId::OTHER)].polls, 1);
        assert_eq!(thread.get(u32::MAX).map(SiteCounters::site), None);
    }

    #[test]
    fn sums_over_threads() {
        let mut sums = CounterSums::default();
        for nanos in [100, 300] {
            let thread = ThreadCounters::new(10);
            let index = thread.create(RuntimeId(2), SiteId(7)).unwrap();
            let counters = thread.get(index).unwrap();
            counters.poll(Nanos(nanos));
            counters.event(SiteEvent::Spawned);
            thread.add_to(&mut sums);
        }
        let totals = sums.sites[&(RuntimeId(2), SiteId(7))];
        assert_eq!((totals.polls, totals.event(SiteEvent::Spawned)), (2, 2));
        assert_eq!((totals.busy, totals.max), (Nanos(400), Nanos(300)));
        assert_eq!(sums.polls[&RuntimeId(2)].count(), 2);
    }
}
