//! The profile as it is, for the page, which filters, adds up and draws: `/live/profile`. docs/live-profile.schema.json describes it.

use std::collections::HashMap;

use serde::Serialize;

use super::Entry;
use crate::model::cause::Cause;
use crate::report::profile::Function;

/// Changes when a field goes, or comes to mean something else; not when one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct File<'a> {
    schema: u32,
    frames: Vec<Frame<'a>>,
    entries: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
}

#[derive(Serialize)]
struct Row<'a> {
    runtime: &'a str,
    site: &'a str,
    route: Option<&'a str>,
    parent_route: Option<&'a str>,
    cause: Cause,
    /// Indexes of frames, outermost first.
    stack: Vec<usize>,
    stalls: u64,
    stalled_seconds: f64,
}

/// All entries, most blocked time first; a function is told once.
pub(crate) fn json(entries: &[Entry]) -> serde_json::Result<String> {
    let mut frames = Vec::new();
    let mut known: HashMap<&Function, usize> = HashMap::new();
    let mut rows = Vec::new();
    for (key, amount) in entries {
        let mut index = |function| {
            *known.entry(function).or_insert_with_key(|Function { name, file, line }| {
                frames.push(Frame { name, file: file.as_deref(), line: *line });
                frames.len() - 1
            })
        };
        rows.push(Row {
            runtime: &key.runtime,
            site: &key.site,
            route: key.route.as_deref(),
            parent_route: key.parent_route.as_deref(),
            cause: key.cause,
            stack: key.stack.iter().map(&mut index).collect(),
            stalls: amount.count,
            stalled_seconds: amount.nanos as f64 / 1e9,
        });
    }
    serde_json::to_string(&File { schema: SCHEMA, frames, entries: rows })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples;
    use super::*;
    use serde_json::{Value, json};

    fn parsed(entries: &[Entry]) -> Value {
        serde_json::from_str(&json(entries).unwrap()).unwrap()
    }

    #[test]
    fn functions_are_told_once() {
        let file = parsed(&samples::entries());
        let frames = file["frames"].as_array().unwrap();
        assert_eq!(frames[0], json!({ "name": "app::handler", "file": "src/app.rs", "line": 17 }));
        assert_eq!(frames.len(), 3);
        let stacks: Vec<_> = file["entries"].as_array().unwrap().iter().map(|e| e["stack"].clone()).collect();
        assert_eq!(stacks, [json!([0, 1]), json!([0, 2]), json!([]), json!([0, 2])]);
        let first = &file["entries"][0];
        assert_eq!(
            (&first["cause"], &first["stalls"], &first["stalled_seconds"]),
            (&json!("cpu"), &3.into(), &3.0.into())
        );
        assert_eq!(parsed(&[]), json!({ "schema": 1, "frames": [], "entries": [] }));
    }

    #[test]
    fn names_are_kept_as_they_are() {
        let file = parsed(&samples::hostile());
        assert_eq!(file["entries"][0]["site"], "a;b\n<img onerror=alert(1)>");
        assert_eq!(file["entries"][0]["runtime"], "r&d 7\r\n");
    }
}
