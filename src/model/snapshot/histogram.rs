//! A distribution of durations.

use std::time::Duration;

#[cfg(feature = "serde")]
use crate::model::serialize::as_seconds;

/// One bucket of a histogram. The buckets of a route are serialized as such, since they have bounds
/// of their own; those of a [`HistogramSnapshot`] as their counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BucketSnapshot {
    /// The upper bound, inclusive.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "bound_seconds"))]
    pub bound: Duration,
    /// The number of durations up to the bound: cumulative, as in Prometheus.
    pub count: u64,
}

impl BucketSnapshot {
    /// Pairs upper bounds in nanoseconds with their cumulative counts.
    pub(crate) fn list(bounds: &[u64], counts: impl IntoIterator<Item = u64>) -> Vec<Self> {
        let bounds = bounds.iter().map(|&bound| Duration::from_nanos(bound));
        bounds.zip(counts).map(|(bound, count)| BucketSnapshot { bound, count }).collect()
    }
}

/// A distribution of durations. Its serialized form has the counts of the buckets alone, as in
/// `/live`. Their bounds are those of
/// [`WatchdogSnapshot::bucket_bounds`](super::WatchdogSnapshot::bucket_bounds), for all such
/// distributions.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HistogramSnapshot {
    /// The number of durations.
    pub count: u64,
    /// Their sum.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "sum_seconds"))]
    pub sum: Duration,
    /// The buckets that Prometheus gets, by ascending bounds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_counts"))]
    pub buckets: Vec<BucketSnapshot>,
    /// The finer bins that quantiles are read from.
    #[cfg_attr(feature = "serde", serde(skip))]
    bins: Bins,
}

/// The non-empty bins: the middle of the bin, and its count, by ascending durations.
#[derive(Clone)]
struct Bins(Vec<(Duration, u64)>);

/// Prints the number of bins only: there are hundreds, and snapshots are printed by people.
impl std::fmt::Debug for Bins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bins]", self.0.len())
    }
}

impl HistogramSnapshot {
    /// `bins` are the middles and counts of fine bins, by ascending durations.
    pub(crate) fn new(
        count: u64,
        sum: Duration,
        buckets: Vec<BucketSnapshot>,
        bins: impl IntoIterator<Item = (Duration, u64)>,
    ) -> HistogramSnapshot {
        let bins = bins.into_iter().filter(|(_, count)| *count > 0).collect();
        HistogramSnapshot { count, sum, buckets, bins: Bins(bins) }
    }

    /// Returns the duration that the share `q` (0 to 1) of all durations did not exceed.
    ///
    /// Accurate to 1/16 of its value; zero if nothing was counted. `q` is clamped to its range.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for runtime in watchdog.snapshot().runtimes {
    ///     let p99 = runtime.polls.quantile(0.99);
    ///     println!("{}: 99 % of polls took at most {p99:?}", runtime.name);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn quantile(&self, q: f64) -> Duration {
        let total: u64 = self.bins.0.iter().map(|(_, count)| count).sum();
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut cumulative = 0;
        let at_rank = self.bins.0.iter().find(|(_, count)| {
            cumulative += count;
            cumulative >= rank
        });
        at_rank.map_or(Duration::ZERO, |(middle, _)| *middle)
    }
}

#[cfg(feature = "serde")]
fn as_counts<S: serde::Serializer>(buckets: &[BucketSnapshot], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(buckets.iter().map(|bucket| bucket.count))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bin_at_its_rank() {
        let ms = Duration::from_millis;
        let histogram = HistogramSnapshot::new(10, ms(100), Vec::new(), [(ms(1), 9), (ms(2), 0), (ms(91), 1)]);
        assert_eq!([0.0, 0.5, 0.9, 0.91, 1.0].map(|q| histogram.quantile(q).as_millis()), [1, 1, 1, 91, 91]);
        assert_eq!(HistogramSnapshot::new(0, Duration::ZERO, Vec::new(), []).quantile(0.5), Duration::ZERO);
    }
}
