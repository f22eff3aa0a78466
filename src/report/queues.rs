//! The queues in front of the log and the callback.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::counters::ReportCounters;
use super::ongoing::StallRecord;
use super::queue::ReportQueue;
use crate::model::event::Notice;
use crate::model::labels::ReportStage;

/// The time for which the first report of a stall waits for symbols.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The time for which a later report of a stall waits for symbols.
pub(super) const LATER_WAIT: Duration = Duration::from_secs(2);

/// The queues of the log and the callback. They are closed when all that fill them are gone.
pub(super) struct ReportQueues {
    log: Option<Arc<ReportQueue>>,
    callback: Option<Arc<ReportQueue>>,
    counters: Arc<ReportCounters>,
}

impl ReportQueues {
    pub(super) fn new(
        log: Option<Arc<ReportQueue>>,
        callback: Option<Arc<ReportQueue>>,
        counters: Arc<ReportCounters>,
    ) -> ReportQueues {
        ReportQueues { log, callback, counters }
    }

    /// Queues a report of a stall, which waits at most this long for symbols, and at least for the
    /// time `hold`.
    pub(super) fn push_held_stall(&self, record: &StallRecord, wait: Duration, hold: Duration) {
        for (stage, queue) in self.of_stalls() {
            if !queue.push_held_stall(record.clone(), wait, hold) {
                self.counters.count_lost(stage);
            }
        }
    }

    /// Queues a notice, which is only logged. Returns `false` if it was lost.
    pub(super) fn push_notice(&self, notice: Notice) -> bool {
        let Some(log) = &self.log else { return true };
        let is_queued = log.push_notice(notice);
        if !is_queued {
            self.counters.count_lost(ReportStage::Log);
        }
        is_queued
    }

    /// Queues the last line of the process, and waits until it is logged, at most this long.
    pub(super) fn log_last_line(&self, text: String, limit: Duration) {
        let (_logged, is_logged) = mpsc::sync_channel(0);
        self.push_notice(Notice::ProcessEnds { text, _logged });
        let _ = is_logged.recv_timeout(limit);
    }

    /// Replaces the waiting report of a stall by its newer state.
    pub(super) fn refresh(&self, record: &StallRecord) {
        self.of_stalls().for_each(|(_, queue)| queue.refresh(record));
    }

    /// Replaces the waiting report of a stall by its newer state, which waits for no symbols.
    pub(super) fn update(&self, record: &StallRecord) {
        self.of_stalls().for_each(|(_, queue)| queue.update(record));
    }

    /// Lets the waiting report of a stall wait for symbols no longer.
    pub(super) fn set_ready(&self, id: u64) {
        self.of_stalls().for_each(|(_, queue)| queue.set_ready(id));
    }

    fn of_stalls(&self) -> impl Iterator<Item = (ReportStage, &ReportQueue)> {
        let queues = [(ReportStage::Log, &self.log), (ReportStage::Callback, &self.callback)];
        queues.into_iter().filter_map(|(stage, queue)| Some((stage, &**queue.as_ref()?)))
    }
}

impl Drop for ReportQueues {
    fn drop(&mut self) {
        self.of_stalls().for_each(|(_, queue)| queue.close());
    }
}
