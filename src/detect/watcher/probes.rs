//! The probes of the runtimes, and what follows from their answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::observe::Observation;
use super::{LAG_PROBE_NANOS, PROBE_NANOS, Watcher};
use crate::detect::runtime_liveness::RuntimeLiveness;
use crate::detect::scan;
use crate::detect::track::Poll;
use crate::measure::thread::ThreadState;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

impl Watcher {
    /// Publishes the lag of the runtimes, by what the probes answered.
    pub(super) fn publish_lag(&mut self, seen: &Observation) {
        let meter = &self.meter;
        let outside = self.unwatched.keys().filter_map(|thread| seen.workers.busy.get(thread));
        let outside: Vec<(RuntimeId, u16)> = outside.map(|busy| (busy.runtime, busy.index)).collect();
        self.lag.publish(meter, seen.now, &seen.scan, |runtime| {
            let mut blocked: HashSet<u16> =
                outside.iter().filter(|(id, _)| *id == runtime.id).map(|(_, worker)| *worker).collect();
            let is_long = |poll: &Poll| seen.now.saturating_sub(poll.begin) >= meter.threshold;
            if seen.scan.running.iter().any(|poll| poll.runtime == runtime.id && is_long(poll)) {
                let polls = scan::worker_polls(meter, runtime, Nanos(meter.threshold));
                blocked.extend(polls.iter().map(|poll| poll.worker));
            }
            blocked.len()
        });
    }

    /// Wakes the probes of the runtimes that have been polling.
    pub(super) fn probe(&mut self, seen: &Observation) {
        let polls: HashMap<RuntimeId, u64> =
            seen.scan.running.iter().map(|poll| (poll.runtime, poll.key.thread)).collect();
        let mut polling: HashSet<RuntimeId> = polls.keys().copied().collect();
        let runtime = |id: RuntimeId| self.meter.runtimes.get(id);
        // A current-thread runtime that nobody drives answers no probe: what it waits for is not
        // its schedule.
        self.probing.retain(|id, liveness| {
            let poll = polls.get(id).copied();
            let state = |thread| seen.threads.get(&thread).map(|thread: &Arc<ThreadState>| thread.slot.version());
            let is_idle = !liveness.observe(seen.now, poll, state);
            if let Some(runtime) = runtime(*id).filter(|runtime| is_idle && !runtime.is_multi_thread()) {
                runtime.probe.withdraw();
            }
            !is_idle
        });
        let is_due = |last: u64, interval| seen.now.saturating_sub(last) >= interval;
        let is_due_for_all = is_due(self.probed, PROBE_NANOS);
        let is_due_for_lag = self.meter.has_lag_holders() && is_due(self.lag_probed, LAG_PROBE_NANOS);
        if !is_due_for_all && !is_due_for_lag {
            return;
        }
        self.lag_probed = seen.now;
        if is_due_for_all {
            self.probed = seen.now;
        }
        // In stable mode, no poll is measured of a runtime without a watched request or future.
        polling.extend(&seen.workers.busy_runtimes);
        // A late runtime is probed on, or nobody would learn that it is not late any more.
        polling.extend(self.lag.late());
        for id in polling {
            if let Some(runtime) = runtime(id).filter(|runtime| is_due_for_all || runtime.lag.is_held()) {
                if runtime.probe.send(self.meter.clock.now().0) {
                    self.lag.sent(&runtime);
                }
                let new = || RuntimeLiveness::new(seen.now, polls.get(&id).copied());
                self.probing.entry(id).or_insert_with(new);
            }
        }
    }
}
