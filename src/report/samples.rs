//! Stalls and frames for tests.

use std::time::{Duration, SystemTime};

use pollwatch_stack::Frame;

use crate::model::id::StallId;
use crate::model::site::Site;
use crate::model::stall::Stall;

/// Returns an ongoing, measured stall of an unknown cause.
pub(super) fn stall(id: u64, millis: u64) -> Stall {
    let started_at = SystemTime::UNIX_EPOCH;
    let elapsed = Duration::from_millis(millis);
    Stall {
        worker: Some(0),
        elapsed,
        ..Stall::new(StallId(id), "main".into(), "t".into(), Site::new(None), started_at)
    }
}

/// Returns a frame of a function.
pub(super) fn frame(function: &str) -> Frame {
    let mut frame = Frame::default();
    frame.function = Some(function.into());
    frame
}
