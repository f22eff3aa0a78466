//! The stalls of threads that are observed from outside, from their start to their end.
//!
//! The detectors of [workers](super::detector) and of the threads of other processes share this
//! part. They differ in what they read of a thread, and in what proves that it is blocked. What
//! they keep of a thread from one scan to the next is the evidence `E`.

use std::collections::{HashMap, HashSet};

use super::observation::{Activity, EntryId, WorkerChange};
use crate::detect::track::next_report;
use crate::model::cause::Certainty;
use crate::model::time::Nanos;

/// The number of stack samples that have to agree.
pub(super) const MIN_SAMPLES: u32 = 3;

/// An ongoing stall of a thread that is observed from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutsideStall {
    pub(crate) activity: Activity,
    pub(crate) certainty: Certainty,
    /// The moment since which the thread is known to be blocked.
    pub(crate) start: Nanos,
    /// The duration of the stall when it was last confirmed, without pauses.
    pub(crate) confirmed: Nanos,
    /// The duration of the stall when the next report is due.
    pub(crate) next_report: Nanos,
}

/// All threads that are observed, with the evidence and the stall of each.
#[derive(Debug)]
pub(crate) struct ObservedThreads<E> {
    threshold: Nanos,
    threads: HashMap<EntryId, ObservedThread<E>>,
}

#[derive(Debug)]
struct ObservedThread<E> {
    evidence: Option<E>,
    stall: Option<OutsideStall>,
}

impl<E> ObservedThreads<E> {
    pub(crate) fn new(threshold: Nanos) -> ObservedThreads<E> {
        ObservedThreads { threshold, threads: HashMap::new() }
    }

    /// Calls `observe` for each of the readings of one scan, and returns all changes. The evidence
    /// of a new thread is `None`. The stall of a thread without a reading ends, and its evidence is
    /// dropped.
    pub(crate) fn step<R>(
        &mut self,
        readings: &[R],
        thread_of: impl Fn(&R) -> EntryId,
        mut observe: impl FnMut(&R, &mut Option<E>, StallSteps<'_>),
    ) -> Vec<WorkerChange> {
        let mut changes = Vec::new();
        let read: HashSet<EntryId> = readings.iter().map(&thread_of).collect();
        self.threads.retain(|thread, observed| {
            let is_read = read.contains(thread);
            if !is_read {
                changes.extend(end(*thread, &mut observed.stall));
            }
            is_read
        });
        for reading in readings {
            let thread = thread_of(reading);
            let known = self.threads.entry(thread).or_insert(ObservedThread { evidence: None, stall: None });
            let (threshold, stall) = (self.threshold, &mut known.stall);
            let steps = StallSteps { thread, threshold, stall, is_new: false, changes: &mut changes };
            observe(reading, &mut known.evidence, steps);
        }
        changes
    }

    /// Ends all stalls, and drops all evidence.
    #[cfg(feature = "attach")]
    pub(crate) fn clear(&mut self) -> Vec<WorkerChange> {
        self.threads.drain().filter_map(|(thread, mut observed)| end(thread, &mut observed.stall)).collect()
    }

    /// Returns whether no thread is known.
    #[cfg(all(test, feature = "attach", not(pollwatch_loom)))]
    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }
}

/// Ends a stall, if there is one.
fn end(thread: EntryId, stall: &mut Option<OutsideStall>) -> Option<WorkerChange> {
    let elapsed = stall.take()?.confirmed;
    Some(WorkerChange::Ended { thread, elapsed })
}

/// The stall of one thread in one scan. Each transition adds a change.
#[derive(Debug)]
pub(crate) struct StallSteps<'a> {
    thread: EntryId,
    threshold: Nanos,
    stall: &'a mut Option<OutsideStall>,
    /// True if the stall has started in this scan.
    is_new: bool,
    changes: &'a mut Vec<WorkerChange>,
}

impl StallSteps<'_> {
    /// Returns the stall that is ongoing.
    pub(crate) fn ongoing(&self) -> Option<OutsideStall> {
        *self.stall
    }

    /// Starts a stall, which has lasted for the time `elapsed`. An ongoing one ends.
    pub(crate) fn start(&mut self, activity: Activity, certainty: Certainty, start: Nanos, elapsed: Nanos) {
        self.end();
        let next_report = next_report(self.threshold, elapsed);
        *self.stall = Some(OutsideStall { activity, certainty, start, confirmed: elapsed, next_report });
        self.is_new = true;
        self.changes.push(WorkerChange::Started { thread: self.thread, certainty, activity, start, elapsed });
    }

    /// Continues the ongoing stall, which has lasted for the time `elapsed` at least.
    pub(crate) fn confirm(&mut self, elapsed: Nanos) {
        let Some(stall) = self.stall.as_mut() else { return };
        let elapsed = elapsed.max(stall.confirmed);
        stall.confirmed = elapsed;
        if self.is_new {
            return;
        }
        let is_due = elapsed >= stall.next_report;
        stall.next_report = next_report(self.threshold, elapsed);
        let thread = self.thread;
        self.changes.push(match is_due {
            true => WorkerChange::ReportDue { thread, elapsed },
            false => WorkerChange::StillOngoing { thread, elapsed },
        });
    }

    /// Ends the stall, if there is one, with the time that was confirmed.
    pub(crate) fn end(&mut self) {
        self.changes.extend(end(self.thread, self.stall));
        self.is_new = false;
    }
}

/// One sample of a thread's stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocationSample {
    /// A digest of the code that the thread's task is in.
    pub(crate) location: u64,
    pub(crate) at: Nanos,
    /// The CPU time that the thread had used then.
    pub(crate) cpu: Nanos,
}

/// Successive samples in one location.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocationSamples {
    pub(crate) first: LocationSample,
    count: u32,
}

impl LocationSamples {
    pub(crate) fn new(first: LocationSample) -> LocationSamples {
        LocationSamples { first, count: 1 }
    }

    /// Returns these samples with a further one; `None` if that is in another location.
    pub(crate) fn with(self, further: LocationSample) -> Option<LocationSamples> {
        let is_same = further.location == self.first.location;
        is_same.then_some(LocationSamples { count: self.count + 1, ..self })
    }

    /// Returns whether the samples are as many as a stall needs.
    pub(crate) fn are_enough(&self) -> bool {
        self.count >= MIN_SAMPLES
    }
}
