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
//! A worker that waits in many short waits (a loop of `recv_timeout`, a lock with a timeout) uses
//! next to no CPU time, and is suspected like one that computes. If it has published nothing for
//! [`MAX_POLLS`] thresholds, at least one of its polls took a threshold or longer, and the stall is
//! observed from then on.
//!
//! tokio updates a worker's metrics only on the thread that drives the worker. If they change while
//! the thread has not run, another thread has taken the worker over.

use super::functions::StackRole;
use super::observation::{Activity, BlockedIn, Inspector, RunDelayReading, WorkerChange, WorkerObservation};
use super::stalls::{LocationSample, LocationSamples, ObservedThreads, OutsideStall, StallSteps};
use crate::detect::pause::Pauses;
use crate::detect::track::without_pauses;
use crate::model::cause::Certainty;
use crate::model::time::Nanos;

/// The default of tokio's `event_interval`: a worker publishes its metrics after so many ticks.
const EVENT_INTERVAL: u64 = 61;
/// The number of polls in one tick of a worker, at most: `Context::run_task` of tokio polls one
/// task of the queue, and after it up to three of the LIFO slot (`MAX_LIFO_POLLS_PER_TICK`).
const POLLS_PER_TICK: u64 = 1 + 3;
/// The number of polls between two publications, at most. All of them may be in one location: a
/// location is the code of a task, and tasks with the same code may wake one another.
const MAX_POLLS: u64 = POLLS_PER_TICK * EVENT_INTERVAL;
/// The share of CPU time below which a worker in short waits counts as waiting: one in so many.
const MOSTLY_WAITING: u64 = 10;

/// The evidence that a worker computes in one location.
#[derive(Clone, Copy, Debug)]
struct ComputingEvidence {
    /// The moment since which tokio has published nothing of the worker.
    unpublished_since: Nanos,
    /// The thread's run delay at that moment, once it was read.
    run_delay: Option<RunDelayReading>,
    samples: Option<LocationSamples>,
    /// The moment at which the next stack sample is due.
    next_sample: Nanos,
}

impl ComputingEvidence {
    fn new(unpublished_since: Nanos, next_sample: Nanos) -> ComputingEvidence {
        ComputingEvidence { unpublished_since, run_delay: None, samples: None, next_sample }
    }
}

/// The evidence of a worker in one busy period.
#[derive(Clone, Copy, Debug)]
struct WorkerEvidence {
    last: WorkerObservation,
    /// True if another thread drives the worker. Final until the busy period ends.
    has_handed_on: bool,
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
    workers: ObservedThreads<WorkerEvidence>,
}

impl BlockedWorkerDetector {
    pub(crate) fn new(threshold: Nanos) -> BlockedWorkerDetector {
        BlockedWorkerDetector { threshold, workers: ObservedThreads::new(threshold) }
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
        let threshold = self.threshold;
        let thread_of = |observation: &WorkerObservation| observation.thread;
        self.workers.step(observations, thread_of, |observation, known, stall| match known {
            None => *known = Some(WorkerEvidence::new(*observation)),
            Some(worker) => {
                Step { now, threshold, pauses, inspector: &mut *inspector, stall }.observe(worker, *observation)
            }
        })
    }
}

impl WorkerEvidence {
    fn new(first: WorkerObservation) -> WorkerEvidence {
        WorkerEvidence {
            last: first,
            has_handed_on: false,
            idle_since: first.at,
            blocked_in: None,
            computing: ComputingEvidence::new(first.at, Nanos::ZERO),
        }
    }
}

/// The scan of one worker.
struct Step<'a, I> {
    now: Nanos,
    threshold: Nanos,
    pauses: &'a Pauses,
    inspector: &'a mut I,
    stall: StallSteps<'a>,
}

impl<I: Inspector> Step<'_, I> {
    /// Takes in the observation of a known worker.
    fn observe(mut self, worker: &mut WorkerEvidence, observation: WorkerObservation) {
        let last = std::mem::replace(&mut worker.last, observation);
        if observation.period != last.period {
            self.stall.end();
            *worker = WorkerEvidence::new(observation);
            return;
        }
        let has_run = observation.cpu != last.cpu;
        if observation.published != last.published {
            self.stall.end();
            worker.computing = ComputingEvidence::new(observation.at, worker.computing.next_sample);
            if !has_run {
                // A thread that has not run cannot have published, so another one drives the
                // worker.
                worker.has_handed_on = true;
            }
        }
        if has_run {
            if self.stall.ongoing().is_some_and(|stall| stall.activity == Activity::Waiting) {
                self.stall.end();
            }
            (worker.idle_since, worker.blocked_in) = (observation.at, None);
        }
        self.advance(worker, has_run);
    }

    /// Moves a worker to its next state. `has_run` says whether its thread has run since the
    /// previous scan.
    fn advance(&mut self, worker: &mut WorkerEvidence, has_run: bool) {
        if worker.has_handed_on {
            return;
        }
        let thread = worker.last.thread;
        match self.stall.ongoing() {
            Some(stall) if stall.activity == Activity::Waiting => {
                let elapsed = self.elapsed(stall.start);
                // A suspicion is checked again with each report of it.
                let is_known = stall.certainty != Certainty::Suspected || elapsed < stall.next_report;
                if !is_known && self.is_observed_wait(worker) {
                    self.start(Activity::Waiting, Certainty::Observed, stall.start);
                } else {
                    self.stall.confirm(elapsed);
                }
            }
            Some(_)
                if !has_run
                    && self.elapsed(worker.idle_since) >= self.threshold
                    && self.inspector.blocked_in(thread).is_some() =>
            {
                // The worker waits in one call, which is another stall.
                self.stall.end();
                self.check_waiting(worker);
            }
            Some(stall) => self.confirm_computing(worker, stall),
            None if !has_run => self.check_waiting(worker),
            None => self.check_computing(worker),
        }
    }

    /// Returns whether a worker that waits is in one system call, and certainly drives its worker.
    fn is_observed_wait(&mut self, worker: &WorkerEvidence) -> bool {
        worker.blocked_in.is_some_and(|wait| wait.in_syscall) && self.inspector.is_confirmed_owner(worker.last.thread)
    }

    /// Returns the time since a moment, without pauses.
    fn elapsed(&self, start: Nanos) -> Nanos {
        without_pauses(start, self.now, self.pauses)
    }

    /// Continues the stall of a worker that computes, up to the latest stack sample that confirms
    /// it.
    fn confirm_computing(&mut self, worker: &mut WorkerEvidence, stall: OutsideStall) {
        let mut elapsed = stall.confirmed;
        if self.now >= worker.computing.next_sample {
            worker.computing.next_sample = self.now + 2 * self.threshold;
            match self.inspector.location(worker.last.thread) {
                None => {}
                same if same == worker.computing.samples.map(|samples| samples.first.location) => {
                    elapsed = self.elapsed(stall.start);
                }
                Some(_) => {
                    self.stall.end();
                    (worker.computing.samples, worker.computing.next_sample) = (None, Nanos::ZERO);
                    return;
                }
            }
        }
        if stall.certainty == Certainty::Suspected && self.is_one_long_wait(worker, elapsed) {
            self.start(Activity::Computing, Certainty::Observed, stall.start);
        } else {
            self.stall.confirm(elapsed);
        }
    }

    /// Returns whether a worker in one location has waited there in short waits, for longer than
    /// the polls between two publications can take if none reaches the threshold. Its waits for a
    /// CPU do not count.
    fn is_one_long_wait(&mut self, worker: &WorkerEvidence, elapsed: Nanos) -> bool {
        let thread = worker.last.thread;
        let used = |samples: LocationSamples| worker.last.cpu.saturating_sub(samples.first.cpu);
        let waits = worker.computing.samples.is_some_and(|samples| MOSTLY_WAITING * used(samples) <= elapsed);
        if !waits || elapsed <= MAX_POLLS * self.threshold {
            return false;
        }
        let run_delay = RunDelayReading(self.inspector.run_delay(thread));
        let starved = worker.computing.run_delay.and_then(|before| run_delay.since(before));
        let is_long = |starved| elapsed.saturating_sub(starved) > MAX_POLLS * self.threshold;
        starved.is_some_and(is_long) && self.inspector.is_confirmed_owner(thread)
    }

    /// Checks a worker whose thread has not run since the previous scan.
    fn check_waiting(&mut self, worker: &mut WorkerEvidence) {
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
            worker.has_handed_on = true;
            return;
        }
        if elapsed < self.threshold {
            return;
        }
        let role = self.inspector.stack_role(thread);
        if role == Some(StackRole::NotInLoop) {
            worker.has_handed_on = true;
        } else if self.is_observed_wait(worker) {
            self.start(Activity::Waiting, Certainty::Observed, worker.idle_since);
        } else if elapsed >= 2 * self.threshold && role != Some(StackRole::HandedOn) {
            self.start(Activity::Waiting, Certainty::Suspected, worker.idle_since);
        }
    }

    /// Checks a worker whose thread has run since the previous scan.
    fn check_computing(&mut self, worker: &mut WorkerEvidence) {
        let thread = worker.last.thread;
        // A worker whose ticks take a quarter of the threshold publishes within this time.
        let max_unpublished = EVENT_INTERVAL * self.threshold / 4;
        let evidence = &mut worker.computing;
        let unpublished = self.elapsed(evidence.unpublished_since);
        let Some(before) = evidence.run_delay else {
            // The run delay is not read of each worker that is busy for a moment. The time before
            // the first reading does not count, since the thread may have waited for a CPU.
            if unpublished >= self.threshold {
                let run_delay = RunDelayReading(self.inspector.run_delay(thread));
                (evidence.run_delay, evidence.unpublished_since) = (Some(run_delay), self.now);
            }
            return;
        };
        if unpublished < max_unpublished / 2 || self.now < evidence.next_sample {
            return;
        }
        let starved = RunDelayReading(self.inspector.run_delay(thread)).since(before).unwrap_or_default();
        let active = unpublished.saturating_sub(starved);
        if active < max_unpublished / 2 {
            evidence.next_sample = self.now + (max_unpublished / 2).saturating_sub(active);
            return;
        }
        evidence.next_sample = self.now + max_unpublished / 4;
        // A failed sample is no evidence for or against a stall.
        let Some(location) = self.inspector.location(thread) else { return };
        let sample = LocationSample { location, at: self.now, cpu: worker.last.cpu };
        let samples = evidence.samples.and_then(|samples| samples.with(sample));
        let samples = samples.unwrap_or(LocationSamples::new(sample));
        evidence.samples = Some(samples);
        if samples.are_enough() && active >= max_unpublished {
            self.start(Activity::Computing, Certainty::Suspected, samples.first.at);
        }
    }

    /// Starts a stall. An ongoing one ends.
    fn start(&mut self, activity: Activity, certainty: Certainty, start: Nanos) {
        let elapsed = self.elapsed(start);
        self.stall.start(activity, certainty, start, elapsed);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
