//! The segments of one stall, and the choice of the one that represents a whole stall. Pure.

mod location_time;

use std::collections::VecDeque;
use std::time::Duration;

use pollwatch_stack::Stack;

use super::findings::{Findings, is_same_function, location};
use super::kernel_share::SegmentUsage;
use super::main_cause::CauseTimes;
use crate::model::cause::Cause;
use crate::model::segment::{MergedSegments, Segment};
use crate::report::totals::CountAndTime;
use location_time::{LocationTime, add_location_time};

/// The largest number of segments before the running one. Older ones are summed up.
const MAX_SEGMENTS: usize = 8;
/// The largest number of different causes and locations of which the time in summed-up segments is
/// known.
const MAX_LOCATIONS: usize = 16;

/// The number of a captured stack, unique within its stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleNumber(u32);

impl SampleNumber {
    /// The number of the first stack that is captured of a stall.
    pub(super) const FIRST: SampleNumber = SampleNumber(1);
}

/// A captured stack that is not symbolized yet.
#[derive(Debug)]
struct PendingSample {
    number: SampleNumber,
    /// The duration of the stall from which on the thread was where the stack shows it.
    from: Duration,
    /// The time that belongs to this stack and is not in the profile yet.
    unprofiled: Duration,
    /// The thread's usage, if the stack is of another location than the one before.
    usage: SegmentUsage,
}

#[derive(Debug)]
struct SegmentRecord {
    findings: Findings,
    from: Duration,
    to: Duration,
    /// The time that belongs to the stack of `findings` and is not in the profile yet.
    unprofiled: Duration,
    /// Later stacks of the segment, oldest first. One that turns out to be of another location
    /// splits the segment.
    pending: VecDeque<PendingSample>,
}

/// A part of a stall for the profile.
#[derive(Debug)]
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "there is no profile"))]
pub(super) struct ProfileSample {
    pub(super) cause: Cause,
    pub(super) stack: Option<Stack>,
    pub(super) amount: CountAndTime,
}

/// The segments of one stall.
#[derive(Debug)]
pub(super) struct SegmentHistory {
    /// The segments before the running one, oldest first.
    earlier: VecDeque<SegmentRecord>,
    /// The activity of the thread now, or when the stall ended.
    running: SegmentRecord,
    /// The sums of older segments by cause and location, at most [`MAX_LOCATIONS`].
    older: Vec<LocationTime>,
    /// The sums of older segments by cause.
    older_causes: CauseTimes,
    merged: MergedSegments,
    /// Time for the profile of stacks that are no longer those of a segment.
    replaced: Vec<ProfileSample>,
    /// The stack that was symbolized last.
    latest_stack: Option<Stack>,
    /// True if the latest stack is of another location than the one before.
    location_changed: Option<bool>,
    /// The thread's usage between the latest two examinations.
    latest_usage: SegmentUsage,
    samples: u32,
}

impl SegmentHistory {
    /// Returns the history of a stall whose first examination has these results. `has_stack` says
    /// that a stack was captured, which follows by [`set_stack`](Self::set_stack).
    pub(super) fn new(findings: Findings, elapsed: Duration, has_stack: bool) -> SegmentHistory {
        let latest_usage = findings.usage;
        let mut history = SegmentHistory {
            earlier: VecDeque::new(),
            running: SegmentRecord::new(findings, Duration::ZERO),
            older: Vec::new(),
            older_causes: CauseTimes::default(),
            merged: MergedSegments::default(),
            replaced: Vec::new(),
            latest_stack: None,
            location_changed: None,
            latest_usage,
            samples: 0,
        };
        if has_stack {
            history.await_stack(Duration::ZERO, history.latest_usage);
        }
        history.extend(elapsed);
        history
    }

    /// Adds the results of a further examination, when the stall had lasted for `elapsed`. The
    /// thread has done what they say from `since` on.
    pub(super) fn examine(&mut self, findings: Findings, since: Duration, elapsed: Duration, has_stack: bool) {
        let from = self.running.from;
        let since = since.min(elapsed).max(from);
        self.latest_usage = findings.usage;
        self.extend(since);
        if self.running.findings.is_continued_by(&findings) {
            if !has_stack {
                self.running.latest_usage().extend(findings.usage);
            }
        } else {
            let mut next = SegmentRecord::new(findings, since);
            // Time after `since` that is in the profile already stays where it is.
            next.to = self.running.to;
            if from == since && self.running.pending.is_empty() {
                // The time of a segment without length is that of the next one.
                next.unprofiled = self.running.unprofiled;
                self.running = next;
            } else {
                self.running.to = since;
                let ended = std::mem::replace(&mut self.running, next);
                self.earlier.push_back(ended);
                self.sum_up_oldest();
            }
        }
        if has_stack {
            self.await_stack(since, self.latest_usage);
        }
        self.extend(elapsed);
    }

    /// Adds a stack that was requested at the latest examination. If it is the first of the running
    /// segment, all of the segment belongs to it.
    pub(super) fn await_late_stack(&mut self) {
        let running = &mut self.running;
        let is_first = running.findings.stack.is_none() && running.pending.is_empty();
        let from = if is_first { running.from } else { running.to };
        let unprofiled = if is_first { std::mem::take(&mut running.unprofiled) } else { Duration::ZERO };
        self.await_stack(from, self.latest_usage);
        if let Some(sample) = self.running.pending.back_mut() {
            sample.unprofiled = unprofiled;
        }
    }

    /// Continues the running segment until the stall has lasted for `elapsed`.
    pub(super) fn extend(&mut self, elapsed: Duration) {
        let running = &mut self.running;
        let growth = elapsed.saturating_sub(running.to);
        running.to += growth;
        match running.pending.back_mut() {
            Some(sample) => sample.unprofiled += growth,
            None => running.unprofiled += growth,
        }
    }

    /// Sets the stack of a sample, or drops the sample if there is none. `explain` sets the reason
    /// that follows from the stack.
    pub(super) fn set_stack(
        &mut self,
        number: SampleNumber,
        stack: Option<Stack>,
        explain: impl FnOnce(&mut Findings),
    ) {
        let at = |record: &SegmentRecord| record.pending.iter().position(|sample| sample.number == number);
        let index = self.earlier.iter().position(|record| at(record).is_some());
        let record = match index {
            Some(index) => &mut self.earlier[index],
            None => &mut self.running,
        };
        let Some((at, sample)) = at(record).and_then(|at| Some((at, record.pending.remove(at)?))) else { return };
        let Some(stack) = stack else {
            record.unprofiled += sample.unprofiled;
            record.findings.usage.extend(sample.usage);
            return;
        };
        let before = self.latest_stack.replace(stack.clone());
        self.location_changed = before.map(|before| !before.is_same_location(&stack));
        let known = record.findings.stack.as_ref();
        let is_moved = known.is_some_and(|known| !is_same_function(known, &stack)) && sample.from > record.from;
        self.replaced.extend(record.take_profiled());
        let mut findings = Findings { stack: Some(stack), ..record.findings.clone() };
        match is_moved {
            true => findings.usage = sample.usage,
            false => findings.usage.extend(sample.usage),
        }
        explain(&mut findings);
        if !is_moved {
            (record.findings, record.unprofiled) = (findings, sample.unprofiled);
            return;
        }
        let next = SegmentRecord {
            findings,
            from: sample.from,
            to: record.to,
            unprofiled: sample.unprofiled,
            pending: record.pending.split_off(at),
        };
        record.to = sample.from;
        match index {
            None => {
                let ended = std::mem::replace(&mut self.running, next);
                self.earlier.push_back(ended);
            }
            Some(index) => self.earlier.insert(index + 1, next),
        }
        self.sum_up_oldest();
    }

    /// Sets the time of the longest fork of the thread, which ran after the latest examination, so
    /// in the running segment.
    pub(super) fn set_fork(&mut self, fork: Duration) {
        let running = &mut self.running;
        running.latest_usage().set_fork(fork);
        if running.findings.stack.is_none() {
            running.findings.usage.set_fork(fork);
        }
    }

    /// Returns the results of the latest examination, to be explained anew.
    pub(super) fn current_mut(&mut self) -> &mut Findings {
        &mut self.running.findings
    }

    /// Returns the results of the latest examination.
    pub(super) fn current(&self) -> &Findings {
        &self.running.findings
    }

    /// Returns whether the latest stack is of another location than the one before. `None` until
    /// there are two.
    pub(super) fn location_changed(&self) -> Option<bool> {
        self.location_changed
    }

    /// Returns the segments, oldest first.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let segment = |record: &SegmentRecord| Segment {
            cause: record.findings.cause,
            reason: record.findings.reason,
            location: record.findings.stack.as_ref().and_then(location),
            syscall: record.findings.syscall.clone(),
            from: record.from,
            to: record.to,
        };
        self.records().map(segment).collect()
    }

    /// Returns the sum of the segments that are not in [`segments`](Self::segments).
    pub(super) fn merged(&self) -> MergedSegments {
        self.merged
    }

    /// Returns the time of each cause.
    pub(super) fn times(&self) -> CauseTimes {
        self.times_of(self.records().map(|record| (record.findings.cause, record.duration())))
    }

    /// Returns the time of each cause until the stall had lasted for `end`, or will have if the
    /// running segment continues until then. The segments that are summed up have ended before.
    pub(super) fn times_until(&self, end: Duration) -> CauseTimes {
        let running = (self.running.findings.cause, end.saturating_sub(self.running.from));
        let earlier = self.earlier.iter().map(|record| {
            let time = record.to.min(end).saturating_sub(record.from);
            (record.findings.cause, time)
        });
        self.times_of(earlier.chain([running]))
    }

    fn times_of(&self, kept: impl Iterator<Item = (Cause, Duration)>) -> CauseTimes {
        let mut times = self.older_causes;
        kept.for_each(|(cause, time)| times.add(cause, time));
        times
    }

    /// Returns the results that stand for the whole stall, which counts under `cause`: those of the
    /// location with the most time of that cause. Where no examination found the cause, they are
    /// those of the location where the thread was ready to run for the longest time.
    pub(super) fn main_findings(&self, cause: Cause) -> Findings {
        let mut sums: Vec<LocationTime> = Vec::new();
        let older = self.older.iter().map(|older| (&older.findings, older.time));
        let kept = self.records().map(|record| (&record.findings, record.duration()));
        for (findings, time) in older.chain(kept) {
            add_location_time(&mut sums, findings, time);
        }
        let longest = |is: &dyn Fn(Cause) -> bool| {
            let matching = sums.iter().filter(|sum| is(sum.findings.cause));
            matching.max_by_key(|sum| sum.time).map(|sum| &sum.findings)
        };
        let is_runnable = |of: Cause| matches!(of, Cause::Cpu | Cause::Starved | Cause::Unknown);
        let found = longest(&|of| of == cause).or_else(|| longest(&is_runnable));
        let stack = found.and_then(|found| found.stack.clone());
        let syscall = found.and_then(|found| found.syscall.clone());
        let lock = found.and_then(|found| found.lock.clone());
        let pool = found.and_then(|found| found.pool.clone());
        let usage = found.map(|found| found.usage).unwrap_or_default();
        Findings { cause, syscall, stack, reason: "", advice: None, lock, pool, usage }
    }

    /// Takes the time whose stack is known, or is known to be missing, for the profile.
    pub(super) fn take_profiled(&mut self) -> Vec<ProfileSample> {
        let mut all = std::mem::take(&mut self.replaced);
        let records = self.earlier.iter_mut().chain([&mut self.running]);
        all.extend(records.filter_map(SegmentRecord::take_profiled));
        all
    }

    /// Returns the number of the sample that was added last.
    pub(super) fn latest_sample(&self) -> SampleNumber {
        SampleNumber(self.samples)
    }

    fn records(&self) -> impl Iterator<Item = &SegmentRecord> {
        self.earlier.iter().chain([&self.running])
    }

    fn await_stack(&mut self, from: Duration, usage: SegmentUsage) {
        self.samples += 1;
        let sample = PendingSample { number: self.latest_sample(), from, unprofiled: Duration::ZERO, usage };
        self.running.pending.push_back(sample);
    }

    /// Sums up the oldest segment if there are too many.
    fn sum_up_oldest(&mut self) {
        if self.earlier.len() <= MAX_SEGMENTS {
            return;
        }
        let Some(mut oldest) = self.earlier.pop_front() else { return };
        let time = oldest.duration();
        self.merged.count += 1;
        self.merged.time += time;
        self.older_causes.add(oldest.findings.cause, time);
        add_location_time(&mut self.older, &oldest.findings, time);
        if self.older.len() > MAX_LOCATIONS
            && let Some(shortest) = (0..self.older.len()).min_by_key(|&i| self.older[i].time)
        {
            self.older.swap_remove(shortest);
        }
        oldest.unprofiled += oldest.pending.iter().map(|sample| sample.unprofiled).sum::<Duration>();
        self.replaced.extend(oldest.take_profiled());
    }
}

impl SegmentRecord {
    fn new(findings: Findings, from: Duration) -> SegmentRecord {
        SegmentRecord { findings, from, to: from, unprofiled: Duration::ZERO, pending: VecDeque::new() }
    }

    fn duration(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Returns the usage of the latest stack, or of the segment if no stack is pending.
    fn latest_usage(&mut self) -> &mut SegmentUsage {
        self.pending.back_mut().map_or(&mut self.findings.usage, |sample| &mut sample.usage)
    }

    fn take_profiled(&mut self) -> Option<ProfileSample> {
        let time = std::mem::take(&mut self.unprofiled);
        let Findings { cause, stack, .. } = &self.findings;
        let amount = CountAndTime { count: 0, time: time.into() };
        (time > Duration::ZERO).then(|| ProfileSample { cause: *cause, stack: stack.clone(), amount })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
