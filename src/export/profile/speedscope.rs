//! The file format of speedscope (<https://www.speedscope.app>): one sampled profile, weighted with
//! blocked nanoseconds.

use std::collections::HashMap;

use serde::Serialize;

use super::{Level, levels};
use crate::Profile;

#[derive(Serialize)]
struct SpeedscopeFile<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'static str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: usize,
    shared: SharedFrames<'a>,
    profiles: [SampledProfile; 1],
}

#[derive(Serialize)]
struct SharedFrames<'a> {
    frames: Vec<SpeedscopeFrame<'a>>,
}

#[derive(Serialize)]
struct SpeedscopeFrame<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SampledProfile {
    r#type: &'static str,
    name: &'static str,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    /// Indexes into the frames, outermost first.
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// Returns the profile as JSON.
pub(in crate::export) fn json(profile: &Profile) -> serde_json::Result<String> {
    let mut frames = Vec::new();
    let mut known: HashMap<Level<'_>, usize> = HashMap::new();
    let mut index = |level| {
        *known.entry(level).or_insert_with_key(|level: &Level<'_>| {
            frames.push(SpeedscopeFrame { name: level.name.to_string(), file: level.file, line: level.line });
            frames.len() - 1
        })
    };
    let samples = profile.entries.iter().map(|entry| levels(entry).into_iter().map(&mut index).collect()).collect();
    let weights: Vec<u64> = profile.entries.iter().map(|entry| entry.stalls.time.as_nanos() as u64).collect();
    serde_json::to_string(&SpeedscopeFile {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("pollwatch@", env!("CARGO_PKG_VERSION")),
        name: "stalls",
        active_profile_index: 0,
        profiles: [SampledProfile {
            r#type: "sampled",
            name: "blocked time",
            unit: "nanoseconds",
            start_value: 0,
            end_value: weights.iter().sum(),
            samples,
            weights,
        }],
        shared: SharedFrames { frames },
    })
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
    fn frames_are_shared() {
        let file = parsed(&samples::stalls());
        let frames = file["shared"]["frames"].as_array().unwrap();
        let handlers: Vec<_> = frames.iter().filter(|frame| frame["name"] == "app::handler").collect();
        assert_eq!(handlers, [&json!({ "name": "app::handler", "file": "src/app.rs", "line": 17 })]);
        let profile = &file["profiles"][0];
        let name = |index: &Value| frames[index.as_u64().unwrap() as usize]["name"].as_str().unwrap();
        let stack = |sample: &Value| sample.as_array().unwrap().iter().map(name).collect::<Vec<_>>().join(" ");
        let stacks: Vec<_> = profile["samples"].as_array().unwrap().iter().map(stack).collect();
        assert_eq!(stacks[0], "main src/main.rs:8:9 app::handler app::render");
        assert_eq!(stacks[2], "main src/other.rs:1:2 [no stack: unknown]");
        assert_eq!(profile["weights"], json!([3_000_000_000_u64, 1_000_000_000, 10_000_500, 5_000_000]));
        assert_eq!(profile["endValue"], 4_015_000_500_u64);
        assert_eq!((&profile["type"], &profile["unit"]), (&json!("sampled"), &json!("nanoseconds")));
    }

    #[test]
    fn an_empty_profile_is_a_valid_file() {
        let file = parsed(&Profile::default());
        assert_eq!(file["profiles"][0]["samples"], json!([]));
        assert_eq!(file["profiles"][0]["endValue"], 0);
        assert_eq!(file["shared"]["frames"], json!([]));
    }

    #[test]
    fn names_are_not_changed() {
        let file = parsed(&samples::hostile_names());
        assert_eq!(file["shared"]["frames"][1]["name"], "a;b\n<img onerror=alert(1)>");
    }
}
