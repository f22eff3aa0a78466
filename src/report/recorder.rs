//! The recorder: updates the store on the watchdog thread, and queues reports for the dispatcher.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use super::dispatch::{Report, ReportCounters};
use super::reason;
use super::store::{StallRecord, StallStore};
use crate::model::event::{Event, StallProgress};
use crate::util::lock;

/// Records all events of one watchdog.
pub(crate) struct Recorder {
    store: Arc<Mutex<StallStore>>,
    queue: SyncSender<Report>,
    counters: Arc<ReportCounters>,
}

impl Recorder {
    pub(crate) fn new(
        store: Arc<Mutex<StallStore>>,
        queue: SyncSender<Report>,
        counters: Arc<ReportCounters>,
    ) -> Recorder {
        Recorder { store, queue, counters }
    }

    /// Records an event. Does not wait for the dispatcher.
    pub(crate) fn record(&mut self, event: Event) {
        match event {
            Event::StallStarted(mut started) => {
                reason::explain(&mut started.stall);
                let stack = started.stack.take();
                let record = StallRecord { stall: started.stall.clone(), origin: started.origin };
                lock(&self.store).insert_ongoing(*started);
                self.send(Report::Stall { record: Box::new(record), stack });
            }
            Event::StallProgress(progress) => {
                let StallProgress { id, elapsed, at, cause, syscall, on_cpu, spans, stack } = *progress;
                let record = lock(&self.store).update(id, |ongoing| {
                    ongoing.set_elapsed(elapsed, at);
                    ongoing.refine(cause, syscall, on_cpu, spans);
                });
                self.send_some(record.map(|record| Report::Stall { record: Box::new(record), stack }));
            }
            Event::StallStillOngoing { id, elapsed, at } => lock(&self.store).set_elapsed(id, elapsed, at),
            Event::StallEnded { id, elapsed } => {
                let record = lock(&self.store).resolve(id, elapsed);
                self.send_some(record.map(|record| Report::Stall { record: Box::new(record), stack: None }));
            }
            Event::StallEndedUnseen { mut stall, origin } => {
                reason::explain(&mut stall);
                let record = StallRecord { stall: *stall, origin };
                lock(&self.store).insert_resolved(record.clone());
                self.send(Report::Stall { record: Box::new(record), stack: None });
            }
            Event::RequestBlocked(request) => lock(&self.store).record_request(request),
            Event::Notice(notice) => self.send(Report::Notice(notice)),
        }
    }

    fn send_some(&mut self, report: Option<Report>) {
        if let Some(report) = report {
            self.send(report);
        }
    }

    /// Queues a report for the dispatcher. If a log or a callback is so slow that the queue is
    /// full, the report is lost and counted; the stall is in the store nevertheless.
    fn send(&mut self, report: Report) {
        if self.queue.try_send(report).is_err() {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
