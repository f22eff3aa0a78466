//! A reader of the Prometheus text format.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::get;

/// A parsed page of metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Values by series as printed, `name{labels}`.
    pub series: BTreeMap<String, f64>,
    /// Kinds (`counter`, `gauge`, `histogram`) by the name of the metric.
    pub kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// The sum over all series of a metric that have these labels, for example over all causes,
    /// since a loaded machine decides the cause.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |series: &str| {
            let rest = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
            rest.is_some_and(|rest| labels.iter().all(|(k, v)| rest.contains(&format!("{k}=\"{v}\""))))
        };
        let found: Vec<f64> =
            self.series.iter().filter(|(series, _)| matches(series)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().sum()
    }

    /// Parses a page, in which no series may occur twice.
    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                metrics.kinds.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
                assert!(metrics.series.insert(series.into(), value).is_none(), "the series occurs twice: {series}");
            }
        }
        metrics
    }

    /// Requests `/metrics` and parses the response.
    #[track_caller]
    pub fn scrape(addr: SocketAddr) -> Metrics {
        let reply = get(addr, "/metrics");
        assert_eq!(reply.status, 200);
        Metrics::parse(&reply.body)
    }

    /// The value of one series. `labels` are all of its labels in the order of the text.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        let key = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
        self.series.get(&key).copied()
    }

    /// The value of one series, which must exist.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.series))
    }

    /// The series that must never decrease: counters, and the parts of histograms.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.series
            .iter()
            .filter(|(series, _)| self.is_counter(series))
            .map(|(series, value)| (series.as_str(), *value))
    }

    fn is_counter(&self, series: &str) -> bool {
        let name = series.split('{').next().unwrap_or(series);
        let is = |name: &str, kind: &str| self.kinds.get(name).is_some_and(|k| k == kind);
        let parts = ["_bucket", "_sum", "_count"];
        is(name, "counter") || parts.iter().any(|part| name.strip_suffix(part).is_some_and(|n| is(n, "histogram")))
    }
}
