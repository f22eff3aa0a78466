//! Wakes the probes of the runtimes, and publishes the lag that they measure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::observe::ScanResult;
use super::{LAG_PROBE_INTERVAL, PROBE_INTERVAL, Watcher};
use crate::detect::runtime_liveness::RuntimeLiveness;
use crate::detect::scan;
use crate::detect::track::Poll;
use crate::measure::thread::ThreadState;
use crate::model::id::{RuntimeId, ThreadNumber, WorkerIndex};
use crate::model::time::Nanos;

impl Watcher {
    /// Publishes the lag of the runtimes, by what the probes answered.
    pub(super) fn publish_lag(&mut self, scan: &ScanResult) {
        let meter = &self.meter;
        let outside = self.unwatched.keys().filter_map(|thread| scan.workers.busy.get(thread));
        let outside: Vec<(RuntimeId, Option<WorkerIndex>)> = outside.map(|busy| (busy.runtime, busy.index)).collect();
        let busy = &scan.workers.busy_runtimes;
        self.lag.publish(meter, scan.now, &scan.polls, busy, |runtime| {
            let of_runtime = || outside.iter().filter(|(id, _)| *id == runtime.id).map(|(_, worker)| *worker);
            let mut blocked: HashSet<WorkerIndex> = of_runtime().flatten().collect();
            // No two observed stalls are of one worker.
            let unknown = of_runtime().filter(Option::is_none).count();
            let threshold = self.threshold;
            let is_long = |poll: &Poll| scan.now.saturating_sub(poll.start) >= threshold;
            if scan.polls.running.iter().any(|poll| poll.runtime == runtime.id && is_long(poll)) {
                let polls = scan::worker_polls(meter, runtime, threshold);
                blocked.extend(polls.iter().map(|poll| poll.worker));
            }
            blocked.len() + unknown
        });
    }

    /// Wakes the probes of the runtimes that have been polling.
    pub(super) fn probe(&mut self, scan: &ScanResult) {
        let polls: HashMap<RuntimeId, ThreadNumber> =
            scan.polls.running.iter().map(|poll| (poll.runtime, poll.key.thread)).collect();
        let mut polling: HashSet<RuntimeId> = polls.keys().copied().collect();
        let runtime = |id: RuntimeId| self.meter.runtimes.get(id);
        // A current-thread runtime that no thread drives answers no probe. That is no schedule
        // delay, so that the probe is withdrawn.
        self.probing.retain(|id, liveness| {
            let poll = polls.get(id).copied();
            let version = |thread| scan.threads.get(&thread).map(|thread: &Arc<ThreadState>| thread.slot.version());
            let is_idle = !liveness.observe(scan.now, poll, version);
            if let Some(runtime) = runtime(*id).filter(|runtime| is_idle && !runtime.is_multi_thread()) {
                runtime.probe.withdraw();
            }
            !is_idle
        });
        let is_due = |last: Nanos, interval| scan.now.saturating_sub(last) >= interval;
        let is_due_for_all = is_due(self.probed_at, PROBE_INTERVAL);
        let is_due_for_lag = self.meter.has_lag_holders() && is_due(self.lag_probed_at, LAG_PROBE_INTERVAL);
        let postponed = std::mem::take(&mut self.postponed_probes);
        if !is_due_for_all && !is_due_for_lag {
            let due = postponed.into_iter().filter(|id| polling.contains(id)).collect();
            return self.send_probes(scan, due, &polls);
        }
        self.lag_probed_at = scan.now;
        if is_due_for_all {
            self.probed_at = scan.now;
        }
        // In stable mode, a runtime without a watched request or future has no measured polls.
        polling.extend(&scan.workers.busy_runtimes);
        // A late runtime is probed on, until the delay is known to be gone.
        polling.extend(self.lag.late());
        let is_held = |id: &RuntimeId| runtime(*id).is_some_and(|runtime| runtime.lag.is_held());
        polling.retain(|id| is_due_for_all || postponed.contains(id) || is_held(id));
        self.send_probes(scan, polling, &polls);
    }

    /// Wakes the probes of these runtimes. Where that might do more than to measure the delay, it
    /// is postponed to the next scan.
    fn send_probes(&mut self, scan: &ScanResult, due: HashSet<RuntimeId>, polls: &HashMap<RuntimeId, ThreadNumber>) {
        for id in due {
            let Some(runtime) = self.meter.runtimes.get(id) else { continue };
            if !self.is_probe_harmless(scan, &runtime) {
                self.postponed_probes.insert(id);
                continue;
            }
            if runtime.probe.send(self.meter.clock.now()) {
                self.lag.probe_sent(&runtime);
            }
            let new = || RuntimeLiveness::new(scan.now, polls.get(&id).copied());
            self.probing.entry(id).or_insert_with(new);
        }
    }
}
