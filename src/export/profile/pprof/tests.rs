//! The tests read the profile with an independent decoder, by the fields of pprof's schema.

use std::io::Read;

use prost::Message;

use super::super::samples;
use super::*;

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

fn decoded(profile: &Profile) -> PprofProfile {
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(7_000_000_001);
    let recording = Recording { program: "app".into(), start, duration: Duration::from_secs(60) };
    let bytes = gzipped(profile, &recording).unwrap();
    PprofProfile::decode(&decompressed(&bytes)[..]).unwrap()
}

fn decompressed(file: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut content).unwrap();
    content
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

/// A file of random bytes is longer than its content.
#[test]
fn what_does_not_compress_is_complete() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for len in [0, 1, 2, 100, 4_095, 65_535, 65_536, 1_000_000] {
        let content: Vec<u8> = (0..len).map(|_| random()).collect();
        let file = gzip(&content).unwrap();
        assert!(file.len() > content.len(), "{len}");
        assert!(decompressed(&file) == content, "{len}");
    }
}
