//! The ongoing incidents, without their stalls and threads.

use std::sync::Arc;

use serde::Serialize;

use super::seconds;
use crate::{Incident, IncidentKind, Phase};

#[derive(Serialize)]
pub(super) struct LiveIncident {
    id: u64,
    kind: IncidentKind,
    runtime: Arc<str>,
    duration_seconds: f64,
    reason: String,
}

/// Returns the incidents that are not over.
pub(super) fn ongoing(recent: Vec<Incident>) -> Vec<LiveIncident> {
    let ongoing = recent.into_iter().filter(|incident| incident.phase == Phase::Ongoing);
    let live = ongoing.map(|Incident { id, kind, runtime, duration, reason, .. }| LiveIncident {
        id,
        kind,
        runtime,
        duration_seconds: seconds(duration),
        reason,
    });
    live.collect()
}
