//! The ongoing conditions of whole runtimes, from their start; an incident starts later.

use std::sync::Arc;

use serde::Serialize;

use super::seconds;
use crate::{Condition, ConditionKind};

#[derive(Serialize)]
pub(super) struct LiveCondition {
    kind: ConditionKind,
    runtime: Arc<str>,
    duration_seconds: f64,
    /// The id of the stall that causes it.
    stall: Option<u64>,
    reason: String,
    remedy: &'static str,
}

impl LiveCondition {
    pub(super) fn new(condition: Condition) -> LiveCondition {
        LiveCondition {
            reason: condition.to_string(),
            kind: condition.kind,
            duration_seconds: seconds(condition.duration),
            stall: condition.stall,
            remedy: condition.remedy,
            runtime: condition.runtime,
        }
    }
}
