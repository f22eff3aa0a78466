//! The serialized forms of durations, moments and task ids.

use std::time::{Duration, SystemTime};

use pollwatch_stack::Tid;
use serde::Serializer;

pub(super) fn as_text<S: Serializer>(task: &Option<tokio::task::Id>, s: S) -> Result<S::Ok, S::Error> {
    match task {
        Some(task) => s.collect_str(task),
        None => s.serialize_none(),
    }
}

pub(super) fn tid_as_number<S: Serializer>(tid: &Tid, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_i32(tid.as_raw())
}

pub(super) fn as_seconds<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(duration.as_secs_f64())
}

pub(super) fn as_optional_seconds<S: Serializer>(duration: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => s.serialize_f64(duration.as_secs_f64()),
        None => s.serialize_none(),
    }
}

pub(super) fn as_list_of_seconds<S: Serializer>(durations: &[Duration], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(durations.iter().map(Duration::as_secs_f64))
}

pub(super) fn as_unix_seconds<S: Serializer>(time: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()))
}
