//! Stalls for tests.

use std::time::Duration;

use crate::model::cause::{Cause, Certainty};
use crate::model::site::Site;
use crate::model::stall::{Phase, Stall};

/// Returns an ongoing, measured stall of an unknown cause.
pub(super) fn stall(id: u64, millis: u64) -> Stall {
    Stall {
        id,
        phase: Phase::Ongoing,
        certainty: Certainty::Measured,
        runtime: "main".into(),
        worker: Some(0),
        thread: "t".into(),
        task: None,
        site: Site::new(None),
        watched: None,
        route: None,
        parent_route: None,
        latest_request: None,
        spans: Vec::new(),
        cause: Cause::Unknown,
        started_at: std::time::SystemTime::UNIX_EPOCH,
        elapsed: Duration::from_millis(millis),
        elapsed_is_lower_bound: false,
        on_cpu: None,
        syscall: None,
        stack: None,
        location_changed: None,
        reason: "",
        advice: None,
    }
}
