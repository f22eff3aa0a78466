//! The stage that calls the user's callback. It has a thread of its own, so that a callback that
//! blocks delays nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::{QUEUE, ReportCounters};
use super::queue::{Report, ReportQueue};
use super::reported_locations::ReportedLocations;
use crate::model::event::Notice;
use crate::model::stall::Stall;
use crate::util::call_user;

/// The duration from which a callback is slow. The first slow one is logged.
pub(super) const SLOW_CALLBACK: Duration = Duration::from_millis(100);

/// A user's callback.
pub(crate) type OnStall = Box<dyn Fn(&Stall) + Send + Sync>;

/// Returns one callback that calls several. A panic in one keeps none of the others from being
/// called. It is resumed after them, and counted once for each report.
pub(crate) fn combine(mut callbacks: Vec<OnStall>) -> Option<OnStall> {
    if callbacks.len() < 2 {
        return callbacks.pop();
    }
    Some(Box::new(move |stall| {
        let panics = callbacks.iter().filter(|callback| call_user(|| callback(stall))).count();
        if panics > 0 {
            std::panic::resume_unwind(Box::new("a callback has panicked"));
        }
    }))
}

/// Calls the callback of one watchdog.
pub(super) struct CallStage {
    callback: OnStall,
    counters: Arc<ReportCounters>,
    /// The queue of the log, unless the log is off.
    log: Option<Arc<ReportQueue>>,
    has_logged_slow: bool,
    /// The locations that the callback has got.
    locations: ReportedLocations,
}

impl CallStage {
    pub(super) fn new(callback: OnStall, counters: Arc<ReportCounters>, log: Option<Arc<ReportQueue>>) -> CallStage {
        CallStage { callback, counters, log, has_logged_slow: false, locations: ReportedLocations::default() }
    }

    /// Runs until the queue is closed and all reports were passed to the callback.
    pub(super) fn run(mut self, queue: &ReportQueue) {
        while let Some(report) = queue.pop() {
            if let Report::Stall(mut record) = report {
                self.locations.compare(&mut record.stall);
                self.call(&record.stall);
            }
        }
    }

    pub(super) fn call(&mut self, stall: &Stall) {
        let start = Instant::now();
        self.counters.count_panic(call_user(|| (self.callback)(stall)));
        if start.elapsed() > SLOW_CALLBACK && !self.has_logged_slow {
            self.has_logged_slow = true;
            let limit = SLOW_CALLBACK.as_millis();
            let text = format!(
                "an on_stall callback took more than {limit} ms: later calls wait for it, get only the latest state of \
                 each stall, and are lost for further stalls when {QUEUE} wait",
            );
            if let Some(log) = &self.log
                && !log.push_notice(Notice::Degraded(text))
            {
                self.counters.count_lost(crate::model::labels::ReportStage::Log);
            }
        }
    }
}
