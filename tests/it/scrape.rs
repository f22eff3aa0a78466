//! A small HTTP client, and a reader of Prometheus text.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str) -> Reply {
    let mut stream = connect(addr);
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status line");
    let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
    Reply { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
}

#[track_caller]
pub(crate) fn get(addr: SocketAddr, path: &str) -> Reply {
    request(addr, "GET", path)
}

/// Prometheus text, read.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By the series as it is printed, `name{labels}`.
    pub(crate) series: BTreeMap<String, f64>,
    pub(crate) kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// The sum over all series of a metric that have these labels: over all causes, which a loaded machine decides.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |series: &str| {
            let rest = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
            rest.is_some_and(|rest| labels.iter().all(|(k, v)| rest.contains(&format!("{k}=\"{v}\""))))
        };
        let found: Vec<f64> =
            self.series.iter().filter(|(series, _)| matches(series)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().sum()
    }

    #[track_caller]
    pub(crate) fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                metrics.kinds.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(metrics.series.insert(series.into(), value).is_none(), "twice: {series}");
            }
        }
        metrics
    }

    #[track_caller]
    pub(crate) fn scrape(addr: SocketAddr) -> Metrics {
        let reply = get(addr, "/metrics");
        assert_eq!(reply.status, 200);
        Metrics::parse(&reply.body)
    }

    /// The value of one series, by name and all its labels, in the order of the text.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        let key = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
        self.series.get(&key).copied()
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.series))
    }

    /// Series that must never go down: counters, and the parts of histograms.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
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
