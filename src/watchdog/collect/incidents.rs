//! The numbers of incidents and of their actions.

use crate::model::incident::IncidentKind;
use crate::model::labels::{ActionName, ActionResult};
use crate::model::snapshot::{IncidentActionSnapshot, IncidentSnapshot};
use crate::util::lock;
use crate::watchdog::WatchdogState;

/// Returns the incidents of a runtime, by kind.
pub(super) fn of_runtime(state: &WatchdogState, runtime: &str) -> Vec<IncidentSnapshot> {
    let tracker = lock(&state.incidents.tracker);
    let of_kind = |&kind: &IncidentKind| {
        let count = tracker.counts().iter().find(|count| count.key.kind == kind && &*count.key.runtime == runtime);
        let (count, is_ongoing) = count.map_or((0, false), |count| (count.count, count.is_ongoing));
        IncidentSnapshot { kind, count, is_ongoing }
    };
    IncidentKind::ALL.iter().map(of_kind).collect()
}

/// Returns the numbers of actions by their result, for each action that is set.
pub(super) fn actions(state: &WatchdogState) -> Vec<IncidentActionSnapshot> {
    let incidents = &state.incidents;
    let of_action = |&action: &ActionName| {
        let of_result = move |result: ActionResult| IncidentActionSnapshot {
            action,
            result,
            count: incidents.counters.get(action, result),
        };
        ActionResult::ALL.iter().copied().map(of_result)
    };
    incidents.actions.iter().flat_map(of_action).collect()
}
