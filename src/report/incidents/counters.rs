//! Counters of actions, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::labels::{ActionName, ActionResult};

/// The numbers of actions by their result.
#[derive(Debug, Default)]
pub(crate) struct ActionCounters([[AtomicU64; ActionResult::ALL.len()]; ActionName::ALL.len()]);

impl ActionCounters {
    pub(super) fn count(&self, action: ActionName, result: ActionResult) {
        self.0[action as usize][result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, action: ActionName, result: ActionResult) -> u64 {
        self.0[action as usize][result as usize].load(Ordering::Relaxed)
    }
}
