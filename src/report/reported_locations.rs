//! The locations that a stage has reported of ongoing stalls.
//!
//! The history of a stall compares samples, of which most are in no report: the first report of a
//! stall with a stack may come after several samples. A person who reads `still at` compares with
//! the report before.

use std::collections::BTreeMap;

use pollwatch_stack::Stack;

use super::counters::QUEUE;
use crate::model::stall::{Phase, Stall};

/// The number of ongoing stalls that are remembered: the end of one may have been lost.
pub(super) const MAX_ONGOING: usize = 4 * QUEUE;

/// The latest reported stack of each ongoing stall.
#[derive(Default)]
pub(super) struct ReportedLocations {
    /// The stacks by the id of the stall: the oldest first.
    latest: BTreeMap<u64, Stack>,
}

impl ReportedLocations {
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Sets whether the location of a stall that is reported now is another one than in the
    /// previous report that had one.
    pub(super) fn compare(&mut self, stall: &mut Stall) {
        let before = self.latest.remove(&stall.id);
        stall.location_changed = match (&before, &stall.stack) {
            (Some(before), Some(now)) => Some(!before.is_same_location(now)),
            _ => None,
        };
        if stall.phase == Phase::Ongoing
            && let Some(latest) = stall.stack.clone().or(before)
        {
            self.latest.insert(stall.id, latest);
            if self.latest.len() > MAX_ONGOING {
                self.latest.pop_first();
            }
        }
    }
}
