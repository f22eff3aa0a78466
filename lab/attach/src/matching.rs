//! The comparison of reports with the ground truth.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cpu::ObserverDelay;
use crate::report::Report;
use crate::truth::{Block, Kind};

/// The part of the threshold by which a reported start or end may lie outside of its block: the
/// time between two readings.
const SLACK_DIVISOR: u32 = 2;

/// The part of the threshold for which the observer has to wait for a CPU during a block, so that
/// it is excused from finding it.
const EXCUSE_DIVISOR: u64 = 4;

/// The time between two lists of the threads, after which a new thread is known.
const LIST_INTERVAL: u64 = 50_000_000;

/// What was found of one kind of block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The blocks that lasted for twice the threshold, without the wait for a CPU.
    pub long: usize,
    /// Those of them that were reported as observed.
    pub observed: usize,
    /// Those of them that were reported, but as suspected only.
    pub suspected: usize,
    /// Further blocks of that length that were not reported as observed, during which the observer
    /// had no CPU for a quarter of the threshold or longer.
    pub excused: usize,
    /// Further blocks of that length that were not reported as observed, on a thread so new that
    /// the observer cannot have known it for two thresholds of the block.
    pub new_thread: usize,
    /// The stalls that were reported as observed and matched with a block of this kind, of any
    /// length.
    pub reports: usize,
    /// Those of them without a stack.
    pub no_stack: usize,
    /// Those of them with another innermost function of the program.
    pub wrong_function: usize,
    /// Those of them with the right function and another line. Not counted for computations.
    pub wrong_line: usize,
    /// Those of them that start before their block or end after it.
    pub wrong_time: usize,
}

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was found, by kind.
    pub kinds: BTreeMap<Kind, Found>,
    /// The stalls that were reported as observed.
    pub observed: usize,
    /// Those of them that are in no block that kept its worker for the threshold.
    pub false_observed: usize,
    /// The stalls that were reported as suspected.
    pub suspected: usize,
    /// Those of them that are in no block that kept its worker for the threshold.
    pub false_suspected: usize,
    /// A description of each block that was missed, and of each wrong report.
    pub faults: Vec<String>,
}

/// The conditions of a run that reports are compared by.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// The threshold.
    pub threshold: Duration,
    /// The threads with a lower number have run since before the observer was attached.
    pub workers: u64,
    /// The observer's own delay.
    pub delay: &'a ObserverDelay,
}

/// Compares reports with the blocks that the target has injected meanwhile.
pub fn compare(blocks: &[Block], reports: &[Report], conditions: Conditions<'_>) -> Outcome {
    let Conditions { threshold, workers, delay } = conditions;
    let threshold = threshold.as_nanos() as u64;
    let mut outcome = Outcome::default();
    let mut reports_of: BTreeMap<usize, Vec<&Report>> = BTreeMap::new();
    for report in reports {
        let overlapping = blocks.iter().enumerate().filter(|(_, block)| overlap(block, report) > 0);
        let best = overlapping.max_by_key(|(_, block)| overlap(block, report));
        let (all, wrong) = match report.is_observed {
            true => (&mut outcome.observed, &mut outcome.false_observed),
            false => (&mut outcome.suspected, &mut outcome.false_suspected),
        };
        *all += 1;
        match best.filter(|(_, block)| block.kind.blocks_a_worker() && is_stall(block, threshold)) {
            Some((index, _)) => reports_of.entry(index).or_default().push(report),
            None => {
                *wrong += 1;
                outcome.faults.push(format!("false: {report:?}, best: {:?}", best.map(|(_, block)| block)));
            }
        }
    }
    for (index, block) in blocks.iter().enumerate() {
        let reports = reports_of.remove(&index).unwrap_or_default();
        let found = outcome.kinds.entry(block.kind).or_default();
        if block.nanos() >= 2 * threshold && block.kind.blocks_a_worker() {
            let is_observed = reports.iter().any(|report| report.is_observed);
            let had_no_cpu = || delay.within(block.start, block.end) >= threshold / EXCUSE_DIVISOR;
            if !is_observed && had_no_cpu() {
                found.excused += 1;
                continue;
            }
            if !is_observed && is_too_new(block, blocks, workers, threshold) {
                found.new_thread += 1;
                continue;
            }
            found.long += 1;
            if is_observed {
                found.observed += 1;
            } else if !reports.is_empty() {
                found.suspected += 1;
            } else {
                outcome.faults.push(format!("not reported: {block:?}"));
            }
        }
        for report in reports.into_iter().filter(|report| report.is_observed) {
            found.reports += 1;
            check(block, report, threshold, found, &mut outcome.faults);
        }
    }
    outcome
}

/// Returns whether the thread of a block is so new that, once it is listed, less than two
/// thresholds of the block are left. Its first block stands for its start.
fn is_too_new(block: &Block, blocks: &[Block], workers: u64, threshold: u64) -> bool {
    let number = block.thread.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
    if number.is_some_and(|number| number < workers) {
        return false;
    }
    let first = blocks.iter().filter(|other| other.thread == block.thread).map(|other| other.start.0).min();
    first.is_some_and(|first| block.end.0 < first + LIST_INTERVAL + 2 * threshold)
}

/// Returns whether a block kept its worker for the threshold, by its outer time.
fn is_stall(block: &Block, threshold: u64) -> bool {
    block.end.0 - block.start.0 + 100_000 >= threshold
}

/// Returns the nanoseconds that a block and a report of the same thread have in common.
fn overlap(block: &Block, report: &Report) -> u64 {
    if block.thread != report.thread {
        return 0;
    }
    block.end.0.min(report.end().0).saturating_sub(block.start.0.max(report.start.0))
}

fn check(block: &Block, report: &Report, threshold: u64, found: &mut Found, faults: &mut Vec<String>) {
    let slack = threshold / u64::from(SLACK_DIVISOR);
    let mut fault = |what: &str| faults.push(format!("{what}: {report:?}, {block:?}"));
    if report.function.is_none() {
        found.no_stack += 1;
    } else if report.function.as_deref() != Some(&block.kind.function()) {
        found.wrong_function += 1;
        fault("wrong function");
    } else if block.kind.waits() && report.line != Some(block.line) {
        found.wrong_line += 1;
        fault("wrong line");
    }
    if report.start.0 + slack < block.start.0 || report.end().0 > block.end.0 + slack {
        found.wrong_time += 1;
        fault("wrong time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::UnixNanos;

    const MS: u64 = 1_000_000;
    const THRESHOLD: Duration = Duration::from_millis(10);

    fn conditions(delay: &ObserverDelay) -> Conditions<'_> {
        Conditions { threshold: THRESHOLD, workers: 1, delay }
    }

    fn block(kind: Kind, start: u64, length: u64) -> Block {
        let (start, end) = (UnixNanos(start * MS), UnixNanos((start + length) * MS));
        Block { kind, thread: "thread-0".into(), line: 7, start, end, run_delay: 0 }
    }

    fn report(id: u64, start: u64, length: u64) -> Report {
        Report {
            id,
            is_observed: true,
            cause: "syscall".into(),
            thread: "thread-0".into(),
            start: UnixNanos(start * MS),
            elapsed: length * MS,
            function: Some(Kind::Sleeps.function()),
            line: Some(7),
        }
    }

    #[test]
    fn blocks_are_found_or_missed_by_their_thread_and_time() {
        let blocks = [block(Kind::Sleeps, 100, 30), block(Kind::Sleeps, 200, 30), block(Kind::Sleeps, 300, 12)];
        let other_thread = Report { thread: "thread-1".into(), ..report(2, 202, 26) };
        let outcome = compare(&blocks, &[report(1, 102, 26), other_thread], conditions(&ObserverDelay::default()));
        let sleeps = outcome.kinds[&Kind::Sleeps];
        assert_eq!((sleeps.long, sleeps.observed, sleeps.reports, sleeps.wrong_time), (2, 1, 1, 0), "{outcome:?}");
        assert_eq!((outcome.observed, outcome.false_observed), (2, 1), "{outcome:?}");
    }

    #[test]
    fn reports_of_what_blocks_no_worker_are_false() {
        let blocks = [block(Kind::Pool, 100, 30), block(Kind::Sleeps, 200, 8)];
        let suspected = Report { is_observed: false, ..report(2, 200, 8) };
        let outcome = compare(&blocks, &[report(1, 100, 30), suspected], conditions(&ObserverDelay::default()));
        assert_eq!((outcome.false_observed, outcome.false_suspected, outcome.faults.len()), (1, 1, 2), "{outcome:?}");
    }

    #[test]
    fn wrong_functions_lines_and_times_are_counted() {
        let blocks = [block(Kind::Sleeps, 100, 30), block(Kind::Locks, 200, 30), block(Kind::Sleeps, 300, 30)];
        let other_line = Report { line: Some(8), ..report(3, 302, 26) };
        let outcome = compare(
            &blocks,
            &[report(1, 102, 60), report(2, 202, 26), other_line],
            conditions(&ObserverDelay::default()),
        );
        let sleeps = outcome.kinds[&Kind::Sleeps];
        assert_eq!((sleeps.wrong_time, sleeps.wrong_line, sleeps.wrong_function), (1, 1, 0), "{outcome:?}");
        assert_eq!(outcome.kinds[&Kind::Locks].wrong_function, 1, "{outcome:?}");
    }

    #[test]
    fn a_block_without_a_cpu_is_not_long() {
        let waited = Block { run_delay: 15 * MS, ..block(Kind::Sleeps, 100, 30) };
        let outcome = compare(&[waited], &[], conditions(&ObserverDelay::default()));
        assert_eq!(outcome.kinds[&Kind::Sleeps].long, 0);
    }

    #[test]
    fn a_block_is_excused_only_where_its_thread_was_too_new() {
        let on = |thread: &str, start, length| Block { thread: thread.into(), ..block(Kind::Sleeps, start, length) };
        let blocks = [on("thread-0", 100, 30), on("thread-7", 100, 30), on("thread-7", 500, 30)];
        let outcome = compare(&blocks, &[], conditions(&ObserverDelay::default()));
        let sleeps = outcome.kinds[&Kind::Sleeps];
        assert_eq!((sleeps.long, sleeps.new_thread), (2, 1), "{outcome:?}");
    }
}
