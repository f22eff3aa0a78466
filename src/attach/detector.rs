//! The detector of blocked threads of another process. Pure: readings and times in, changes out.
//!
//! No slot of that process says when a task is polled. What can be read of a thread cheaply is how
//! often it was given a CPU, and for how long. From these, and from stacks, two kinds of stalls
//! follow:
//!
//! - **One wait.** The thread has not run for the threshold, it waits in the kernel, and its stack
//!   is that of a task's poll on a worker. It was in the same poll all the time, since to leave it
//!   the thread has to run. The stall is [observed](Certainty::Observed).
//! - **One location.** The thread computes, or waits for short times only, and three samples of its
//!   stack or more, over the threshold or longer, show the same call of the same task's
//!   code. A task that is polled again and again looks the same, so that the stall is
//!   [suspected](Certainty::Suspected). That a poll has not returned in between cannot be proven
//!   by samples.
//!
//! A worker that has nothing to poll parks. So a thread that waited between two samples in which it
//! computed may have parked meanwhile, and the two do not belong together. While samples show short
//! waits, each scan inspects the thread without stopping it, and a park refutes them. A scan that
//! may not inspect it refutes them as well, if the thread has run. Such samples have to agree for
//! twice the threshold.
//!
//! A thread that runs after an observed wait ends that stall, with what was observed. Where samples
//! show that it computes in one location from then on, that is a suspected stall of its own.
//!
//! A thread that is stopped or frozen from outside is blocked by nothing that it does. What is held
//! ends its stall at the latest scan before, and its evidence starts anew.
//!
//! All times are lower bounds: a stall starts with the first reading that belongs to it, and ends
//! with the last one that confirms it.

use super::run_times::RunTimes;
use crate::detect::outside::observation::{Activity, EntryId, WorkerChange};
use crate::detect::outside::stalls::{LocationSample, LocationSamples, ObservedThreads, StallSteps};
use crate::model::cause::Certainty;
use crate::model::time::Nanos;

/// The time for which a thread that runs may seem to be idle: the kernel adds CPU time to its count
/// at each tick, every 1, 4 or 10 ms.
const TICK: Nanos = Nanos::from_millis(10);
/// The longest time between two samples of an ongoing stall.
const MAX_SAMPLE_INTERVAL: Nanos = Nanos::from_secs(1);
/// Two samples belong together if no more thresholds than this lie between them. A sample may fail.
const MAX_GAP: u64 = 4;

/// A thread of a runtime, as one scan read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadScan {
    pub(super) thread: EntryId,
    /// The moment of the reading.
    pub(super) at: Nanos,
    pub(super) times: RunTimes,
    /// The moment of the first reading of these counts, which may be older than the thread's
    /// runtime is known.
    pub(super) unchanged_since: Nanos,
}

/// What the stack of a thread shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StackFinding {
    /// The thread runs, or is ready to run. Its stack was not captured.
    Runs,
    /// The thread blocks no runtime: it is parked, or has handed its worker on, or belongs to none.
    BlocksNothing,
    /// The thread is in the poll of a task, or of a root, that occupies a runtime.
    InPoll {
        /// A digest of the code that the poll is in.
        location: u64,
        /// The certainty that the thread drives a worker or a runtime.
        certainty: Certainty,
    },
    /// The stack could not be captured this time, or the symbols that it needs are missing.
    Unknown,
}

/// Captures stacks for the detector.
pub(super) trait StackInspector {
    /// Returns whether threads that run, or wait for short times, are inspected in this scan.
    fn may_sample(&self) -> bool;
    /// Inspects a thread that waits. If it has run since the reading `times`, the finding is
    /// [`Unknown`](StackFinding::Unknown), unless `times` is `None`.
    fn inspect_waiting(&mut self, thread: EntryId, times: Option<RunTimes>) -> StackFinding;
    /// Returns how often a thread has waited over its life. Stops by
    /// [`sample_running`](Self::sample_running) count as well. `None` where that is unknown.
    fn waits(&mut self, thread: EntryId) -> Option<u64>;
    /// Returns whether a thread is stopped or frozen from outside, and not by what it does.
    fn is_held(&mut self, thread: EntryId) -> bool;
    /// Stops a thread that runs for a moment, and inspects it.
    fn sample_running(&mut self, thread: EntryId) -> StackFinding;
}

/// Detects blocked threads.
#[derive(Debug)]
pub(super) struct BlockedThreadDetector {
    threshold: Nanos,
    threads: ObservedThreads<ThreadRecord>,
    /// See [`needs_close_scans`](Self::needs_close_scans).
    needs_close_scans: bool,
}

impl BlockedThreadDetector {
    pub(super) fn new(threshold: Nanos) -> BlockedThreadDetector {
        BlockedThreadDetector { threshold, threads: ObservedThreads::new(threshold), needs_close_scans: true }
    }

    /// Returns whether a thread may be blocked, as far as the latest scan shows: one waits, and was
    /// not found to block nothing, or is in a stall, or in short waits of one location.
    ///
    /// If not, the next two scans find a wait, and further ones are close.
    pub(super) fn needs_close_scans(&self) -> bool {
        self.needs_close_scans
    }

    /// Returns the changes by one scan. `scans` has all threads that are in a runtime. A thread
    /// that is not among them has ended, or has left its runtime.
    pub(super) fn step(&mut self, scans: &[ThreadScan], inspector: &mut impl StackInspector) -> Vec<WorkerChange> {
        let (threshold, mut needs_close_scans) = (self.threshold, false);
        let changes = self.threads.step(
            scans,
            |scan| scan.thread,
            |scan, known, stall| {
                let tracked = known.get_or_insert_with(|| ThreadRecord::new(*scan));
                let mut step = ThreadStep { scan: *scan, threshold, inspector: &mut *inspector, stall };
                step.observe(tracked);
                needs_close_scans |= step.stall.ongoing().is_some() || tracked.may_be_blocked(scan.at);
            },
        );
        self.needs_close_scans = needs_close_scans;
        changes
    }

    /// Returns the changes by a pause of the whole process. All evidence starts anew.
    pub(super) fn pause(&mut self) -> Vec<WorkerChange> {
        self.threads.clear()
    }
}

/// The evidence of a thread.
#[derive(Clone, Copy, Debug)]
struct ThreadRecord {
    times: RunTimes,
    /// The moment at which `times` was read first.
    unchanged_since: Nanos,
    /// True once the wait since then was found to block nothing.
    blocks_nothing: bool,
    /// The start of a time in which the thread has hardly been idle, and its counts then.
    active_since: Nanos,
    active_times: RunTimes,
    samples: Option<LocationSamples>,
    /// The moment of the latest sample.
    sampled_at: Nanos,
    /// How often the thread had waited just after the latest sample.
    waits: Option<u64>,
    /// True if one of the samples shows a wait.
    has_short_waits: bool,
    /// The moment at which the next sample is due.
    next_sample: Nanos,
}

impl ThreadRecord {
    fn new(first: ThreadScan) -> ThreadRecord {
        ThreadRecord {
            times: first.times,
            unchanged_since: first.unchanged_since,
            blocks_nothing: false,
            active_since: first.at,
            active_times: first.times,
            samples: None,
            sampled_at: first.at,
            waits: None,
            has_short_waits: false,
            next_sample: first.at,
        }
    }

    /// Returns whether the thread waits for something unknown, or in short waits of one location.
    fn may_be_blocked(&self, at: Nanos) -> bool {
        let waits = self.unchanged_since < at && !self.blocks_nothing;
        waits || self.samples.is_some() && self.has_short_waits
    }
}

/// The scan of one thread.
struct ThreadStep<'a, I> {
    scan: ThreadScan,
    threshold: Nanos,
    inspector: &'a mut I,
    stall: StallSteps<'a>,
}

impl<I: StackInspector> ThreadStep<'_, I> {
    fn observe(&mut self, tracked: &mut ThreadRecord) {
        let ThreadScan { thread, at, times, .. } = self.scan;
        let has_run = times != tracked.times;
        if has_run {
            if self.waiting_since().is_some() {
                self.stall.end();
            }
            (tracked.times, tracked.unchanged_since, tracked.blocks_nothing) = (times, at, false);
        }
        self.note_activity(tracked);
        if let Some(start) = self.waiting_since() {
            // A stall is confirmed for no time in which the thread was held.
            if self.inspector.is_held(thread) {
                return self.discard_held(tracked);
            }
            return self.stall.confirm(at.saturating_sub(start));
        }
        if has_run && tracked.has_short_waits && !self.inspector.may_sample() {
            // It may have been parked meanwhile.
            self.discard_samples(tracked);
        }
        let waited = at.saturating_sub(tracked.unchanged_since);
        if waited >= self.threshold && !tracked.blocks_nothing && self.check_wait(tracked) {
            return;
        }
        if at >= tracked.next_sample && !tracked.blocks_nothing {
            self.take_sample(tracked);
        } else if has_run && tracked.samples.is_some() && tracked.has_short_waits {
            self.check_park(tracked);
        }
        if let Some(stall) = self.stall.ongoing() {
            // The stall is confirmed up to the latest sample.
            self.stall.confirm(tracked.sampled_at.saturating_sub(stall.start));
        }
    }

    /// Returns the start of the ongoing stall if the thread waits in it.
    fn waiting_since(&self) -> Option<Nanos> {
        self.stall.ongoing().filter(|stall| stall.activity == Activity::Waiting).map(|stall| stall.start)
    }

    /// Notes since when the thread has hardly been idle.
    fn note_activity(&self, tracked: &mut ThreadRecord) {
        let ThreadScan { at, times, .. } = self.scan;
        let elapsed = at.saturating_sub(tracked.active_since);
        let idle = elapsed.saturating_sub(times.active_since(tracked.active_times));
        if idle > self.threshold.max(TICK) {
            (tracked.active_since, tracked.active_times) = (at, times);
        }
    }

    /// Checks a thread that has not run for the threshold. Returns whether it waits.
    fn check_wait(&mut self, tracked: &mut ThreadRecord) -> bool {
        let ThreadScan { thread, at, times, .. } = self.scan;
        match self.inspector.inspect_waiting(thread, Some(times)) {
            StackFinding::Runs => false,
            StackFinding::Unknown => true,
            StackFinding::BlocksNothing => {
                self.discard_samples(tracked);
                tracked.blocks_nothing = true;
                true
            }
            StackFinding::InPoll { .. } if self.inspector.is_held(thread) => {
                self.discard_held(tracked);
                true
            }
            StackFinding::InPoll { certainty, .. } => {
                (tracked.samples, tracked.has_short_waits) = (None, false);
                let start = tracked.unchanged_since;
                self.stall.start(Activity::Waiting, certainty, start, at.saturating_sub(start));
                true
            }
        }
    }

    /// Ends the stall of a thread that is held, and discards the evidence so far.
    fn discard_held(&mut self, tracked: &mut ThreadRecord) {
        self.discard_samples(tracked);
        tracked.unchanged_since = self.scan.at;
    }

    /// Takes a sample of a thread that runs, or that has run since the scan before.
    fn take_sample(&mut self, tracked: &mut ThreadRecord) {
        let ThreadScan { thread, at, times, .. } = self.scan;
        let is_blocked = self.stall.ongoing().is_some();
        let active = times.active_since(tracked.active_times);
        let elapsed = at.saturating_sub(tracked.active_since);
        let mut finding = StackFinding::Runs;
        if !is_blocked && elapsed < self.threshold || 2 * active < elapsed {
            finding = self.inspector.inspect_waiting(thread, None);
        }
        let is_wait = finding != StackFinding::Runs;
        if !is_wait && (is_blocked || elapsed >= self.threshold) {
            finding = self.sample_running(tracked);
        }
        let age = tracked.samples.map_or(Nanos::ZERO, |samples| at.saturating_sub(samples.first.at));
        let interval = if is_blocked { (age / 4).max(2 * self.threshold) } else { self.threshold / 2 };
        tracked.next_sample = at + interval.min(MAX_SAMPLE_INTERVAL.max(2 * self.threshold));
        match finding {
            StackFinding::Runs | StackFinding::Unknown => {}
            StackFinding::BlocksNothing => self.discard_samples(tracked),
            StackFinding::InPoll { .. } if is_wait && self.inspector.is_held(thread) => self.discard_held(tracked),
            StackFinding::InPoll { location, .. } => self.add_sample(tracked, location, is_wait),
        }
    }

    /// Samples a thread that computes. The samples before are dropped if all of them computed, and
    /// the thread has waited since.
    fn sample_running(&mut self, tracked: &mut ThreadRecord) -> StackFinding {
        let thread = self.scan.thread;
        let is_computing = tracked.samples.is_some() && !tracked.has_short_waits;
        if is_computing && tracked.waits.is_some_and(|before| self.inspector.waits(thread) != Some(before)) {
            self.discard_samples(tracked);
        }
        let finding = self.inspector.sample_running(thread);
        // The attempt itself may count as a wait. To read the count costs as much as a sample.
        let is_needed = tracked.samples.is_some() || matches!(finding, StackFinding::InPoll { .. });
        tracked.waits = if is_needed { self.inspector.waits(thread) } else { None };
        finding
    }

    /// Drops the samples of a thread in short waits if it is parked now.
    fn check_park(&mut self, tracked: &mut ThreadRecord) {
        if self.inspector.inspect_waiting(self.scan.thread, None) == StackFinding::BlocksNothing {
            self.discard_samples(tracked);
        }
    }

    /// Drops the samples so far, and ends the stall that they show.
    fn discard_samples(&mut self, tracked: &mut ThreadRecord) {
        self.stall.end();
        (tracked.samples, tracked.has_short_waits) = (None, false);
    }

    /// Takes in a sample of a thread that waits in a poll. The samples before are dropped if all of
    /// them computed, and the thread has waited since, apart from this wait.
    fn note_wait(&mut self, tracked: &mut ThreadRecord) {
        let waits = self.inspector.waits(self.scan.thread);
        let is_further = tracked.waits.zip(waits).is_some_and(|(before, now)| now > before + 1);
        if is_further && !tracked.has_short_waits {
            self.discard_samples(tracked);
        }
        (tracked.waits, tracked.has_short_waits) = (waits, true);
    }

    fn add_sample(&mut self, tracked: &mut ThreadRecord, location: u64, is_wait: bool) {
        let ThreadScan { at, times, .. } = self.scan;
        if is_wait {
            self.note_wait(tracked);
        }
        let is_blocked = self.stall.ongoing().is_some();
        let max_gap = if is_blocked { Nanos::MAX } else { MAX_GAP * self.threshold };
        let sample = LocationSample { location, at, cpu: times.cpu };
        let before = std::mem::replace(&mut tracked.sampled_at, at);
        // A thread that has been idle since the sample before has left the poll meanwhile.
        let is_close = at.saturating_sub(before) <= max_gap && (is_wait || tracked.active_since <= before);
        let earlier = tracked.samples.filter(|_| is_close);
        let Some(samples) = earlier.and_then(|samples| samples.with(sample)) else {
            self.stall.end();
            (tracked.samples, tracked.has_short_waits) = (Some(LocationSamples::new(sample)), is_wait);
            return;
        };
        tracked.samples = Some(samples);
        let elapsed = at.saturating_sub(samples.first.at);
        let needed = if tracked.has_short_waits { 2 * self.threshold } else { self.threshold };
        if !is_blocked && samples.are_enough() && elapsed >= needed {
            self.stall.start(Activity::Computing, Certainty::Suspected, samples.first.at, elapsed);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
