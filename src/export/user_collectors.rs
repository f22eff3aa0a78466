//! The application's own collectors, whose metrics are a part of `/metrics`. A collector that fails
//! is left out, so that the page stays valid.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};

use super::table::{self, MetricKind, PREFIX};
use crate::util::call_user;

/// The number of metrics that one collector may return. A collector with more is left out.
const MAX_METRICS: usize = 10_000;

/// The collectors that [`WatchdogBuilder::collector`](crate::WatchdogBuilder::collector) was given.
#[derive(Default)]
pub(crate) struct UserCollectors {
    collectors: Vec<Box<dyn Collector>>,
    failures: AtomicU64,
}

impl UserCollectors {
    /// The number of collectors that a builder accepts.
    pub(crate) const MAX: usize = 16;

    /// Adds a collector.
    pub(crate) fn add(&mut self, collector: Box<dyn Collector>) {
        self.collectors.push(collector);
    }

    pub(crate) fn len(&self) -> usize {
        self.collectors.len()
    }

    /// Returns how often a collector was left out.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the metrics of all collectors in Prometheus' text format. A collector is left out
    /// and counted if it panics, or returns too many metrics, a name that is taken, or metrics that
    /// cannot be encoded as text.
    pub(super) fn text(&self) -> String {
        if self.collectors.is_empty() {
            return String::new();
        }
        let (mut text, mut names) = (String::new(), own_names());
        for collector in &self.collectors {
            match encoded(&**collector, &names) {
                Some((more, new_names)) => {
                    text.push_str(&more);
                    names.extend(new_names);
                }
                None => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        text
    }
}

/// Returns the names of all series of pollwatch.
fn own_names() -> HashSet<String> {
    let histograms = ["_bucket", "_sum", "_count"];
    let suffixes = |def: &table::MetricDef| if def.kind == MetricKind::Histogram { &histograms[..] } else { &[] };
    let names = table::all().flat_map(|def| {
        let name = format!("{PREFIX}{}", def.name);
        let of_series: Vec<_> = suffixes(def).iter().map(|suffix| format!("{name}{suffix}")).collect();
        of_series.into_iter().chain([name])
    });
    names.collect()
}

/// Returns the text of a collector's metrics and their names; `None` where that would break the
/// page.
fn encoded(collector: &dyn Collector, taken: &HashSet<String>) -> Option<(String, Vec<String>)> {
    let mut encoded = None;
    let panicked = call_user(|| {
        let mut families = collector.collect();
        // The encoder fails on a family without metrics, which is no error.
        families.retain(|family| !family.get_metric().is_empty());
        let mut names = HashSet::new();
        let are_new = families.iter().all(|f| !taken.contains(f.name()) && names.insert(f.name().to_owned()));
        let count: usize = families.iter().map(|family| family.get_metric().len()).sum();
        if are_new && count <= MAX_METRICS && families.iter().all(is_valid) {
            let text = TextEncoder::new().encode_to_string(&families).ok();
            encoded = text.map(|text| (text, names.into_iter().collect()));
        }
    });
    encoded.filter(|_| !panicked)
}

/// Returns whether a family's names and type can be written. The values of labels are escaped.
fn is_valid(family: &MetricFamily) -> bool {
    let labels = || family.get_metric().iter().flat_map(|metric| metric.get_label());
    family.get_field_type() != MetricType::UNTYPED
        && is_name(family.name(), |c| c == ':')
        && labels().all(|label| is_name(label.name(), |_| false))
}

/// Returns whether a text is a name in Prometheus' [data model], with the characters `also` in
/// addition to letters, digits and underscores.
///
/// [data model]: https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels
fn is_name(name: &str, also: impl Fn(char) -> bool) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || also(c))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use prometheus::core::Desc;
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

    /// A collector that returns the result of a function.
    struct From<F>(F);

    impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Collector for From<F> {
        fn desc(&self) -> Vec<&Desc> {
            Vec::new()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            (self.0)()
        }
    }

    fn counter(name: &str) -> IntCounter {
        IntCounter::new(name, "A count.").unwrap()
    }

    fn of(collectors: Vec<Box<dyn Collector>>) -> (String, u64) {
        let mut all = UserCollectors::default();
        collectors.into_iter().for_each(|collector| all.add(collector));
        (all.text(), all.failures())
    }

    /// Returns a collector of one counter whose family is changed by a function.
    fn changed(change: impl Fn(&mut MetricFamily) + Send + Sync + 'static) -> Box<dyn Collector> {
        Box::new(From(move || {
            let mut families = counter("good_total").collect();
            families.iter_mut().for_each(&change);
            families
        }))
    }

    #[test]
    fn metrics_of_all_collectors_are_written() {
        let histogram = Histogram::with_opts(HistogramOpts::new("work_seconds", "Work.")).unwrap();
        histogram.observe(1.5);
        let gauge = IntGauge::with_opts(Opts::new("queue", "A queue.").const_label("of", "a \"b\"\n")).unwrap();
        let none = From(Vec::new);
        let empty = changed(|family| drop(family.take_metric()));
        let (text, failures) = of(vec![Box::new(histogram), Box::new(none), empty, Box::new(gauge)]);
        assert!(text.contains("work_seconds_sum 1.5\n") && text.contains("queue{of=\"a \\\"b\\\"\\n\"} 0\n"), "{text}");
        assert_eq!(failures, 0);
    }

    #[test]
    fn a_collector_that_fails_is_left_out_and_counted() {
        let panics = || Box::new(From(|| panic!("on purpose")));
        let (text, failures) = of(vec![panics(), Box::new(counter("good_total")), panics()]);
        assert_eq!((text.matches("good_total 0\n").count(), failures), (1, 2), "{text}");
        let bad: Vec<Box<dyn Collector>> = vec![
            changed(|family| family.set_field_type(MetricType::UNTYPED)),
            changed(|family| family.set_name("two words".into())),
            changed(|family| family.set_name(String::new())),
            changed(|family| family.set_name("pollwatch_polls_total".into())),
            changed(|family| family.set_name("pollwatch_poll_duration_seconds_count".into())),
            changed(|family| {
                let metric = family.get_metric()[0].clone();
                family.set_metric(vec![metric; MAX_METRICS + 1]);
            }),
            Box::new(From(|| [counter("twice").collect(), counter("twice").collect()].concat())),
        ];
        let count = bad.len() as u64;
        assert_eq!(of(bad), (String::new(), count));
    }

    #[test]
    fn the_first_of_two_collectors_has_a_name() {
        let (text, failures) = of(vec![Box::new(counter("same_total")), Box::new(counter("same_total"))]);
        assert_eq!((text.matches("# TYPE same_total").count(), failures), (1, 1), "{text}");
    }
}
