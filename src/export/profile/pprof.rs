//! The profile in pprof's format, a gzipped protocol buffer
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>).
//!
//! Each sample has two values: stalls and blocked nanoseconds. Runtime, site, route and cause are
//! labels (`go tool pprof -tagroot=runtime,site`).

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::no_stack;
use crate::{Profile, ProfileEntry, ProfileFunction};

#[derive(Clone, PartialEq, Message)]
struct PprofProfile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// Innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

/// The program. All frames are symbolized, so that pprof does not search for the file.
#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

const MAPPING: u64 = 1;

/// The program and the time in which a profile was recorded.
#[derive(Clone, Debug)]
pub(in crate::export) struct Recording {
    pub(in crate::export) program: String,
    pub(in crate::export) start: SystemTime,
    pub(in crate::export) duration: Duration,
}

/// Returns the profile as a file.
pub(in crate::export) fn gzipped(profile: &Profile, recording: &Recording) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message(profile, recording).encode_to_vec())?;
    gzip.finish()
}

fn message(profile: &Profile, recording: &Recording) -> PprofProfile {
    let mut tables = Tables::new();
    let [stalls, count, blocked, nanoseconds] =
        ["stalls", "count", "blocked", "nanoseconds"].map(|text| tables.string(text));
    let comment = tables.string("pollwatch: wall time for which polls blocked a worker, stalls only");
    let filename = tables.string(&recording.program);
    let stalls = ValueType { r#type: stalls, unit: count };
    PprofProfile {
        sample: profile.entries.iter().map(|entry| tables.sample(entry)).collect(),
        mapping: vec![Mapping {
            id: MAPPING,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        }],
        sample_type: vec![stalls, ValueType { r#type: blocked, unit: nanoseconds }],
        default_sample_type: blocked,
        // The period is 1 because every stall is recorded, not a sample of them.
        period_type: Some(stalls),
        period: 1,
        time_nanos: nanos(recording.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(recording.duration),
        comment: vec![comment],
        location: tables.locations,
        function: tables.functions,
        string_table: tables.strings,
    }
}

fn nanos(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX)
}

/// The tables that samples refer to by index.
struct Tables {
    strings: Vec<String>,
    string_ids: HashMap<String, i64>,
    functions: Vec<Function>,
    /// The key is name and file.
    function_ids: HashMap<(i64, i64), u64>,
    locations: Vec<Location>,
    /// The key is function and line.
    location_ids: HashMap<(u64, i64), u64>,
}

impl Tables {
    fn new() -> Tables {
        let mut tables = Tables {
            strings: Vec::new(),
            string_ids: HashMap::new(),
            functions: Vec::new(),
            function_ids: HashMap::new(),
            locations: Vec::new(),
            location_ids: HashMap::new(),
        };
        // The format requires the empty string at index 0.
        tables.string("");
        tables
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&id) = self.string_ids.get(text) {
            return id;
        }
        let id = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.string_ids.insert(text.to_owned(), id);
        id
    }

    fn location(&mut self, name: &str, file: Option<&str>, line: Option<u32>) -> u64 {
        let name = self.string(name);
        let filename = self.string(file.unwrap_or_default());
        let function_id = *self.function_ids.entry((name, filename)).or_insert_with(|| {
            let id = self.functions.len() as u64 + 1;
            self.functions.push(Function { id, name, system_name: name, filename });
            id
        });
        let line = line.unwrap_or(0).into();
        *self.location_ids.entry((function_id, line)).or_insert_with(|| {
            let id = self.locations.len() as u64 + 1;
            self.locations.push(Location { id, mapping_id: MAPPING, line: vec![Line { function_id, line }] });
            id
        })
    }

    fn sample(&mut self, entry: &ProfileEntry) -> Sample {
        let mut location = |f: &ProfileFunction| self.location(&f.name, f.file.as_deref(), f.line);
        let mut location_id: Vec<u64> = entry.stack.iter().rev().map(&mut location).collect();
        if location_id.is_empty() {
            location_id.push(self.location(&no_stack(entry), None, None));
        }
        let route = entry.route.as_deref().map(|route| ("route", route));
        let labels = [("runtime", &*entry.runtime), ("site", &*entry.site), ("cause", entry.cause.as_str())];
        Sample {
            location_id,
            value: vec![entry.stalls.count.try_into().unwrap_or(i64::MAX), nanos(entry.stalls.time)],
            label: labels
                .into_iter()
                .chain(route)
                .map(|(name, value)| Label { key: self.string(name), str: self.string(value) })
                .collect(),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::io::Read;

    use super::super::samples;
    use super::*;

    fn decoded(profile: &Profile) -> PprofProfile {
        let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(7_000_000_001);
        let recording = Recording { program: "app".into(), start, duration: Duration::from_secs(60) };
        let bytes = gzipped(profile, &recording).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        PprofProfile::decode(&plain[..]).unwrap()
    }

    /// `function@file:line`, innermost first.
    fn stack(profile: &PprofProfile, sample: &Sample) -> Vec<String> {
        let text = |id: i64| &profile.string_table[id as usize];
        let frame = |id: &u64| {
            let line = profile.location[*id as usize - 1].line[0];
            let function = profile.function[line.function_id as usize - 1];
            format!("{}@{}:{}", text(function.name), text(function.filename), line.line)
        };
        sample.location_id.iter().map(frame).collect()
    }

    fn labels(profile: &PprofProfile, sample: &Sample) -> Vec<String> {
        let text = |id: i64| &profile.string_table[id as usize];
        sample.label.iter().map(|label| format!("{}={}", text(label.key), text(label.str))).collect()
    }

    #[test]
    fn decodes_to_the_recorded_stalls() {
        let profile = decoded(&samples::stalls());
        let text = |id: i64| &*profile.string_table[id as usize];
        assert_eq!(text(0), "", "the format requires the empty string first");
        let types: Vec<_> = profile.sample_type.iter().map(|t| (text(t.r#type), text(t.unit))).collect();
        assert_eq!(types, [("stalls", "count"), ("blocked", "nanoseconds")]);
        assert_eq!(text(profile.default_sample_type), "blocked");
        assert_eq!((profile.time_nanos, profile.duration_nanos), (7_000_000_001, 60_000_000_000));
        assert_eq!(text(profile.mapping[0].filename), "app");
        assert!(profile.location.iter().all(|l| l.mapping_id == profile.mapping[0].id));
        let values: Vec<_> = profile.sample.iter().map(|s| (s.value[0], s.value[1])).collect();
        assert_eq!(values, [(3, 3_000_000_000), (2, 1_000_000_000), (1, 10_000_500), (1, 5_000_000)]);
        assert_eq!(stack(&profile, &profile.sample[0]), ["app::render@src/app.rs:41", "app::handler@src/app.rs:17"]);
        assert_eq!(stack(&profile, &profile.sample[2]), ["[no stack: unknown]@:0"]);
        assert_eq!(labels(&profile, &profile.sample[1]), ["runtime=main", "site=src/main.rs:8:9", "cause=lock"]);
        assert_eq!(labels(&profile, &profile.sample[3])[2], "cause=starved");
    }

    #[test]
    fn tables_have_no_duplicates_and_ids_in_order() {
        let profile = decoded(&samples::stalls());
        let functions: Vec<_> = profile.function.iter().map(|f| f.id).collect();
        assert_eq!(functions, [1, 2, 3, 4]);
        let locations: Vec<_> = profile.location.iter().map(|l| l.id).collect();
        assert_eq!(locations, [1, 2, 3, 4]);
        let mut strings = profile.string_table.clone();
        strings.sort();
        strings.dedup();
        assert_eq!(strings.len(), profile.string_table.len());
    }

    #[test]
    fn a_function_at_two_lines_has_two_locations() {
        let at = |line| samples::entry("s", crate::Cause::Cpu, vec![samples::function("f", "f.rs", line)], 1, 1);
        let profile = decoded(&samples::profile([at(1), at(2)]));
        assert_eq!((profile.function.len(), profile.location.len()), (1, 2));
    }

    #[test]
    fn an_empty_profile_is_valid() {
        let profile = decoded(&Profile::default());
        assert_eq!((profile.sample.len(), profile.sample_type.len()), (0, 2));
    }
}
