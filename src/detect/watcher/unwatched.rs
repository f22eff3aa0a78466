//! Stalls of workers that are blocked by tasks that are not watched (stable mode).

use super::Watcher;
use super::observe::ScanResult;
use crate::detect::emit::UnwatchedStall;
use crate::detect::identity::StallIdentity;
use crate::detect::outside::inspector::ThreadInspector;
use crate::detect::outside::observation::{Activity, WorkerChange};
use crate::detect::track::Change;

impl Watcher {
    /// Detects the workers that are blocked by tasks that are not watched, and emits the changes of
    /// their stalls.
    pub(super) fn detect_blocked_workers(&mut self, scan: &mut ScanResult) {
        self.workers.observe_current_thread(&self.meter, &mut scan.workers, &mut self.examiner);
        self.emitter.report_missing_symbols();
        if scan.workers.is_empty() && self.unwatched.is_empty() {
            return;
        }
        self.workers.capture_parked_stacks(&scan.workers, scan.now, &mut self.examiner);
        self.workers.observe_unpublished(&self.meter, &mut scan.workers, &mut self.examiner);
        let mut inspector =
            ThreadInspector { scan: &scan.workers, workers: &mut self.workers, examiner: &mut self.examiner };
        let changes = self.detector.step(scan.now, &scan.workers.observations, &self.pauses, &mut inspector);
        for change in changes {
            self.emit_worker_change(change, scan);
        }
    }

    fn emit_worker_change(&mut self, change: WorkerChange, scan: &ScanResult) {
        let at = scan.now;
        let change = match change {
            WorkerChange::Started { thread, certainty, activity, start, elapsed } => {
                let Some(busy) = scan.workers.busy.get(&thread) else { return };
                let id = self.tracker.new_id();
                self.unwatched.insert(thread, id);
                let mut identity = busy.identity.clone();
                identity.cpu = identity.cpu.filter(|_| activity == Activity::Waiting);
                let unwatched = UnwatchedStall {
                    id,
                    runtime: busy.runtime,
                    worker: busy.index,
                    thread: busy.state.clone(),
                    identity: StallIdentity::Worker(identity),
                    certainty,
                    start,
                    elapsed,
                };
                return self.emitter.emit_unwatched(&mut self.examiner, unwatched, at);
            }
            WorkerChange::ReportDue { thread, elapsed } => {
                self.unwatched.get(&thread).map(|&id| Change::ReportDue { id, elapsed })
            }
            WorkerChange::StillOngoing { thread, elapsed } => {
                self.unwatched.get(&thread).map(|&id| Change::StillOngoing { id, elapsed })
            }
            WorkerChange::Ended { thread, elapsed } => {
                self.unwatched.remove(&thread).map(|id| Change::Ended { id, elapsed, end: None, whole: elapsed })
            }
        };
        if let Some(change) = change {
            self.emitter.emit_change(&mut self.examiner, change, at, None);
        }
    }
}
