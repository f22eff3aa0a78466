//! Counters of reports, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::labels::ReportStage;

/// The number of reports that may wait for one stage.
pub(crate) const QUEUE: usize = 1_024;

/// Counters of reports.
#[derive(Debug, Default)]
pub(crate) struct ReportCounters {
    /// Stalls, panics and pauses whose first report the rate limit of the log suppressed.
    pub(crate) suppressed: AtomicU64,
    /// Panics in callbacks and subscribers.
    pub(crate) callback_panics: AtomicU64,
    /// Files with symbols that could not be used, in the whole process.
    pub(crate) unusable_symbol_files: AtomicU64,
    lost: [AtomicU64; ReportStage::ALL.len()],
}

impl ReportCounters {
    /// Returns the number of reports that did not fit into the queue of a stage.
    pub(crate) fn lost(&self, stage: ReportStage) -> u64 {
        self.lost[stage as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_lost(&self, stage: ReportStage) {
        self.lost[stage as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_panic(&self, has_panicked: bool) {
        if has_panicked {
            self.callback_panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}
