//! Which workers are blocked by a task that nobody wrapped (stable mode). Pure: what was seen of the workers' threads and times in,
//! verdicts out.
//!
//! Two things are looked for in a worker that has not parked and is in nobody's frame:
//!
//! - **It stands**: it has not run at all for the threshold, and waits in one system call. Then it is blocked for certain, unless
//!   its worker has been handed on by `block_in_place`: where that cannot be excluded, it is suspected, after twice the time.
//! - **It stays in one place**: the runtime publishes what a worker has done when it parks and every 61 ticks. Had no tick taken more
//!   than a quarter of the threshold, it would have published within [`TICKS`] quarters; when it has not, and each of some samples of
//!   its stack is in the same task's code, it is suspected. A tick is one poll, and up to three more where tasks wake one another: its
//!   polls take more than a quarter of the threshold on average, or a sixteenth.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::super::pause::Pauses;
use super::super::track::effective;
use crate::model::cause::Certainty;
use crate::util::backoff::next_doubling;

/// tokio's `event_interval`, unless the user has set another: after so many ticks, of one to four polls each, a worker publishes its
/// figures.
const TICKS: u64 = 61;
/// Samples of a stack that must agree.
const SAMPLES: u32 = 3;

/// One worker that has not parked, as seen from outside; times in nanoseconds of the watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerObservation {
    pub(crate) thread: u64,
    /// Its last unpark, and the state of its slot: any other pair is of another time.
    pub(crate) mark: (u64, u64),
    /// What the runtime publishes of the worker.
    pub(crate) progress: u64,
    /// The CPU time that the thread has used by `at`.
    pub(crate) cpu: u64,
    /// When that was read: no earlier than the look began.
    pub(crate) at: u64,
}

/// Where a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockedIn {
    /// A digest of the place and of how often the thread has been given a CPU: any other is of another wait.
    pub(crate) digest: u64,
    /// In a system call; else for something that the kernel does by itself (a page).
    pub(crate) in_call: bool,
    /// Its stack is too short to run a worker.
    pub(crate) is_shallow: bool,
}

/// What has to be asked for, since it costs more than a look.
pub(crate) trait Inspector {
    /// Where the thread waits; `None` when it does not.
    fn blocked_in(&mut self, thread: u64) -> Option<BlockedIn>;
    /// Whether its worker cannot have been handed on.
    fn keeps_its_worker(&mut self, thread: u64) -> bool;
    /// How long the thread was ready to run in all, but had no CPU.
    fn run_delay(&mut self, thread: u64) -> u64;
    /// A digest of the code that the thread's task is in; `None` where it cannot be told.
    fn location(&mut self, thread: u64) -> Option<u64>;
}

/// What became known of a worker. `elapsed` leaves pauses out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Started {
        thread: u64,
        certainty: Certainty,
        /// It has not run since; else it stays in one place.
        stands: bool,
        /// Since when it is known to be so.
        begin: u64,
        elapsed: u64,
    },
    /// To be told again.
    Continued {
        thread: u64,
        elapsed: u64,
    },
    Unchanged {
        thread: u64,
        elapsed: u64,
    },
    Ended {
        thread: u64,
        elapsed: u64,
    },
}

/// A stall that goes on.
#[derive(Clone, Copy, Debug)]
struct Stall {
    /// It stands; else it stays in one place.
    stands: bool,
    begin: u64,
    seen: u64,
    next: u64,
}

/// What is kept of one worker from one look to the next.
#[derive(Clone, Copy, Debug)]
struct Track {
    last: WorkerObservation,
    /// Since when it has not run, and what it was found to wait in.
    still: u64,
    wait: Option<BlockedIn>,
    /// Since when nothing was published, and how long it had been starved by then, once asked.
    unpublished: u64,
    starved: Option<u64>,
    place: Option<Place>,
    next_place: u64,
    /// Another thread runs its worker.
    handed_on: bool,
    stall: Option<Stall>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    digest: u64,
    since: u64,
    samples: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct BlockedWorkerDetector {
    threshold: u64,
    tracks: HashMap<u64, Track>,
}

impl BlockedWorkerDetector {
    pub(crate) fn new(threshold: u64) -> BlockedWorkerDetector {
        BlockedWorkerDetector { threshold, tracks: HashMap::new() }
    }

    /// What the look at `now` changes. All workers that have not parked are in it; who is not, has, or can no longer be told.
    pub(crate) fn step(
        &mut self,
        now: u64,
        look: &[WorkerObservation],
        pauses: &Pauses,
        inspector: &mut impl Inspector,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let there: HashSet<u64> = look.iter().map(|observation| observation.thread).collect();
        self.tracks.retain(|thread, track| {
            let is_there = there.contains(thread);
            if !is_there {
                verdicts.extend(track.end(*thread));
            }
            is_there
        });
        for observation in look {
            match self.tracks.entry(observation.thread) {
                Entry::Vacant(place) => drop(place.insert(Track::new(*observation))),
                Entry::Occupied(track) => {
                    let step = Step { now, threshold: self.threshold, pauses, inspector, verdicts: &mut verdicts };
                    step.look(track.into_mut(), *observation);
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
            still: first.at,
            wait: None,
            unpublished: first.at,
            starved: None,
            place: None,
            next_place: 0,
            handed_on: false,
            stall: None,
        }
    }

    fn end(&mut self, thread: u64) -> Option<Verdict> {
        self.stall.take().map(|stall| Verdict::Ended { thread, elapsed: stall.seen })
    }
}

/// One look.
struct Step<'a, S> {
    now: u64,
    threshold: u64,
    pauses: &'a Pauses,
    inspector: &'a mut S,
    verdicts: &'a mut Vec<Verdict>,
}

impl<S: Inspector> Step<'_, S> {
    fn look(mut self, track: &mut Track, seen: WorkerObservation) {
        let last = std::mem::replace(&mut track.last, seen);
        if seen.mark != last.mark {
            self.verdicts.extend(track.end(seen.thread));
            *track = Track::new(seen);
            return;
        }
        let has_run = seen.cpu != last.cpu;
        if seen.progress != last.progress {
            self.verdicts.extend(track.end(seen.thread));
            (track.unpublished, track.starved, track.place) = (seen.at, None, None);
            // Published by somebody, and not by a thread that did not run.
            track.handed_on |= !has_run;
        }
        if has_run {
            if track.stall.is_some_and(|stall| stall.stands) {
                self.verdicts.extend(track.end(seen.thread));
            }
            (track.still, track.wait) = (seen.at, None);
        }
        if track.handed_on {
            return;
        }
        match track.stall {
            Some(stall) if stall.stands => self.go_on(track, stall, self.elapsed(stall.begin)),
            // It waits, and computes no more.
            Some(_) if !has_run && self.inspector.blocked_in(seen.thread).is_some() => {
                self.verdicts.extend(track.end(seen.thread));
                self.standing(track);
            }
            Some(stall) => self.still_there(track, stall),
            None if !has_run => self.standing(track),
            None => self.staying(track),
        }
    }

    fn elapsed(&self, begin: u64) -> u64 {
        effective(begin, self.now, self.pauses)
    }

    fn go_on(&mut self, track: &mut Track, mut stall: Stall, elapsed: u64) {
        let thread = track.last.thread;
        stall.seen = elapsed.max(stall.seen);
        let elapsed = stall.seen;
        let is_due = elapsed >= stall.next;
        stall.next = next_doubling(self.threshold, elapsed);
        track.stall = Some(stall);
        self.verdicts.push(match is_due {
            true => Verdict::Continued { thread, elapsed },
            false => Verdict::Unchanged { thread, elapsed },
        });
    }

    /// It stays in its place as far as the last sample says, and no further.
    fn still_there(&mut self, track: &mut Track, stall: Stall) {
        let thread = track.last.thread;
        let mut elapsed = stall.seen;
        if self.now >= track.next_place {
            track.next_place = self.now.saturating_add(self.threshold.saturating_mul(2));
            match self.inspector.location(thread) {
                None => {}
                same if same == track.place.map(|place| place.digest) => elapsed = self.elapsed(stall.begin),
                Some(_) => {
                    self.verdicts.extend(track.end(thread));
                    (track.place, track.next_place) = (None, 0);
                    return;
                }
            }
        }
        self.go_on(track, stall, elapsed);
    }

    /// It has not run since the look before.
    fn standing(&mut self, track: &mut Track) {
        let thread = track.last.thread;
        let elapsed = self.elapsed(track.still);
        let due = if track.wait.is_none() { 0 } else { self.threshold };
        if elapsed < due {
            return;
        }
        let wait = self.inspector.blocked_in(thread);
        if wait.is_none() || track.wait.is_some_and(|earlier| Some(earlier) != wait) {
            // Ready to run, or it has run in between.
            (track.still, track.wait) = (self.now, None);
            return;
        }
        track.wait = wait;
        // Its worker is another thread's by now: it waits in the pool, or does what `spawn_blocking` gave it.
        track.handed_on |= wait.is_some_and(|wait| wait.is_shallow);
        if track.handed_on || elapsed < self.threshold {
            return;
        }
        let in_call = wait.is_some_and(|wait| wait.in_call);
        if in_call && self.inspector.keeps_its_worker(thread) {
            self.begin(track, true, Certainty::Observed, track.still);
        } else if elapsed >= self.threshold.saturating_mul(2) {
            self.begin(track, true, Certainty::Suspected, track.still);
        }
    }

    /// It has run since the look before.
    fn staying(&mut self, track: &mut Track) {
        let thread = track.last.thread;
        let long = self.threshold.saturating_mul(TICKS) / 4;
        let unpublished = self.elapsed(track.unpublished);
        let Some(before) = track.starved else {
            // Not asked of each worker that is busy for a moment. What it waited before this is not known.
            if unpublished >= self.threshold {
                (track.starved, track.unpublished) = (Some(self.inspector.run_delay(thread)), self.now);
            }
            return;
        };
        if unpublished < long / 2 || self.now < track.next_place {
            return;
        }
        let active = unpublished.saturating_sub(self.inspector.run_delay(thread).saturating_sub(before));
        if active < long / 2 {
            track.next_place = self.now.saturating_add(long / 2 - active);
            return;
        }
        track.next_place = self.now.saturating_add(long / 4);
        // A sample that failed tells nothing.
        let Some(digest) = self.inspector.location(thread) else { return };
        track.place = Some(match track.place {
            Some(place) if place.digest == digest => Place { samples: place.samples + 1, ..place },
            _ => Place { digest, since: self.now, samples: 1 },
        });
        if let Some(place) = track.place.filter(|place| place.samples >= SAMPLES && active >= long) {
            self.begin(track, false, Certainty::Suspected, place.since);
        }
    }

    fn begin(&mut self, track: &mut Track, stands: bool, certainty: Certainty, begin: u64) {
        let elapsed = self.elapsed(begin);
        let next = next_doubling(self.threshold, elapsed);
        track.stall = Some(Stall { stands, begin, seen: elapsed, next });
        self.verdicts.push(Verdict::Started { thread: track.last.thread, certainty, stands, begin, elapsed });
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
