//! The parts of the dashboard that the tests read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use test_support::read;

pub(crate) struct Target {
    pub(crate) json: Value,
    pub(crate) expr: String,
    pub(crate) legend: String,
}

impl Target {
    /// The names of the series, each with its selector.
    pub(crate) fn selectors(&self) -> Vec<(String, String)> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let parts = self.expr.split('{').zip(self.expr.split('{').skip(1));
        let named = parts.map(|(before, after)| {
            let name = before.rsplit(|c| !is_name(c)).next().unwrap_or("");
            (name.to_owned(), after.split('}').next().unwrap_or("").to_owned())
        });
        named.collect()
    }
}

pub(crate) struct Panel {
    pub(crate) json: Value,
    pub(crate) title: String,
    pub(crate) targets: Vec<Target>,
}

pub(crate) struct Dashboard {
    pub(crate) json: Value,
    pub(crate) panels: Vec<Panel>,
    /// The titles and the y positions of the rows.
    pub(crate) rows: Vec<(String, u64)>,
    pub(crate) variables: Vec<String>,
}

impl Dashboard {
    pub(crate) fn read() -> Dashboard {
        let json: Value = serde_json::from_str(&read("dashboards/pollwatch.json")).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (rows, panels) = json["panels"].as_array().unwrap().iter().partition::<Vec<_>, _>(|p| p["type"] == "row");
        let target = |json: &Value| Target {
            json: json.clone(),
            expr: text(&json["expr"]),
            legend: text(&json["legendFormat"]),
        };
        let panels = panels.into_iter().map(|json| Panel {
            json: json.clone(),
            title: text(&json["title"]),
            targets: json["targets"].as_array().unwrap().iter().map(target).collect(),
        });
        let panels = panels.collect();
        let rows = rows.iter().map(|row| (text(&row["title"]), row["gridPos"]["y"].as_u64().unwrap())).collect();
        let variables = json["templating"]["list"].as_array().unwrap().iter().map(|v| text(&v["name"])).collect();
        Dashboard { panels, rows, variables, json }
    }

    pub(crate) fn row_of(&self, panel: &Panel) -> &str {
        let y = panel.json["gridPos"]["y"].as_u64().unwrap();
        let row = self.rows.iter().rfind(|(_, begin)| *begin <= y);
        row.map_or("", |(title, _)| title.as_str())
    }
}

/// Each text between two marks.
pub(crate) fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(move |rest| rest.split_once(end).map(|(inside, _)| inside))
}

/// The text after `mark` in each line that has it.
pub(crate) fn names_of(text: &str, mark: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_once(mark)).map(|(_, name)| name.trim().to_owned()).collect()
}

/// A row of the table in docs/metrics.md.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) labels: String,
    mode: String,
}

impl Metric {
    /// True if this build exports the metric.
    pub(crate) fn is_exported(&self, name: &str) -> bool {
        let needs_delays = self.mode.contains("delays");
        (self.mode == "both" || cfg!(tokio_unstable) && (cfg!(feature = "delays") || !needs_delays))
            && (name != "pollwatch_captures_total" || cfg!(feature = "capture"))
            // In stable mode the state of the pool is not known.
            && (!name.starts_with("pollwatch_blocking_pool_") || name.contains("_full_") || cfg!(tokio_unstable))
    }
}

/// The metrics of docs/metrics.md; a histogram is listed by the names of its series.
pub(crate) fn metrics() -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::new();
    for line in read("docs/metrics.md").lines().filter(|line| line.starts_with("| `pollwatch_")) {
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect();
        let endings: &[&str] = if cells[1] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        for ending in endings {
            let metric = Metric { labels: cells[3].into(), mode: cells[4].into() };
            metrics.insert(format!("{}{ending}", cells[0]), metric);
        }
    }
    assert!(metrics.len() > 40, "{metrics:?}");
    metrics
}
