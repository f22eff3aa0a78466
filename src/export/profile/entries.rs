//! `/live/profile`: the entries of the profile as JSON, for the page, which filters, sums and draws
//! them. docs/live-profile.schema.json describes the format.

use std::collections::HashMap;

use serde::Serialize;

use crate::{Cause, Profile, ProfileFunction};

/// The version of the format. It changes when a field is removed or changes its meaning, not when
/// one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct ProfileJson<'a> {
    schema: u32,
    frames: Vec<FrameJson<'a>>,
    entries: Vec<EntryJson<'a>>,
}

#[derive(Serialize)]
struct FrameJson<'a> {
    name: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
}

#[derive(Serialize)]
struct EntryJson<'a> {
    runtime: &'a str,
    site: &'a str,
    route: Option<&'a str>,
    parent_route: Option<&'a str>,
    cause: Cause,
    /// Indexes into the frames, outermost first.
    stack: Vec<usize>,
    stalls: u64,
    stalled_seconds: f64,
}

/// Returns all entries by descending blocked time, with each different function once.
pub(in crate::export) fn json(profile: &Profile) -> serde_json::Result<String> {
    let mut frames = Vec::new();
    let mut known: HashMap<&ProfileFunction, usize> = HashMap::new();
    let mut entries = Vec::new();
    for entry in &profile.entries {
        let mut index = |function| {
            *known.entry(function).or_insert_with_key(|ProfileFunction { name, file, line }| {
                frames.push(FrameJson { name, file: file.as_deref(), line: *line });
                frames.len() - 1
            })
        };
        entries.push(EntryJson {
            runtime: &entry.runtime,
            site: &entry.site,
            route: entry.route.as_deref(),
            parent_route: entry.parent_route.as_deref(),
            cause: entry.cause,
            stack: entry.stack.iter().map(&mut index).collect(),
            stalls: entry.stalls.count,
            stalled_seconds: entry.stalls.time.as_secs_f64(),
        });
    }
    serde_json::to_string(&ProfileJson { schema: SCHEMA, frames, entries })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples;
    use super::*;
    use serde_json::{Value, json};

    fn parsed(profile: &Profile) -> Value {
        serde_json::from_str(&json(profile).unwrap()).unwrap()
    }

    #[test]
    fn each_function_appears_once() {
        let file = parsed(&samples::stalls());
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
        assert_eq!(parsed(&Profile::default()), json!({ "schema": 1, "frames": [], "entries": [] }));
    }

    #[test]
    fn names_are_not_changed() {
        let file = parsed(&samples::hostile_names());
        assert_eq!(file["entries"][0]["site"], "a;b\n<img onerror=alert(1)>");
        assert_eq!(file["entries"][0]["runtime"], "r&d 7\r\n");
    }
}
