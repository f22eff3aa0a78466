use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Durations from the shortest to the longest, equally many of each magnitude, and around every
/// edge of a bucket.
fn nanos() -> impl Strategy<Value = u64> {
    let edges = BOUNDS.iter().map(|bound| bound.0).chain([0, 1, SLOW.0, 1 << 41, u64::MAX]).collect::<Vec<_>>();
    prop_oneof![
        4 => (0..64u32, any::<u64>()).prop_map(|(bits, n)| n >> bits),
        1 => (proptest::sample::select(edges), -1i64..=1).prop_map(|(edge, by)| edge.saturating_add_signed(by)),
    ]
}

fn of(durations: &[u64]) -> Histogram {
    let histogram = Histogram::new();
    durations.iter().for_each(|&nanos| histogram.record(Nanos(nanos)));
    histogram
}

fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> HistogramTotals {
    let mut totals = HistogramTotals::default();
    histograms.into_iter().for_each(|histogram| histogram.add_to(&mut totals));
    totals
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn merging_equals_counting_in_one_histogram(threads in vec(vec(nanos(), 0..50), 0..6)) {
        let all = threads.concat();
        let of_threads: Vec<_> = threads.iter().map(|durations| of(durations)).collect();
        let totals = merged(&of_threads);
        prop_assert!(totals == merged([&of(&all)]));
        prop_assert!(totals == merged(of_threads.iter().rev()), "in whatever order");
        prop_assert_eq!(totals.count(), all.len() as u64, "none is lost");
        for (bound, count) in BOUNDS.iter().zip(totals.cumulative()) {
            prop_assert_eq!(count, all.iter().filter(|&&nanos| nanos <= bound.0).count() as u64, "le {:?}", bound);
        }
    }

    #[test]
    fn a_sum_includes_every_duration(durations in vec(0..1u64 << 50, 0..50)) {
        let histogram = Histogram::new();
        durations.iter().for_each(|&nanos| histogram.record_and_sum(Nanos(nanos)));
        prop_assert_eq!(merged([&histogram]).sum(), Nanos(durations.iter().sum()));
    }

    #[test]
    fn a_quantile_is_within_a_sixteenth(mut durations in vec(nanos(), 1..200), q in 0.0..=1.0f64) {
        durations.sort_unstable();
        let rank = ((q * durations.len() as f64).ceil() as usize).max(1);
        let (exact, estimate) = (durations[rank - 1], merged([&of(&durations)]).quantile(q).0);
        if exact < 1 << 41 {
            prop_assert!(estimate.abs_diff(exact) <= exact / 16, "{} for {}", estimate, exact);
        } else {
            prop_assert!(estimate >= 1 << 41, "{} for {}: the last bin takes the rest", estimate, exact);
        }
    }

    #[test]
    fn quantiles_are_in_order(durations in vec(nanos(), 1..50), qs in vec(-1.0..2.0f64, 2..10)) {
        let totals = merged([&of(&durations)]);
        let mut qs = qs;
        qs.sort_by(f64::total_cmp);
        let quantiles: Vec<_> = qs.iter().map(|&q| totals.quantile(q)).collect();
        prop_assert!(quantiles.is_sorted(), "{:?}", quantiles);
        prop_assert_eq!(totals.quantile(f64::NAN), totals.quantile(0.0));
    }
}
