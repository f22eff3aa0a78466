//! The profile in pprof's format, a gzipped protocol buffer
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>).
//!
//! Each sample has two values: stalls and blocked nanoseconds. Runtime, site, route and cause are
//! labels (`go tool pprof -tagroot=runtime,site`).

mod wire;

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

use zlib_rs::{DeflateConfig, ReturnCode, compress_bound, compress_slice};

use self::wire::EncodedMessage;
use super::no_stack;
use crate::{Profile, ProfileEntry, ProfileFunction};

/// The id of the program, the one mapping of a profile.
const MAPPING: u64 = 1;
/// A window of 32 kB, and the header and the checksum of a gzip file.
const GZIP_WINDOW_BITS: i32 = 15 + 16;
/// The bytes by which these are longer than those of a zlib stream, which `compress_bound` counts.
const GZIP_EXTRA: usize = 12;

/// The program and the time in which a profile was recorded.
#[derive(Clone, Debug)]
pub(in crate::export) struct Recording {
    pub(in crate::export) program: String,
    pub(in crate::export) start: SystemTime,
    pub(in crate::export) duration: Duration,
}

/// Returns the profile as a file.
pub(in crate::export) fn gzipped(profile: &Profile, recording: &Recording) -> io::Result<Vec<u8>> {
    gzip(&message(profile, recording).into_bytes())
}

fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut file = vec![0; compress_bound(content.len()) + GZIP_EXTRA];
    let config = DeflateConfig { window_bits: GZIP_WINDOW_BITS, ..DeflateConfig::default() };
    let (compressed, result) = compress_slice(&mut file, content, config);
    let len = compressed.len();
    if result != ReturnCode::Ok {
        return Err(io::Error::other(format!("the profile cannot be compressed: {result:?}")));
    }
    file.truncate(len);
    Ok(file)
}

/// Returns the message `Profile`. Each field is written under its number in the schema.
fn message(profile: &Profile, recording: &Recording) -> EncodedMessage {
    let mut message = EncodedMessage::default();
    let mut tables = Tables::new();
    let [stalls, count, blocked, nanoseconds] =
        ["stalls", "count", "blocked", "nanoseconds"].map(|text| tables.string(text));
    let comment = tables.string("pollwatch: wall time for which polls blocked a worker, stalls only");
    let filename = tables.string(&recording.program);
    let stalls = value_type(stalls, count);
    message.message(1, &stalls);
    message.message(1, &value_type(blocked, nanoseconds));
    for entry in &profile.entries {
        message.message(2, &tables.sample(entry));
    }
    message.message(3, &mapping(filename));
    tables.locations.iter().for_each(|location| message.message(4, location));
    tables.functions.iter().for_each(|function| message.message(5, function));
    tables.strings.iter().for_each(|text| message.text(6, text));
    message.int(9, nanos(recording.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
    message.int(10, nanos(recording.duration));
    // The period is 1 because every stall is recorded, not a sample of them.
    message.message(11, &stalls);
    message.int(12, 1);
    message.packed(13, [comment.cast_unsigned()]);
    message.int(14, blocked);
    message
}

/// Returns a message `ValueType`: the name and the unit of a sample's value.
fn value_type(name: i64, unit: i64) -> EncodedMessage {
    let mut message = EncodedMessage::default();
    message.int(1, name);
    message.int(2, unit);
    message
}

/// Returns the message `Mapping` of the program. It says that all frames are symbolized, so that
/// pprof does not search for the file.
fn mapping(filename: i64) -> EncodedMessage {
    let mut message = EncodedMessage::default();
    message.uint(1, MAPPING);
    message.int(5, filename);
    // Functions, files, lines and inlined frames.
    (7..=10).for_each(|field| message.bool(field, true));
    message
}

fn nanos(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX)
}

/// The tables that samples refer to by index.
struct Tables {
    strings: Vec<String>,
    string_ids: HashMap<String, i64>,
    /// The messages `Function`.
    functions: Vec<EncodedMessage>,
    /// The key is name and file.
    function_ids: HashMap<(i64, i64), u64>,
    /// The messages `Location`.
    locations: Vec<EncodedMessage>,
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
            let mut function = EncodedMessage::default();
            function.uint(1, id);
            // The name to show, and the name in the program.
            function.int(2, name);
            function.int(3, name);
            function.int(4, filename);
            self.functions.push(function);
            id
        });
        let line = line.unwrap_or(0).into();
        *self.location_ids.entry((function_id, line)).or_insert_with(|| {
            let id = self.locations.len() as u64 + 1;
            let mut position = EncodedMessage::default();
            position.uint(1, function_id);
            position.int(2, line);
            let mut location = EncodedMessage::default();
            location.uint(1, id);
            location.uint(2, MAPPING);
            location.message(4, &position);
            self.locations.push(location);
            id
        })
    }

    /// Returns a message `Sample`: the stack, innermost first, the values and the labels.
    fn sample(&mut self, entry: &ProfileEntry) -> EncodedMessage {
        let mut location = |f: &ProfileFunction| self.location(&f.name, f.file.as_deref(), f.line);
        let mut locations: Vec<u64> = entry.stack.iter().rev().map(&mut location).collect();
        if locations.is_empty() {
            locations.push(self.location(&no_stack(entry), None, None));
        }
        let count = entry.stalls.count.try_into().unwrap_or(i64::MAX);
        let mut sample = EncodedMessage::default();
        sample.packed(1, locations);
        sample.packed(2, [count, nanos(entry.stalls.time)].map(i64::cast_unsigned));
        let route = entry.route.as_deref().map(|route| ("route", route));
        let labels = [("runtime", &*entry.runtime), ("site", &*entry.site), ("cause", entry.cause.as_str())];
        for (name, value) in labels.into_iter().chain(route) {
            let mut label = EncodedMessage::default();
            label.int(1, self.string(name));
            label.int(2, self.string(value));
            sample.message(3, &label);
        }
        sample
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
