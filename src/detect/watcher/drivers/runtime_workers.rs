//! The states of a runtime's workers at a scan, as far as they concern the driver.

use std::collections::{HashMap, HashSet};

use pollwatch_stack::Tid;

use crate::detect::conditions::driver_reading;
use crate::detect::conditions::driver_watch::{Culprit, ReadingEvidence, WorkerCounts};
use crate::detect::procfs;
use crate::detect::track::TrackedState;
use crate::detect::watcher::Watcher;
use crate::detect::watcher::observe::ScanResult;
use crate::measure::runtime::Runtime;
use crate::model::id::ThreadNumber;
use crate::model::time::Nanos;

/// A worker that has left the driver publishes that, and runs tasks, long before it has used a CPU
/// for this time.
const LEAVES_DRIVER_WITHIN: Nanos = Nanos::from_millis(10);

/// The CPU times of the workers that were running, or ready to, since nobody is in the driver: each
/// at the first such reading.
#[derive(Debug, Default)]
pub(super) struct RunningWorkers {
    baselines: HashMap<Tid, Nanos>,
}

impl RunningWorkers {
    /// Returns whether a worker, which runs or is ready to, has hardly used a CPU since its first
    /// reading. `cpu` is its CPU time now.
    pub(super) fn lacks_cpu(&mut self, tid: Tid, cpu: Option<Nanos>) -> bool {
        let lacks = |cpu: Nanos| {
            let baseline = *self.baselines.entry(tid).or_insert(cpu);
            cpu.saturating_sub(baseline) < LEAVES_DRIVER_WITHIN
        };
        cpu.is_some_and(lacks)
    }
}

/// The workers of a runtime at a scan.
#[derive(Debug, Default)]
pub(super) struct RuntimeWorkers {
    pub(super) counts: WorkerCounts,
    pub(super) culprit: Option<Culprit>,
    /// The threads in measured polls that block a worker.
    pub(super) blocked_threads: HashSet<ThreadNumber>,
}

impl Watcher {
    /// Returns the evidence of a reading at which these threads ran, or were ready to. One that may
    /// be a worker of the runtime may be about to enter the driver. If it is blocked, it computes,
    /// or just lacks a CPU.
    pub(super) fn evidence_of_running(
        &self,
        scan: &ScanResult,
        runtime: &Runtime,
        running: &[Tid],
        blocked: &HashSet<ThreadNumber>,
        known: &mut RunningWorkers,
    ) -> ReadingEvidence {
        let pool = runtime.worker_threads();
        let pool_tids: Option<HashSet<Tid>> =
            pool.map(|pool| pool.entries().iter().filter_map(|entry| entry.tid).collect());
        let measured = |tid: Tid| scan.threads.values().find(|thread| thread.tid == Some(tid));
        let may_be_worker = |tid: Tid| match &pool_tids {
            Some(tids) => tids.contains(&tid),
            None => {
                let is_other = measured(tid).is_some_and(|thread| !runtime.is_driven_by(thread));
                !is_other && !driver_reading::is_own(tid)
            }
        };
        let is_worker = |tid: Tid| match &pool_tids {
            Some(tids) => tids.contains(&tid),
            None => measured(tid).is_some_and(|thread| runtime.is_driven_by(thread)),
        };
        let mut evidence = ReadingEvidence::Conclusive;
        for &tid in running.iter().filter(|tid| may_be_worker(**tid)) {
            if measured(tid).is_some_and(|thread| blocked.contains(&thread.id)) {
                if evidence == ReadingEvidence::Conclusive {
                    evidence = ReadingEvidence::BlockedRuns;
                }
                continue;
            }
            if is_worker(tid) && known.lacks_cpu(tid, procfs::cpu_time(tid)) {
                return ReadingEvidence::LacksCpu;
            }
            evidence = ReadingEvidence::MayRun;
        }
        evidence
    }

    /// Returns the states of a runtime's workers.
    pub(super) fn runtime_workers(&self, scan: &ScanResult, runtime: &Runtime) -> RuntimeWorkers {
        let mut found = RuntimeWorkers::default();
        let Some(metrics) = runtime.metrics() else { return found };
        let total = metrics.num_workers();
        let (mut blocked, mut active) = (HashSet::<ThreadNumber>::new(), HashSet::<ThreadNumber>::new());
        let mut latest_start = Nanos::ZERO;
        let of_runtime = scan.polls.running.iter().filter(|poll| poll.runtime == runtime.id && !poll.is_root);
        for poll in of_runtime {
            let thread = poll.key.thread;
            let is_allowed =
                || poll.allowed_since.is_some_and(|since| scan.now.saturating_sub(since) >= self.threshold);
            match self.tracker.state_of(&poll.key) {
                TrackedState::Stall(stall) => {
                    blocked.insert(thread);
                    found.add_culprit(Culprit { stall, start: poll.start });
                }
                TrackedState::OffWorker => {}
                TrackedState::Untracked if is_allowed() => {
                    blocked.insert(thread);
                    latest_start = latest_start.max(poll.start);
                }
                TrackedState::Untracked => drop(active.insert(thread)),
            }
        }
        let mut outside = 0;
        for (entry, &stall) in &self.unwatched {
            if scan.workers.busy.get(entry).is_some_and(|busy| busy.runtime == runtime.id) {
                outside += 1;
                found.add_culprit(Culprit { stall, start: Nanos::ZERO });
            }
        }
        if let Some(culprit) = &mut found.culprit {
            // Of a stall that is observed from outside, the start is not known.
            culprit.start = if outside > 0 { Nanos::ZERO } else { culprit.start.max(latest_start) };
        }
        let blocked_count = (blocked.len() + outside).min(total);
        let active = active.difference(&blocked).count();
        let parked = match scan.workers.parked_workers(runtime.id) {
            Some(parked) => parked.min(total - blocked_count),
            None => {
                // tokio publishes a park at once, and the end of it later. So a worker with an even
                // count is active, and one with an odd count may be.
                let has_parked = |worker: &usize| metrics.worker_park_unpark_count(*worker) % 2 == 1;
                (0..total).filter(has_parked).count().min(total.saturating_sub(blocked_count + active))
            }
        };
        found.blocked_threads = blocked;
        found.counts = WorkerCounts { blocked: blocked_count, parked, active: total - blocked_count - parked };
        found
    }
}

impl RuntimeWorkers {
    /// Adds an ongoing stall: the culprit is the one that started last.
    fn add_culprit(&mut self, culprit: Culprit) {
        if self.culprit.is_none_or(|known| known.start < culprit.start) {
            self.culprit = Some(culprit);
        }
    }
}
