//! The probes of the runtimes, and what follows from their answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::observe::Observation;
use super::{PROBE_NANOS, SHED_PROBE_NANOS, Watcher};
use crate::detect::runtime_liveness::RuntimeLiveness;
use crate::measure::thread::ThreadState;

impl Watcher {
    /// Has requests turned away, or admitted again, by what the probes answered.
    pub(super) fn shed(&mut self, seen: &Observation) {
        for told in self.shedding.step(&self.meter, seen.now, &seen.scan) {
            self.emitter.emit_shedding(told);
        }
    }

    /// Wakes the probes of the runtimes that have been polling.
    pub(super) fn probe(&mut self, seen: &Observation) {
        let polls: HashMap<u16, u64> = seen.scan.running.iter().map(|poll| (poll.runtime, poll.key.thread)).collect();
        let mut polling: HashSet<u16> = polls.keys().copied().collect();
        let runtime = |id: u16| self.meter.runtimes.get(id);
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
        let interval = if self.shedding.is_wanted() { SHED_PROBE_NANOS } else { PROBE_NANOS };
        if seen.now.saturating_sub(self.probed) < interval {
            return;
        }
        self.probed = seen.now;
        // A late runtime is probed on, or nobody would learn that it is not late any more.
        polling.extend(self.shedding.late());
        for id in polling {
            if let Some(runtime) = runtime(id) {
                if runtime.probe.send(self.meter.clock.now()) {
                    self.shedding.sent(id);
                }
                let new = || RuntimeLiveness::new(seen.now, polls.get(&id).copied());
                self.probing.entry(id).or_insert_with(new);
            }
        }
    }
}
