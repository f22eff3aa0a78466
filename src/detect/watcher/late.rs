//! Reports runtimes that are late although no stall blocks them.

use std::collections::HashSet;

use super::Watcher;
use super::observe::ScanResult;
use crate::detect::late::{LateScan, PollUsage, ProbeState, UsageReading, WakeOfProbe};
use crate::detect::procfs;
use crate::detect::track::Poll;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::probe::Answer;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// The most threads of a runtime whose times are read. Those of a larger runtime are unknown.
const MAX_THREADS: usize = 256;

impl Watcher {
    /// Reports the runtimes whose probe waits, or has waited, for long.
    pub(super) fn report_late_runtimes(&mut self, scan: &ScanResult) {
        let meter = self.meter.clone();
        let stalled = self.stalled_runtimes(scan);
        let polling: HashSet<RuntimeId> = scan.polls.running.iter().map(|poll| poll.runtime).collect();
        for runtime in meter.runtimes.all() {
            let probe = match runtime.probe.answer() {
                Answer::Waiting(sent) => ProbeState::Waiting(WakeOfProbe { id: sent, at: meter.clock.nanos(sent) }),
                _ if !self.late.is_waiting(runtime.id) => continue,
                Answer::After(delay) => ProbeState::Answered(delay),
                Answer::Withdrawn => ProbeState::Silent,
            };
            let has_stall = stalled.contains(&runtime.id);
            let is_driven = runtime.is_multi_thread() || polling.contains(&runtime.id);
            let late_scan = LateScan { now: scan.now, probe, has_stall, is_driven, pauses: &self.pauses };
            let late = self.late.step(runtime.id, &late_scan, || usage(&meter, &runtime, scan));
            if let Some(late) = late {
                self.emitter.emit_late(&runtime, &late);
            }
        }
    }

    /// Returns the runtimes of which a worker is in a stall, or was since the previous scan, or has
    /// been in a scope of allowed blocking for the threshold.
    fn stalled_runtimes(&self, scan: &ScanResult) -> HashSet<RuntimeId> {
        let is_allowed = |since: Nanos| scan.now.saturating_sub(since) >= self.threshold;
        let blocks = |poll: &&Poll| self.tracker.is_stall(&poll.key) || poll.allowed_since.is_some_and(is_allowed);
        let running = scan.polls.running.iter().filter(blocks);
        let ended = scan.polls.ended.iter().filter(|ended| ended.worker.is_some()).map(|ended| &ended.poll);
        let outside = self.unwatched.keys().filter_map(|thread| scan.workers.busy.get(thread));
        running.chain(ended).map(|poll| poll.runtime).chain(outside.map(|busy| busy.runtime)).collect()
    }
}

/// Reads what the threads of a runtime have done until the scan: the counters of its sites and
/// routes, the time so far of running polls, and what the kernel counts for the threads.
fn usage(meter: &Meter, runtime: &Runtime, scan: &ScanResult) -> UsageReading {
    let workers = runtime.metrics().map_or(1, |metrics| metrics.num_workers());
    let mut reading = UsageReading { at: scan.now, workers, ..UsageReading::default() };
    // In stable mode a worker may have polled nothing that is measured.
    let pool = runtime.worker_threads().map(|pool| pool.entries()).unwrap_or_default();
    let mut tids: Vec<_> =
        pool.iter().filter(|entry| entry.last_event().is_some()).filter_map(|entry| entry.tid).collect();
    for thread in meter.threads() {
        let mut is_of_runtime = false;
        thread.counters.for_each_busy(runtime.id, |site, polls, busy| {
            is_of_runtime = true;
            reading.sites.insert((thread.id, site), PollUsage { polls, busy });
        });
        if is_of_runtime {
            tids.extend(thread.tid.filter(|tid| !tids.contains(tid)));
            thread.routes.for_each_busy(|route, polls, busy| {
                reading.routes.insert((thread.id, route), PollUsage { polls, busy });
            });
        }
    }
    for poll in scan.polls.running.iter().filter(|poll| poll.runtime == runtime.id) {
        let so_far = PollUsage { polls: 0, busy: scan.now.saturating_sub(poll.start) };
        reading.sites.entry((poll.key.thread, poll.site)).or_default().add(so_far);
    }
    reading.is_cut = tids.len() > MAX_THREADS;
    tids.truncate(MAX_THREADS);
    let times = tids.into_iter().filter_map(|tid| Some((tid, procfs::times(tid, || meter.clock.moment())?)));
    reading.threads = times.collect();
    reading
}
