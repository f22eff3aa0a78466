//! The reports of `pollwatch attach --json`, as far as they are matched with the ground truth.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::truth::UnixNanos;

/// The latest report of one stall.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The number of the stall.
    pub id: u64,
    /// True if the stall is known with certainty, and not suspected.
    pub is_observed: bool,
    /// What the thread did.
    pub cause: String,
    /// The name of the thread.
    pub thread: String,
    /// The start of the stall.
    pub start: UnixNanos,
    /// Its length, in nanoseconds.
    pub elapsed: u64,
    /// The innermost function of the program, if there was a stack.
    pub function: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
}

impl Report {
    /// Returns the end of the stall, or the moment of its latest report.
    pub fn end(&self) -> UnixNanos {
        UnixNanos(self.start.0 + self.elapsed)
    }

    fn parse(value: &Value) -> Option<Report> {
        let nanos = |key: &str| Some((value[key].as_f64()? * 1e9) as u64);
        let stack = &value["stack"];
        let user = stack["user_frames"].get(0).and_then(Value::as_u64);
        let frame = user.map_or(&Value::Null, |index| &stack["frames"][index as usize]);
        Some(Report {
            id: value["id"].as_u64()?,
            is_observed: value["certainty"] == "observed",
            cause: value["cause"].as_str()?.into(),
            thread: value["thread"].as_str()?.into(),
            start: UnixNanos(nanos("started_at_unix_seconds")?),
            elapsed: nanos("elapsed_seconds")?,
            function: frame["function"].as_str().map(Into::into),
            line: frame["line"].as_u64().map(|line| line as u32),
        })
    }
}

/// Returns the latest report of each stall that the program has printed. An error names the line
/// that is no JSON, or no stall.
pub fn parse(output: &str) -> Result<Vec<Report>, String> {
    let mut latest = BTreeMap::new();
    for line in output.lines() {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        if value["event"] == "stall" {
            let report = Report::parse(&value).ok_or_else(|| format!("no stall: {line}"))?;
            latest.insert(report.id, report);
        }
    }
    Ok(latest.into_values().collect())
}
