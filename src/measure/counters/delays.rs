//! The delays of polls on one thread: the time from the wake of a task to its poll, by site and by
//! runtime. They exist only where delays are tracked.
//!
//! Each counter has one writer, like those of sites.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::measure::counters::sites::DelayTotals;
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::primitives::histogram::{Histogram, SLOW};
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;
use crate::sync::add_single_writer as add;

/// The histograms of the delays on one thread, one for each runtime that it has polled.
#[derive(Debug)]
pub(crate) struct DelayHistograms([OnceLock<Arc<Histogram>>; MAX_RUNTIMES]);

impl DelayHistograms {
    /// Makes the histograms of a thread, if delays are tracked.
    pub(super) fn create(is_tracked: bool) -> Option<Box<DelayHistograms>> {
        is_tracked.then(|| Box::new(DelayHistograms(std::array::from_fn(|_| OnceLock::new()))))
    }

    fn of(&self, runtime: RuntimeId) -> &Arc<Histogram> {
        self.0[runtime.index() % MAX_RUNTIMES].get_or_init(|| Arc::new(Histogram::new()))
    }

    /// Returns the histograms that exist; any thread.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RuntimeId, &Histogram)> {
        let all = self.0.iter().enumerate();
        all.filter_map(|(runtime, histogram)| Some((RuntimeId(runtime as u8), &**histogram.get()?)))
    }
}

/// The delays of the polls of one pair of runtime and site on one thread.
#[derive(Debug)]
pub(crate) struct DelayCounters {
    /// The sum of all delays, in nanoseconds.
    sum: AtomicU64,
    /// The longest delay, in nanoseconds.
    max: AtomicU64,
    /// The histogram of the runtime on this thread.
    histogram: Arc<Histogram>,
}

impl DelayCounters {
    /// Makes the counters of a site, if the thread has histograms.
    pub(super) fn create(histograms: Option<&DelayHistograms>, runtime: RuntimeId) -> Option<Box<DelayCounters>> {
        let histogram = histograms?.of(runtime).clone();
        Some(Box::new(DelayCounters { sum: AtomicU64::new(0), max: AtomicU64::new(0), histogram }))
    }

    /// Counts the delay of one poll; the owning thread only.
    #[inline]
    pub(crate) fn record(&self, delay: Nanos) {
        match delay < SLOW {
            true => self.histogram.record_fast(delay),
            false => self.histogram.record(delay),
        }
        add(&self.sum, delay.0);
        if delay.0 > self.max.load(Ordering::Relaxed) {
            self.max.store(delay.0, Ordering::Relaxed);
        }
    }

    /// Returns the delays so far; any thread.
    pub(super) fn totals(&self) -> DelayTotals {
        DelayTotals { sum: Nanos(self.sum.load(Ordering::Relaxed)), max: Nanos(self.max.load(Ordering::Relaxed)) }
    }
}
