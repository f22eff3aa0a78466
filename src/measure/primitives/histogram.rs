//! A log-linear histogram of durations, like [HdrHistogram](http://hdrhistogram.org), with one
//! writer: a count is a relaxed load and a store.
//!
//! It has two scales. The fine bins divide each octave into eight, so that a quantile is off by at
//! most 1/16 of its value. The buckets have the exact bounds that Prometheus shows, and count
//! durations from [`SLOW`] on. A shorter duration belongs to the first bucket and is counted in the
//! fine bins alone, so that the fast path increments one counter.

use std::time::Duration;

use crate::model::snapshot::{BucketSnapshot, HistogramSnapshot};
use crate::model::time::Nanos;
use crate::sync::{AtomicU64, Ordering, add_single_writer as add};

/// The upper bounds of the exported buckets: 100 µs to 10 s.
pub(crate) const BOUNDS: [Nanos; 14] = [
    Nanos(100_000),
    Nanos(250_000),
    Nanos(500_000),
    Nanos(1_000_000),
    Nanos(2_500_000),
    Nanos(5_000_000),
    Nanos(10_000_000),
    Nanos(25_000_000),
    Nanos(50_000_000),
    Nanos(100_000_000),
    Nanos(250_000_000),
    Nanos(1_000_000_000),
    Nanos(2_500_000_000),
    Nanos(10_000_000_000),
];

/// The duration from which on the buckets count, too. It is an edge of the fine bins (1.5 * 2^16
/// ns) just below the first bound.
pub(crate) const SLOW: Nanos = Nanos(98_304);

/// The binary logarithm of the number of bins in an octave.
const SUB_BITS: u32 = 3;
/// The last bin takes everything from 2^41 ns (37 minutes) on.
const BINS: usize = index(1 << 41) + 1;

/// Returns the bin of a duration. Below `2 << SUB_BITS` the bins are 1 ns wide and the shift is 0.
#[inline]
const fn index(nanos: u64) -> usize {
    let shift = 63 - SUB_BITS - (nanos | 1 << SUB_BITS).leading_zeros();
    ((shift as usize) << SUB_BITS) + (nanos >> shift) as usize
}

/// Returns the lowest duration of a bin, in nanoseconds.
fn lower_bound(bin: usize) -> u64 {
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
    /// The sum of the durations that were recorded with their sum, in nanoseconds.
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
    pub(crate) fn record_and_sum(&self, duration: Nanos) {
        add(&self.sum, duration.0);
        self.record(duration);
    }

    /// Counts a duration; the owning thread only. The sum of polls is kept in the counters of their
    /// sites.
    pub(crate) fn record(&self, duration: Nanos) {
        if duration >= SLOW {
            add(&self.buckets[BOUNDS.partition_point(|&bound| bound < duration)], 1);
        }
        add(&self.bins[index(duration.0).min(BINS - 1)], 1);
    }

    /// Counts a duration below [`SLOW`]; the owning thread only.
    #[inline(always)]
    pub(crate) fn record_fast(&self, duration: Nanos) {
        if let Some(bin) = self.bins.get(index(duration.0)) {
            add(bin, 1);
        }
    }

    /// Adds all counts to `totals`; any thread.
    pub(crate) fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, bin) in totals.bins.iter_mut().zip(&self.bins) {
            *total += bin.load(Ordering::Relaxed);
        }
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        totals.sum += Nanos(self.sum.load(Ordering::Relaxed));
    }
}

/// Merged histograms, as plain numbers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HistogramTotals {
    bins: Vec<u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: Nanos,
}

impl Default for HistogramTotals {
    fn default() -> Self {
        HistogramTotals { bins: vec![0; BINS], buckets: [0; BOUNDS.len() + 1], sum: Nanos::ZERO }
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
    pub(crate) fn sum(&self) -> Nanos {
        self.sum
    }

    /// Returns how many durations were counted. Each is in exactly one of the two summands, so that
    /// a count never decreases between two readings.
    pub(crate) fn count(&self) -> u64 {
        self.fast() + self.buckets.iter().sum::<u64>()
    }

    /// Returns how many durations are below [`SLOW`].
    fn fast(&self) -> u64 {
        self.bins[..index(SLOW.0)].iter().sum()
    }

    /// Returns how many durations are at most each of [`BOUNDS`].
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len()] {
        let mut sum = self.fast();
        std::array::from_fn(|i| {
            sum += self.buckets[i];
            sum
        })
    }

    /// Returns the distribution as plain data. `sum` is the sum of the durations, which is recorded
    /// elsewhere for polls.
    pub(crate) fn snapshot(&self, sum: Nanos) -> HistogramSnapshot {
        let bins = self.bins.iter().enumerate().map(|(bin, count)| {
            let middle = lower_bound(bin).midpoint(lower_bound(bin + 1).saturating_sub(1));
            (Duration::from_nanos(middle), *count)
        });
        let buckets = BucketSnapshot::list(&BOUNDS.map(|bound| bound.0), self.cumulative());
        HistogramSnapshot::new(self.count(), sum.to_duration(), buckets, bins)
    }

    #[cfg(all(test, not(pollwatch_loom)))]
    fn quantile(&self, q: f64) -> Nanos {
        self.snapshot(self.sum).quantile(q).into()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn bins_are_contiguous_and_an_eighth_wide() {
        assert_eq!(lower_bound(index(SLOW.0)), SLOW.0, "the edge between the two scales is a bin's edge");
        for bin in 0..BINS - 1 {
            let (low, next) = (lower_bound(bin), lower_bound(bin + 1));
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
            h.record(Nanos(nanos));
            let mut totals = HistogramTotals::default();
            h.add_to(&mut totals);
            assert_eq!(totals.count(), i as u64 + 1);
            for (bound, count) in BOUNDS.iter().zip(totals.cumulative()) {
                assert_eq!(count, durations[..=i].iter().filter(|&&d| d <= bound.0).count() as u64, "le {bound:?}");
            }
        }
    }

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let h = Histogram::new();
        for i in 1..=10_000u64 {
            h.record(Nanos(i * 1_000));
        }
        let mut totals = HistogramTotals::default();
        h.add_to(&mut totals);
        h.add_to(&mut totals);
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = q * 10_000_000.0;
            let error = (totals.quantile(q).0 as f64 - exact).abs() / exact;
            assert!(error <= 1.0 / 16.0 + 1e-3, "q {q}: {error}");
        }
        assert_eq!(HistogramTotals::default().quantile(0.5), Nanos::ZERO);
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

    /// A thread that reads while the owner counts finds no count that decreases, and none that was
    /// never recorded.
    #[test]
    fn a_count_never_decreases() {
        const DURATIONS: [u64; 2] = [5, 2 * SLOW.0];
        let write = |histogram: &Histogram| DURATIONS.iter().for_each(|&nanos| histogram.record_and_sum(Nanos(nanos)));
        let read = |histogram: &Histogram| {
            let (first, second) = (totals(histogram), totals(histogram));
            assert!(first.count() <= second.count() && second.count() <= DURATIONS.len() as u64);
            assert!(first.cumulative().iter().zip(second.cumulative()).all(|(a, b)| *a <= b));
            assert!(first.sum() <= second.sum());
            first.count() < second.count()
        };
        let at_end = |histogram: &Histogram| {
            let end = totals(histogram);
            assert_eq!((end.count(), end.sum()), (DURATIONS.len() as u64, Nanos(DURATIONS.iter().sum())));
        };
        crate::sync::model_one_writer(Histogram::new, write, read, at_end);
    }
}
