//! The detector of workers that are blocked by a task that is not watched (stable mode). Pure:
//! observations and times in, changes out.
//!
//! Without task hooks, no slot says when such a task is polled. What can be observed of a worker is
//! whether it has parked, the CPU time of its thread, and the metrics that tokio publishes. From
//! these, two kinds of stalls are inferred:
//!
//! - **The worker waits.** It has not parked, its thread has used no CPU time for the threshold,
//!   and is in one system call all the time. A worker waits in a system call only when it parks, so
//!   that a task must have made the call. One case looks the same and blocks nothing: the task used
//!   `block_in_place`, and another thread has taken the worker over. Where that is excluded, the
//!   stall is [observed](Certainty::Observed). Where not, it is [suspected](Certainty::Suspected)
//!   after twice the threshold.
//! - **The worker computes in one location.** tokio publishes a worker's metrics when it parks and
//!   every [`EVENT_INTERVAL`] ticks. A tick is one poll, or up to four where tasks wake one
//!   another. A worker that runs without publishing for `EVENT_INTERVAL` quarters of a threshold
//!   has ticks of more than a quarter of a threshold on average. If several stack samples in that
//!   time are in the same task's code, the worker is suspected to be in one long poll.
//!
//! tokio updates a worker's metrics only on the thread that drives the worker. If they change while
//! the thread has not run, another thread has taken the worker over.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::observation::{Activity, BlockedIn, EntryId, Inspector, WorkerChange, WorkerObservation};
use crate::detect::pause::Pauses;
use crate::detect::track::{next_report, without_pauses};
use crate::model::cause::Certainty;
use crate::model::time::Nanos;

/// The default of tokio's `event_interval`: a worker publishes its metrics after so many ticks.
const EVENT_INTERVAL: u64 = 61;
/// The number of stack samples that have to agree.
const MIN_SAMPLES: u32 = 3;

/// The duration of an ongoing stall.
#[derive(Clone, Copy, Debug)]
struct BlockedTime {
    /// The moment since which the worker is known to be blocked.
    start: Nanos,
    /// The duration of the stall when it was last confirmed.
    confirmed: Nanos,
    /// The duration of the stall when the next report is due.
    next_report: Nanos,
}

/// The state of a worker that has not parked.
#[derive(Clone, Copy, Debug)]
enum BlockState {
    /// The worker is not known to be blocked.
    Unblocked,
    Blocked(Activity, BlockedTime),
    /// Another thread drives the worker. Final until the busy period ends.
    HandedOn,
}

/// The evidence that a worker computes in one location.
#[derive(Clone, Copy, Debug)]
struct ComputingEvidence {
    /// The moment since which tokio has published nothing of the worker.
    unpublished_since: Nanos,
    /// The thread's run delay at that moment, once it was read.
    run_delay: Option<Nanos>,
    samples: Option<LocationSamples>,
    /// The moment at which the next stack sample is due.
    next_sample: Nanos,
}

impl ComputingEvidence {
    fn new(unpublished_since: Nanos, next_sample: Nanos) -> ComputingEvidence {
        ComputingEvidence { unpublished_since, run_delay: None, samples: None, next_sample }
    }
}

/// Successive stack samples in one location.
#[derive(Clone, Copy, Debug)]
struct LocationSamples {
    location: u64,
    /// The moment of the first sample.
    since: Nanos,
    count: u32,
}

/// A worker in one busy period, with the evidence so far.
#[derive(Clone, Copy, Debug)]
struct TrackedWorker {
    last: WorkerObservation,
    state: BlockState,
    /// The moment since which the worker's thread has not run.
    idle_since: Nanos,
    /// The wait that the thread was first found in after `idle_since`.
    blocked_in: Option<BlockedIn>,
    computing: ComputingEvidence,
}

/// Detects blocked workers.
#[derive(Debug)]
pub(crate) struct BlockedWorkerDetector {
    threshold: Nanos,
    workers: HashMap<EntryId, TrackedWorker>,
}

impl BlockedWorkerDetector {
    pub(crate) fn new(threshold: Nanos) -> BlockedWorkerDetector {
        BlockedWorkerDetector { threshold, workers: HashMap::new() }
    }

    /// Returns the changes by the scan at the moment `now`. `observations` has all workers that
    /// have not parked. A worker that is not among them has parked, or can no longer be observed.
    pub(crate) fn step(
        &mut self,
        now: Nanos,
        observations: &[WorkerObservation],
        pauses: &Pauses,
        inspector: &mut impl Inspector,
    ) -> Vec<WorkerChange> {
        let mut changes = Vec::new();
        let observed: HashSet<EntryId> = observations.iter().map(|observation| observation.thread).collect();
        self.workers.retain(|thread, worker| {
            let is_observed = observed.contains(thread);
            if !is_observed {
                changes.extend(worker.end());
            }
            is_observed
        });
        for observation in observations {
            match self.workers.entry(observation.thread) {
                Entry::Vacant(entry) => drop(entry.insert(TrackedWorker::new(*observation))),
                Entry::Occupied(worker) => {
                    let step = Step { now, threshold: self.threshold, pauses, inspector, changes: &mut changes };
                    step.observe(worker.into_mut(), *observation);
                }
            }
        }
        changes
    }
}

impl TrackedWorker {
    fn new(first: WorkerObservation) -> TrackedWorker {
        TrackedWorker {
            last: first,
            state: BlockState::Unblocked,
            idle_since: first.at,
            blocked_in: None,
            computing: ComputingEvidence::new(first.at, Nanos::ZERO),
        }
    }

    /// Ends the stall, if there is one.
    fn end(&mut self) -> Option<WorkerChange> {
        let BlockState::Blocked(_, stall) = self.state else { return None };
        self.state = BlockState::Unblocked;
        Some(WorkerChange::Ended { thread: self.last.thread, elapsed: stall.confirmed })
    }
}

/// One scan.
struct Step<'a, I> {
    now: Nanos,
    threshold: Nanos,
    pauses: &'a Pauses,
    inspector: &'a mut I,
    changes: &'a mut Vec<WorkerChange>,
}

impl<I: Inspector> Step<'_, I> {
    /// Takes in the observation of a known worker.
    fn observe(mut self, worker: &mut TrackedWorker, observation: WorkerObservation) {
        let last = std::mem::replace(&mut worker.last, observation);
        if observation.period != last.period {
            self.changes.extend(worker.end());
            *worker = TrackedWorker::new(observation);
            return;
        }
        let has_run = observation.cpu != last.cpu;
        if observation.published != last.published {
            self.changes.extend(worker.end());
            worker.computing = ComputingEvidence::new(observation.at, worker.computing.next_sample);
            if !has_run {
                // A thread that has not run cannot have published, so another one drives the
                // worker.
                worker.state = BlockState::HandedOn;
            }
        }
        if has_run {
            if matches!(worker.state, BlockState::Blocked(Activity::Waiting, _)) {
                self.changes.extend(worker.end());
            }
            (worker.idle_since, worker.blocked_in) = (observation.at, None);
        }
        self.advance(worker, has_run);
    }

    /// Moves a worker to its next state. `has_run` says whether its thread has run since the
    /// previous scan.
    fn advance(&mut self, worker: &mut TrackedWorker, has_run: bool) {
        match worker.state {
            BlockState::HandedOn => {}
            BlockState::Blocked(Activity::Waiting, stall) => {
                let elapsed = self.elapsed(stall.start);
                self.continue_stall(worker, Activity::Waiting, stall, elapsed);
            }
            BlockState::Blocked(Activity::Computing, _)
                if !has_run && self.inspector.blocked_in(worker.last.thread).is_some() =>
            {
                // The worker has started to wait, which is another stall.
                self.changes.extend(worker.end());
                self.check_waiting(worker);
            }
            BlockState::Blocked(Activity::Computing, stall) => self.confirm_computing(worker, stall),
            BlockState::Unblocked if !has_run => self.check_waiting(worker),
            BlockState::Unblocked => self.check_computing(worker),
        }
    }

    /// Returns the time since a moment, without pauses.
    fn elapsed(&self, start: Nanos) -> Nanos {
        without_pauses(start, self.now, self.pauses)
    }

    fn continue_stall(
        &mut self,
        worker: &mut TrackedWorker,
        activity: Activity,
        mut stall: BlockedTime,
        elapsed: Nanos,
    ) {
        let thread = worker.last.thread;
        stall.confirmed = elapsed.max(stall.confirmed);
        let elapsed = stall.confirmed;
        let is_due = elapsed >= stall.next_report;
        stall.next_report = next_report(self.threshold, elapsed);
        worker.state = BlockState::Blocked(activity, stall);
        self.changes.push(match is_due {
            true => WorkerChange::ReportDue { thread, elapsed },
            false => WorkerChange::StillOngoing { thread, elapsed },
        });
    }

    /// Continues the stall of a worker that computes, up to the latest stack sample that confirms
    /// it.
    fn confirm_computing(&mut self, worker: &mut TrackedWorker, stall: BlockedTime) {
        let mut elapsed = stall.confirmed;
        if self.now >= worker.computing.next_sample {
            worker.computing.next_sample = self.now + 2 * self.threshold;
            match self.inspector.location(worker.last.thread) {
                None => {}
                same if same == worker.computing.samples.map(|samples| samples.location) => {
                    elapsed = self.elapsed(stall.start);
                }
                Some(_) => {
                    self.changes.extend(worker.end());
                    (worker.computing.samples, worker.computing.next_sample) = (None, Nanos::ZERO);
                    return;
                }
            }
        }
        self.continue_stall(worker, Activity::Computing, stall, elapsed);
    }

    /// Checks a worker whose thread has not run since the previous scan.
    fn check_waiting(&mut self, worker: &mut TrackedWorker) {
        let thread = worker.last.thread;
        let elapsed = self.elapsed(worker.idle_since);
        // The thread is inspected when the wait is first observed, and at the threshold.
        if worker.blocked_in.is_some() && elapsed < self.threshold {
            return;
        }
        let earlier = worker.blocked_in;
        let blocked_in = self.inspector.blocked_in(thread);
        let is_same = |wait: &BlockedIn| earlier.is_none_or(|earlier| earlier == *wait);
        let Some(wait) = blocked_in.filter(is_same) else {
            // The thread is ready to run, or has run in between.
            (worker.idle_since, worker.blocked_in) = (self.now, None);
            return;
        };
        worker.blocked_in = blocked_in;
        if wait.is_shallow {
            // The thread has left the worker's loop: it idles in the pool, or runs a closure of
            // `spawn_blocking`.
            worker.state = BlockState::HandedOn;
            return;
        }
        if elapsed < self.threshold {
            return;
        }
        if wait.in_syscall && self.inspector.is_confirmed_owner(thread) {
            self.start(worker, Activity::Waiting, Certainty::Observed, worker.idle_since);
        } else if elapsed >= 2 * self.threshold {
            self.start(worker, Activity::Waiting, Certainty::Suspected, worker.idle_since);
        }
    }

    /// Checks a worker whose thread has run since the previous scan.
    fn check_computing(&mut self, worker: &mut TrackedWorker) {
        let thread = worker.last.thread;
        // A worker whose ticks take a quarter of the threshold publishes within this time.
        let max_unpublished = EVENT_INTERVAL * self.threshold / 4;
        let evidence = &mut worker.computing;
        let unpublished = self.elapsed(evidence.unpublished_since);
        let Some(before) = evidence.run_delay else {
            // The run delay is not read of each worker that is busy for a moment. The time before
            // the first reading does not count, since the thread may have waited for a CPU.
            if unpublished >= self.threshold {
                let run_delay = self.inspector.run_delay(thread);
                (evidence.run_delay, evidence.unpublished_since) = (Some(run_delay), self.now);
            }
            return;
        };
        if unpublished < max_unpublished / 2 || self.now < evidence.next_sample {
            return;
        }
        let starved = self.inspector.run_delay(thread).saturating_sub(before);
        let active = unpublished.saturating_sub(starved);
        if active < max_unpublished / 2 {
            evidence.next_sample = self.now + (max_unpublished / 2).saturating_sub(active);
            return;
        }
        evidence.next_sample = self.now + max_unpublished / 4;
        // A failed sample is no evidence for or against a stall.
        let Some(location) = self.inspector.location(thread) else { return };
        let samples = match evidence.samples {
            Some(samples) if samples.location == location => LocationSamples { count: samples.count + 1, ..samples },
            _ => LocationSamples { location, since: self.now, count: 1 },
        };
        evidence.samples = Some(samples);
        if samples.count >= MIN_SAMPLES && active >= max_unpublished {
            self.start(worker, Activity::Computing, Certainty::Suspected, samples.since);
        }
    }

    fn start(&mut self, worker: &mut TrackedWorker, activity: Activity, certainty: Certainty, start: Nanos) {
        let elapsed = self.elapsed(start);
        let next_report = next_report(self.threshold, elapsed);
        worker.state = BlockState::Blocked(activity, BlockedTime { start, confirmed: elapsed, next_report });
        let thread = worker.last.thread;
        self.changes.push(WorkerChange::Started { thread, certainty, activity, start, elapsed });
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
