//! Stalls of workers that are blocked by tasks that nobody wrapped.

use super::Watcher;
use super::observe::Observation;
use crate::detect::emit::UnwatchedStall;
use crate::detect::identity::StallIdentity;
use crate::detect::outside::detector::{Activity, Verdict};
use crate::detect::outside::workers::ThreadInspector;
use crate::detect::track::Change;
use crate::model::time::Nanos;

impl Watcher {
    /// Finds the workers that are blocked by tasks that nobody wrapped, and emits what became of
    /// them.
    pub(super) fn detect_blocked_workers(&mut self, seen: &Observation) {
        if seen.workers.is_empty() && self.unwatched.is_empty() {
            return;
        }
        self.workers.learn_parked_stacks(&seen.workers, seen.now, &mut self.examiner);
        let mut inspector =
            ThreadInspector { scan: &seen.workers, workers: &self.workers, examiner: &mut self.examiner };
        let verdicts = self.detector.step(seen.now, &seen.workers.observations, &self.pauses, &mut inspector);
        for verdict in verdicts {
            self.emit_verdict(verdict, seen);
        }
    }

    fn emit_verdict(&mut self, verdict: Verdict, seen: &Observation) {
        let at = Nanos(seen.now);
        let change = match verdict {
            Verdict::Started { thread, certainty, activity, begin, elapsed } => {
                let Some(busy) = seen.workers.busy.get(&thread) else { return };
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
                    begin,
                    elapsed,
                };
                return self.emitter.emit_unwatched(&mut self.examiner, unwatched, at);
            }
            Verdict::Continued { thread, elapsed } => {
                self.unwatched.get(&thread).map(|&id| Change::Continued { id, elapsed })
            }
            Verdict::Unchanged { thread, elapsed } => {
                self.unwatched.get(&thread).map(|&id| Change::Unchanged { id, elapsed })
            }
            Verdict::Ended { thread, elapsed } => {
                self.unwatched.remove(&thread).map(|id| Change::Ended { id, elapsed })
            }
        };
        if let Some(change) = change {
            self.emitter.emit_change(&mut self.examiner, change, at, |_| None);
        }
    }
}
