//! Durations in log-linear bins, with one writer: a bump is a relaxed load and a store.
//!
//! Two scales in one: fine bins (eight to an octave, so that a quantile is off by at most 1/16 of
//! its value), and, for durations from [`SLOW_NANOS`] on, the exact buckets that Prometheus shows.
//! A shorter poll belongs to the first bucket and is counted in the fine bins alone, so that the
//! fast path increments one counter.

use std::time::Duration;

use crate::model::snapshot::{BucketSnapshot, HistogramSnapshot};
use crate::sync::{AtomicU64, Ordering, add_single_writer as add};

/// Upper bounds of the exported buckets in nanoseconds: 100 µs to 10 s.
pub(crate) const BOUNDS: [u64; 14] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// The duration from which on the exact buckets count, too: an edge of the fine bins (1.5 * 2^16)
/// just below the first bound.
pub(crate) const SLOW_NANOS: u64 = 98_304;

const SUB_BITS: u32 = 3;
/// The last bin takes everything from 2^41 ns (37 minutes) on.
const BINS: usize = index(1 << 41) + 1;

/// Below `2 << SUB_BITS` the bins are 1 ns wide and the shift is 0.
#[inline]
const fn index(nanos: u64) -> usize {
    let shift = 63 - SUB_BITS - (nanos | 1 << SUB_BITS).leading_zeros();
    ((shift as usize) << SUB_BITS) + (nanos >> shift) as usize
}

/// The lowest duration of a bin.
fn floor(bin: usize) -> u64 {
    if bin < (2 << SUB_BITS) {
        return bin as u64;
    }
    let shift = (bin >> SUB_BITS) - 1;
    ((bin - (shift << SUB_BITS)) as u64) << shift
}

/// The histogram of one thread, or of one probe.
#[derive(Debug)]
pub(crate) struct Histogram {
    bins: [AtomicU64; BINS],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram {
            bins: std::array::from_fn(|_| AtomicU64::new(0)),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one duration and adds it to the sum; the owning thread only.
    pub(crate) fn record_and_sum(&self, nanos: u64) {
        add(&self.sum, nanos);
        self.record(nanos);
    }

    /// Counts a duration; the owning thread only. The sum of polls is kept in the counters of their
    /// sites.
    pub(crate) fn record(&self, nanos: u64) {
        if nanos >= SLOW_NANOS {
            add(&self.buckets[BOUNDS.partition_point(|&bound| bound < nanos)], 1);
        }
        add(&self.bins[index(nanos).min(BINS - 1)], 1);
    }

    /// As [`record`](Self::record), of a duration below [`SLOW_NANOS`].
    #[inline(always)]
    pub(crate) fn record_fast(&self, nanos: u64) {
        if let Some(bin) = self.bins.get(index(nanos)) {
            add(bin, 1);
        }
    }

    /// Adds what is counted here to `totals`; any thread.
    pub(crate) fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, bin) in totals.bins.iter_mut().zip(&self.bins) {
            *total += bin.load(Ordering::Relaxed);
        }
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        totals.sum += self.sum.load(Ordering::Relaxed);
    }
}

/// Merged histograms, as plain numbers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HistogramTotals {
    bins: Vec<u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: u64,
}

impl Default for HistogramTotals {
    fn default() -> Self {
        HistogramTotals { bins: vec![0; BINS], buckets: [0; BOUNDS.len() + 1], sum: 0 }
    }
}

/// Leaves the hundreds of bins out: people print the snapshots that hold this.
impl std::fmt::Debug for HistogramTotals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistogramTotals").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl HistogramTotals {
    /// Returns the sum of the durations that were recorded with their sum.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns how many durations were counted. Each is in exactly one of the two sums, so that a
    /// count never goes down between two readings.
    pub(crate) fn count(&self) -> u64 {
        self.fast() + self.buckets.iter().sum::<u64>()
    }

    fn fast(&self) -> u64 {
        self.bins[..index(SLOW_NANOS)].iter().sum()
    }

    /// Returns how many durations are at most each of [`BOUNDS`].
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len()] {
        let mut sum = self.fast();
        std::array::from_fn(|i| {
            sum += self.buckets[i];
            sum
        })
    }

    /// Returns the distribution as plain data. `sum` is the sum of the durations in nanoseconds,
    /// which is recorded elsewhere for polls.
    pub(crate) fn snapshot(&self, sum: u64) -> HistogramSnapshot {
        let bins = self.bins.iter().enumerate().map(|(bin, count)| {
            let middle = floor(bin).midpoint(floor(bin + 1).saturating_sub(1));
            (Duration::from_nanos(middle), *count)
        });
        let buckets = BucketSnapshot::list(&BOUNDS, self.cumulative());
        HistogramSnapshot::new(self.count(), Duration::from_nanos(sum), buckets, bins)
    }

    #[cfg(all(test, not(pollwatch_loom)))]
    fn quantile(&self, q: f64) -> u64 {
        self.snapshot(self.sum).quantile(q).as_nanos() as u64
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn bins_are_contiguous_and_an_eighth_wide() {
        assert_eq!(floor(index(SLOW_NANOS)), SLOW_NANOS, "the edge between the two scales is a bin's edge");
        for bin in 0..BINS - 1 {
            let (low, next) = (floor(bin), floor(bin + 1));
            assert!(next > low);
            assert_eq!(index(low), bin);
            assert_eq!(index(next - 1), bin);
            assert!(low < 8 || next - low <= low / 8, "bin {bin}: {low} to {next}");
        }
    }

    #[test]
    fn every_duration_is_counted_once_and_in_its_bucket() {
        let durations =
            [0, 1, 7, 8, 98_303, 98_304, 100_000, 100_001, 9_999_999, 10_000_000, 10_000_001, 10_000_000_001, u64::MAX];
        let h = Histogram::new();
        for (i, &nanos) in durations.iter().enumerate() {
            h.record(nanos);
            let mut totals = HistogramTotals::default();
            h.add_to(&mut totals);
            assert_eq!(totals.count(), i as u64 + 1);
            for (bound, count) in BOUNDS.iter().zip(totals.cumulative()) {
                assert_eq!(count, durations[..=i].iter().filter(|&&d| d <= *bound).count() as u64, "le {bound}");
            }
        }
    }

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let h = Histogram::new();
        for i in 1..=10_000u64 {
            h.record(i * 1_000);
        }
        let mut totals = HistogramTotals::default();
        h.add_to(&mut totals);
        h.add_to(&mut totals);
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = q * 10_000_000.0;
            let error = (totals.quantile(q) as f64 - exact).abs() / exact;
            assert!(error <= 1.0 / 16.0 + 1e-3, "q {q}: {error}");
        }
        assert_eq!(HistogramTotals::default().quantile(0.5), 0);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    fn totals(histogram: &Histogram) -> HistogramTotals {
        let mut totals = HistogramTotals::default();
        histogram.add_to(&mut totals);
        totals
    }

    /// Whoever reads while the owner counts sees no count go down, and none that was never counted.
    #[test]
    fn a_count_never_goes_down() {
        const DURATIONS: [u64; 2] = [5, 2 * SLOW_NANOS];
        let write = |histogram: &Histogram| DURATIONS.iter().for_each(|&nanos| histogram.record_and_sum(nanos));
        let read = |histogram: &Histogram| {
            let (first, second) = (totals(histogram), totals(histogram));
            assert!(first.count() <= second.count() && second.count() <= DURATIONS.len() as u64);
            assert!(first.cumulative().iter().zip(second.cumulative()).all(|(a, b)| *a <= b));
            assert!(first.sum() <= second.sum());
            first.count() < second.count()
        };
        let at_end = |histogram: &Histogram| {
            let end = totals(histogram);
            assert_eq!((end.count(), end.sum()), (DURATIONS.len() as u64, DURATIONS.iter().sum()));
        };
        crate::sync::model_one_writer(Histogram::new, write, read, at_end);
    }
}
