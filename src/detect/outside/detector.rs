//! The detector of workers that are blocked by a task that nobody wrapped (stable mode). Pure: what
//! was observed of the workers' threads and times in, verdicts out.
//!
//! It judges workers that have not parked and are in no measured frame. There are two kinds of
//! evidence:
//!
//! - **The worker waits**: it has not run at all for the threshold, and is in one system call. Then
//!   it is blocked for certain, unless the worker was handed on by `block_in_place`. Where that
//!   cannot be excluded, it is suspected, after twice the time.
//! - **The worker computes in one location**: the runtime publishes a worker's figures when it
//!   parks and every 61 ticks. If no tick took more than a quarter of the threshold, it would
//!   publish within [`TICKS`] quarters. A worker that has not, and of which all of some stack
//!   samples are in the same task's code, is suspected. A tick is one poll, and up to three more
//!   where tasks wake one another. So its polls take more than a quarter of the threshold on
//!   average, or a sixteenth.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::detect::pause::Pauses;
use crate::detect::track::effective;
use crate::model::cause::Certainty;
use crate::util::backoff::next_doubling;

/// The default of tokio's `event_interval`: after so many ticks, of one to four polls each, a
/// worker publishes its figures.
const TICKS: u64 = 61;
/// The number of stack samples that have to agree.
const SAMPLES: u32 = 3;

/// One worker that has not parked, as observed from outside. Times are in nanoseconds of the
/// watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerObservation {
    pub(crate) thread: u64,
    /// The worker's last unpark, and the state of its slot. Any other pair is of another time.
    pub(crate) mark: (u64, u64),
    /// The figures that the runtime publishes of the worker, as one number.
    pub(crate) progress: u64,
    /// The CPU time that the thread had used at the moment `at`.
    pub(crate) cpu: u64,
    /// The moment at which `cpu` was read, no earlier than the start of the scan.
    pub(crate) at: u64,
}

/// What a thread is blocked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockedIn {
    /// A digest of the call and of how often the thread has been given a CPU. Any other digest is
    /// of another wait.
    pub(crate) digest: u64,
    /// Whether it is a system call. Otherwise the kernel makes the thread wait by itself, for a
    /// page.
    pub(crate) in_call: bool,
    /// Whether the thread's stack is too short to run a worker.
    pub(crate) is_shallow: bool,
}

/// Answers questions about a thread that cost more than an observation.
pub(crate) trait Inspector {
    /// Returns what the thread is blocked in, or `None` when it is not blocked.
    fn blocked_in(&mut self, thread: u64) -> Option<BlockedIn>;
    /// Returns whether the thread's worker cannot have been handed on.
    fn keeps_its_worker(&mut self, thread: u64) -> bool;
    /// Returns how long the thread was ready to run in all, but had no CPU.
    fn run_delay(&mut self, thread: u64) -> u64;
    /// Returns a digest of the code that the thread's task is in, or `None` where that is unknown.
    fn location(&mut self, thread: u64) -> Option<u64>;
}

/// What a blocked worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It has not run since the stall began.
    Waiting,
    /// It computes in one location.
    Computing,
}

/// What a scan changes about a worker. `elapsed` excludes pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Started {
        thread: u64,
        certainty: Certainty,
        activity: Activity,
        /// The moment since which the worker is known to be blocked.
        begin: u64,
        elapsed: u64,
    },
    /// The stall is ongoing, and a further report is due.
    Continued {
        thread: u64,
        elapsed: u64,
    },
    /// The stall is ongoing.
    Unchanged {
        thread: u64,
        elapsed: u64,
    },
    Ended {
        thread: u64,
        elapsed: u64,
    },
}

/// An ongoing stall.
#[derive(Clone, Copy, Debug)]
struct BlockedTime {
    begin: u64,
    /// How long it had lasted when it was last confirmed.
    confirmed: u64,
    /// How long it has lasted when the next report is due.
    next_report: u64,
}

/// The states of a worker that has not parked.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The worker is not known to be blocked.
    Unblocked,
    Blocked(Activity, BlockedTime),
    /// Another thread runs the worker. Final until the thread's mark changes.
    HandedOn,
}

/// The evidence that a worker computes in one location.
#[derive(Clone, Copy, Debug)]
struct ComputingEvidence {
    /// The moment since which the runtime has published nothing of the worker.
    unpublished_since: u64,
    /// The thread's run delay at that moment, once it was read.
    run_delay: Option<u64>,
    samples: Option<LocationSamples>,
    next_sample: u64,
}

/// Successive stack samples in one location.
#[derive(Clone, Copy, Debug)]
struct LocationSamples {
    location: u64,
    since: u64,
    count: u32,
}

/// What is kept of one worker from one scan to the next.
#[derive(Clone, Copy, Debug)]
struct Track {
    last: WorkerObservation,
    state: State,
    /// The moment since which the worker has not run, and what it was blocked in when that was
    /// first asked.
    idle_since: u64,
    blocked_in: Option<BlockedIn>,
    computing: ComputingEvidence,
}

/// Detects blocked workers.
#[derive(Debug)]
pub(crate) struct BlockedWorkerDetector {
    threshold: u64,
    tracks: HashMap<u64, Track>,
}

impl BlockedWorkerDetector {
    pub(crate) fn new(threshold: u64) -> BlockedWorkerDetector {
        BlockedWorkerDetector { threshold, tracks: HashMap::new() }
    }

    /// Returns what the scan at `now` changes. `observations` has all workers that have not parked;
    /// a worker that is not among them has parked, or cannot be observed any more.
    pub(crate) fn step(
        &mut self,
        now: u64,
        observations: &[WorkerObservation],
        pauses: &Pauses,
        inspector: &mut impl Inspector,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let observed: HashSet<u64> = observations.iter().map(|observation| observation.thread).collect();
        self.tracks.retain(|thread, track| {
            let is_observed = observed.contains(thread);
            if !is_observed {
                verdicts.extend(track.end());
            }
            is_observed
        });
        for observation in observations {
            match self.tracks.entry(observation.thread) {
                Entry::Vacant(entry) => drop(entry.insert(Track::new(*observation))),
                Entry::Occupied(track) => {
                    let step = Step { now, threshold: self.threshold, pauses, inspector, verdicts: &mut verdicts };
                    step.observe(track.into_mut(), *observation);
                }
            }
        }
        verdicts
    }
}

impl Track {
    fn new(first: WorkerObservation) -> Track {
        Track {
            last: first,
            state: State::Unblocked,
            idle_since: first.at,
            blocked_in: None,
            computing: ComputingEvidence {
                unpublished_since: first.at,
                run_delay: None,
                samples: None,
                next_sample: 0,
            },
        }
    }

    /// Ends the stall, if there is one.
    fn end(&mut self) -> Option<Verdict> {
        let State::Blocked(_, stall) = self.state else { return None };
        self.state = State::Unblocked;
        Some(Verdict::Ended { thread: self.last.thread, elapsed: stall.confirmed })
    }
}

/// One scan.
struct Step<'a, I> {
    now: u64,
    threshold: u64,
    pauses: &'a Pauses,
    inspector: &'a mut I,
    verdicts: &'a mut Vec<Verdict>,
}

impl<I: Inspector> Step<'_, I> {
    fn observe(mut self, track: &mut Track, seen: WorkerObservation) {
        let last = std::mem::replace(&mut track.last, seen);
        if seen.mark != last.mark {
            self.verdicts.extend(track.end());
            *track = Track::new(seen);
            return;
        }
        let has_run = seen.cpu != last.cpu;
        if seen.progress != last.progress {
            self.verdicts.extend(track.end());
            let next_sample = track.computing.next_sample;
            track.computing =
                ComputingEvidence { unpublished_since: seen.at, run_delay: None, samples: None, next_sample };
            if !has_run {
                // Somebody has published these figures, and a thread that did not run cannot have.
                track.state = State::HandedOn;
            }
        }
        if has_run {
            if matches!(track.state, State::Blocked(Activity::Waiting, _)) {
                self.verdicts.extend(track.end());
            }
            (track.idle_since, track.blocked_in) = (seen.at, None);
        }
        match track.state {
            State::HandedOn => {}
            State::Blocked(Activity::Waiting, stall) => {
                let elapsed = self.elapsed(stall.begin);
                self.continue_stall(track, Activity::Waiting, stall, elapsed);
            }
            // The worker waits, and computes no more.
            State::Blocked(Activity::Computing, _) if !has_run && self.inspector.blocked_in(seen.thread).is_some() => {
                self.verdicts.extend(track.end());
                self.judge_waiting(track);
            }
            State::Blocked(Activity::Computing, stall) => self.confirm_computing(track, stall),
            State::Unblocked if !has_run => self.judge_waiting(track),
            State::Unblocked => self.judge_computing(track),
        }
    }

    fn elapsed(&self, begin: u64) -> u64 {
        effective(begin, self.now, self.pauses)
    }

    fn continue_stall(&mut self, track: &mut Track, activity: Activity, mut stall: BlockedTime, elapsed: u64) {
        let thread = track.last.thread;
        stall.confirmed = elapsed.max(stall.confirmed);
        let elapsed = stall.confirmed;
        let is_due = elapsed >= stall.next_report;
        stall.next_report = next_doubling(self.threshold, elapsed);
        track.state = State::Blocked(activity, stall);
        self.verdicts.push(match is_due {
            true => Verdict::Continued { thread, elapsed },
            false => Verdict::Unchanged { thread, elapsed },
        });
    }

    /// Continues the stall of a worker that computes, as far as the latest stack sample confirms it
    /// and no further.
    fn confirm_computing(&mut self, track: &mut Track, stall: BlockedTime) {
        let mut elapsed = stall.confirmed;
        if self.now >= track.computing.next_sample {
            track.computing.next_sample = self.now.saturating_add(self.threshold.saturating_mul(2));
            match self.inspector.location(track.last.thread) {
                None => {}
                same if same == track.computing.samples.map(|samples| samples.location) => {
                    elapsed = self.elapsed(stall.begin);
                }
                Some(_) => {
                    self.verdicts.extend(track.end());
                    (track.computing.samples, track.computing.next_sample) = (None, 0);
                    return;
                }
            }
        }
        self.continue_stall(track, Activity::Computing, stall, elapsed);
    }

    /// Judges a worker that has not run since the previous scan.
    fn judge_waiting(&mut self, track: &mut Track) {
        let thread = track.last.thread;
        let elapsed = self.elapsed(track.idle_since);
        let due = if track.blocked_in.is_none() { 0 } else { self.threshold };
        if elapsed < due {
            return;
        }
        let blocked_in = self.inspector.blocked_in(thread);
        let Some(call) = blocked_in.filter(|_| track.blocked_in.is_none_or(|earlier| Some(earlier) == blocked_in))
        else {
            // The worker is ready to run, or has run in between.
            (track.idle_since, track.blocked_in) = (self.now, None);
            return;
        };
        track.blocked_in = blocked_in;
        if call.is_shallow {
            // The thread waits in the pool, or does what `spawn_blocking` gave it.
            track.state = State::HandedOn;
            return;
        }
        if elapsed < self.threshold {
            return;
        }
        if call.in_call && self.inspector.keeps_its_worker(thread) {
            self.start(track, Activity::Waiting, Certainty::Observed, track.idle_since);
        } else if elapsed >= self.threshold.saturating_mul(2) {
            self.start(track, Activity::Waiting, Certainty::Suspected, track.idle_since);
        }
    }

    /// Judges a worker that has run since the previous scan.
    fn judge_computing(&mut self, track: &mut Track) {
        let thread = track.last.thread;
        let long = self.threshold.saturating_mul(TICKS) / 4;
        let evidence = &mut track.computing;
        let unpublished = self.elapsed(evidence.unpublished_since);
        let Some(before) = evidence.run_delay else {
            // Not read of each worker that is busy for a moment. How long it waited for a CPU
            // before this is unknown.
            if unpublished >= self.threshold {
                let run_delay = self.inspector.run_delay(thread);
                (evidence.run_delay, evidence.unpublished_since) = (Some(run_delay), self.now);
            }
            return;
        };
        if unpublished < long / 2 || self.now < evidence.next_sample {
            return;
        }
        let active = unpublished.saturating_sub(self.inspector.run_delay(thread).saturating_sub(before));
        if active < long / 2 {
            evidence.next_sample = self.now.saturating_add(long / 2 - active);
            return;
        }
        evidence.next_sample = self.now.saturating_add(long / 4);
        // A sample that failed says nothing.
        let Some(location) = self.inspector.location(thread) else { return };
        let samples = match evidence.samples {
            Some(samples) if samples.location == location => LocationSamples { count: samples.count + 1, ..samples },
            _ => LocationSamples { location, since: self.now, count: 1 },
        };
        evidence.samples = Some(samples);
        if samples.count >= SAMPLES && active >= long {
            self.start(track, Activity::Computing, Certainty::Suspected, samples.since);
        }
    }

    fn start(&mut self, track: &mut Track, activity: Activity, certainty: Certainty, begin: u64) {
        let elapsed = self.elapsed(begin);
        let next_report = next_doubling(self.threshold, elapsed);
        track.state = State::Blocked(activity, BlockedTime { begin, confirmed: elapsed, next_report });
        let thread = track.last.thread;
        self.verdicts.push(Verdict::Started { thread, certainty, activity, begin, elapsed });
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
