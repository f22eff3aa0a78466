//! Workers that are seen from outside: what is made of those that a task blocks which nobody wrapped.

use super::Watcher;
use super::look::Seen;
use crate::detect::scan::Change;
use crate::detect::still::Still;
use crate::detect::suspect::Verdict;
use crate::detect::workers::Eyes;
use crate::report::reporter::Unwatched;

impl Watcher {
    /// Has the workers told that are blocked by tasks that nobody wrapped.
    pub(super) fn suspect(&mut self, seen: &Seen) {
        if seen.workers.is_blind() && self.suspected.is_empty() {
            return;
        }
        self.workers.learn(&seen.workers, seen.now, &mut self.reporter);
        let mut eyes = Eyes { look: &seen.workers, workers: &self.workers, reporter: &mut self.reporter };
        let verdicts = self.suspects.step(seen.now, &seen.workers.sightings, &self.pauses, &mut eyes);
        for verdict in verdicts {
            self.tell_verdict(verdict, seen);
        }
    }

    fn tell_verdict(&mut self, verdict: Verdict, seen: &Seen) {
        let change = match verdict {
            Verdict::Began { thread, certainty, stands, begin, elapsed } => {
                let Some(busy) = seen.workers.busy.get(&thread) else { return };
                let id = self.tracker.new_id();
                self.suspected.insert(thread, id);
                let mut still = busy.still.clone();
                still.cpu = still.cpu.filter(|_| stands);
                let unwatched = Unwatched {
                    id,
                    runtime: busy.runtime,
                    worker: busy.index,
                    thread: busy.state.clone(),
                    still: Still::Worker(still),
                    certainty,
                    begin,
                    elapsed,
                };
                return self.reporter.tell_unwatched(unwatched, seen.at);
            }
            Verdict::Continued { thread, elapsed } => {
                self.suspected.get(&thread).map(|&id| Change::Continued { id, elapsed })
            }
            Verdict::GoesOn { thread, elapsed } => {
                self.suspected.get(&thread).map(|&id| Change::GoesOn { id, elapsed })
            }
            Verdict::Ended { thread, elapsed } => {
                self.suspected.remove(&thread).map(|id| Change::Ended { id, elapsed })
            }
        };
        if let Some(change) = change {
            self.reporter.tell(change, seen.at, |_| None);
        }
    }
}
