//! The evaluation of reports about unmeasured tasks. Observed and suspected stalls are counted
//! separately.

use pollwatch::Certainty;

use super::cpu_monitor::CpuAvailability;
use super::fixture::Outcome;
use super::ground_truth::{Poll, ReportedStall, SHORT};
use super::guarantee::Guarantee;
use super::matching::match_up;
use super::statements::MissedBars;

/// The number of thresholds after which a computing block must be suspected.
pub(crate) const LONG_COMPUTATION: u64 = 30;

/// The share of the long waits that must be observed beside other users of the pool. Before stacks
/// were evidence, it was about 70 %.
const MIN_OBSERVED_PERCENT: usize = 85;
/// The fewest long waits of which a share is a figure.
const MIN_FOR_SHARE: usize = 50;

/// The number of blocks that must be reported, and of those that were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) of: usize,
    pub(crate) observed: usize,
    pub(crate) suspected: usize,
}

/// The reports of one certainty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReportCounts {
    pub(crate) reported: usize,
    /// Reports that match no poll, or a short one.
    pub(crate) wrong: usize,
    /// Reports of a poll that has been reported already, since its stall seemed to have ended.
    pub(crate) repeated: usize,
    /// Stalls that the metrics count.
    pub(crate) counted: u64,
}

/// The figures of one mode, which are the columns of its table.
#[derive(Debug, Default)]
pub(crate) struct Unwatched {
    pub(crate) blocks: usize,
    /// Blocks that waited in a system call on a worker that they held to the end.
    pub(crate) waiting: Found,
    pub(crate) computing_blocks: Found,
    /// Blocks that were not reported while the watchdog had no CPU.
    pub(crate) excused: usize,
    pub(crate) observed: ReportCounts,
    pub(crate) suspected: ReportCounts,
    /// The times from crossing the threshold to the callback, of waiting blocks reported in flight.
    pub(crate) delays: Vec<u64>,
    /// The times by which the last duration of observed stalls is too short.
    pub(crate) short: Vec<u64>,
    /// The durations that are longer than their poll.
    pub(crate) too_long: usize,
    /// True if only workers used the pool. Every waiting block must be observed then.
    pub(crate) alone: bool,
    /// Observed stalls that name another worker than that of their thread.
    pub(crate) wrong_worker: usize,
    /// Observed stalls that name no worker.
    pub(crate) without_worker: usize,
    /// The reports that do not call their duration a lower bound.
    pub(crate) without_lower_bound: usize,
    pub(crate) faults: Vec<String>,
}

fn is_observed(reported: &ReportedStall) -> bool {
    reported.last().certainty != Certainty::Suspected
}

impl Unwatched {
    pub(crate) fn new(guarantee: &Guarantee, outcome: &Outcome, cpu: &CpuAvailability, alone: bool) -> Unwatched {
        let (polls, reported) = (&outcome.recorded, &outcome.reported);
        let mut all = Unwatched { alone, ..Unwatched::default() };
        let matching = match_up(guarantee, polls, reported);
        all.blocks = polls.iter().map(|poll| poll.blocks.len()).sum();
        (all.observed.counted, all.suspected.counted) = (outcome.counted, outcome.suspected);
        for report in reported {
            all.counts_of(report).reported += 1;
            all.without_lower_bound += usize::from(!report.reports.iter().all(|r| r.is_lower_bound));
        }
        for &i in &matching.wrong {
            all.counts_of(&reported[i]).wrong += 1;
            all.faults.push(format!("false: started_at {} {}", reported[i].started_at, reported[i].last().text));
        }
        for &i in &matching.duplicates {
            all.counts_of(&reported[i]).repeated += 1;
        }
        // The report of each poll. An observed one takes precedence over a suspected one.
        let mut of_poll: Vec<Option<&ReportedStall>> = vec![None; polls.len()];
        for &(report, poll) in &matching.pairs {
            of_poll[poll] = Some(&reported[report]);
            all.evaluate(guarantee, &polls[poll], &reported[report], cpu);
        }
        for reported in matching.duplicates.iter().map(|&i| &reported[i]).filter(|reported| is_observed(reported)) {
            let is_it = |poll: &Poll| poll.thread == reported.thread && poll.outer.start <= reported.started_at;
            if let Some(poll) = polls.iter().rposition(is_it) {
                of_poll[poll] = Some(reported);
            }
        }
        for (poll, reported) in polls.iter().zip(of_poll) {
            all.find(guarantee, poll, reported, cpu);
        }
        all.delays.sort_unstable();
        all.short.sort_unstable();
        all
    }

    fn counts_of(&mut self, reported: &ReportedStall) -> &mut ReportCounts {
        if is_observed(reported) { &mut self.observed } else { &mut self.suspected }
    }

    fn evaluate(&mut self, guarantee: &Guarantee, poll: &Poll, reported: &ReportedStall, cpu: &CpuAvailability) {
        let last = reported.last();
        if is_observed(reported) {
            self.without_worker += usize::from(reported.worker.is_none());
            self.wrong_worker += usize::from(reported.worker.is_some() && reported.worker != poll.worker);
        }
        // The next scan observes that the worker was handed over.
        let late = if poll.held_until.is_some() { guarantee.short_by(poll, cpu) } else { 0 };
        let too_long = last.elapsed > poll.max_nanos() + late + SHORT;
        let block = match &poll.blocks[..] {
            [block] => Some(block),
            _ => None,
        };
        let ended = block.filter(|_| is_observed(reported) && !last.ongoing);
        let short = ended.map_or(0, |block| block.inner.nanos().saturating_sub(last.elapsed));
        self.short.extend(ended.map(|_| short));
        if too_long {
            self.too_long += 1;
            self.faults.push(format!("too long: {}\n  {poll:?}", last.text));
        }
        if short > guarantee.short_by(poll, cpu) {
            self.faults.push(format!("too short by {short}: {}\n  {poll:?}", last.text));
        }
        let Some(block) = block else { return };
        let first = &reported.reports[0];
        if block.kind.waits_in_syscall() && first.received < block.inner.end {
            self.delays.push(first.received.saturating_sub(poll.outer.start + guarantee.threshold));
        }
    }

    /// Records whether the block of a poll was found, if it must be.
    fn find(&mut self, guarantee: &Guarantee, poll: &Poll, reported: Option<&ReportedStall>, cpu: &CpuAvailability) {
        let [block] = &poll.blocks[..] else { return };
        let waits = block.kind.waits_in_syscall();
        // A thread that waits for a CPU at the end of its block is no longer in the system call.
        let long = if waits { guarantee.long + block.waited } else { guarantee.threshold * LONG_COMPUTATION };
        if poll.min_nanos() < long {
            return;
        }
        if reported.is_none() && guarantee.excuses(poll, cpu) {
            self.excused += 1;
            return;
        }
        let found = if waits { &mut self.waiting } else { &mut self.computing_blocks };
        found.of += 1;
        match reported {
            Some(reported) if is_observed(reported) => found.observed += 1,
            Some(_) => found.suspected += 1,
            None => self.faults.push(format!("not reported: {poll:?}")),
        }
    }

    /// Returns a description of each missed bar. Observed stalls must always be right.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut bars = MissedBars::default();
        let mut bar = |is_met: bool, text: String| bars.require(is_met, || text);
        let Found { of, observed, .. } = self.waiting;
        bar(!self.alone || observed == of, format!("recall: {} of {of} were not reported as observed", of - observed));
        bar(
            of < MIN_FOR_SHARE || observed * 100 >= of * MIN_OBSERVED_PERCENT,
            format!("recall: only {observed} of {of} were reported as observed"),
        );
        let ReportCounts { reported, wrong, counted, .. } = self.observed;
        bar(wrong == 0, format!("precision: {wrong} of {reported} observed stalls are false"));
        bar(
            !self.alone || self.wrong_worker + self.without_worker == 0,
            format!("workers: {} are wrong, {} unknown", self.wrong_worker, self.without_worker),
        );
        bar(self.too_long == 0, format!("duration: {} are longer than their polls", self.too_long));
        bar(self.without_lower_bound == 0, format!("duration: {} are not lower bounds", self.without_lower_bound));
        bar(
            counted == reported as u64,
            format!("the metrics count {counted} stalls, {reported} were reported as observed"),
        );
        let ReportCounts { reported, counted, .. } = self.suspected;
        bar(
            counted == reported as u64,
            format!("the metrics count {counted} suspected stalls, {reported} were reported"),
        );
        bars.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ground_truth::{MS, Span};
    use super::super::kinds::Kind;
    use super::super::matching::tests::{T, poll, reported};
    use super::*;

    fn evaluation(polls: Vec<Poll>, reported: Vec<ReportedStall>) -> Unwatched {
        let count =
            |observed: bool| reported.iter().filter(|reported| is_observed(reported) == observed).count() as u64;
        let outcome = Outcome { polls: 0, counted: count(true), suspected: count(false), recorded: polls, reported };
        Unwatched::new(&Guarantee::unwatched(T), &outcome, &CpuAvailability::default(), false)
    }

    /// Returns a stall that started at `started_at` and lasted for `elapsed`.
    fn observed(started_at: u64, elapsed: u64, certainty: Certainty) -> ReportedStall {
        let mut reported = reported(started_at);
        let report = &mut reported.reports[0];
        (report.certainty, report.elapsed, report.is_lower_bound, report.ongoing) = (certainty, elapsed, true, false);
        reported
    }

    #[test]
    fn observed_and_suspected_stalls_are_counted_separately() {
        let polls = vec![poll(0, 30 * MS), poll(50 * MS, 30 * MS), poll(90 * MS, 30 * MS), poll(130 * MS, 11 * MS)];
        let reported =
            vec![observed(2 * MS, 26 * MS, Certainty::Observed), observed(52 * MS, 20 * MS, Certainty::Suspected)];
        let all = evaluation(polls, reported);
        assert_eq!((all.waiting.of, all.waiting.observed, all.waiting.suspected), (3, 1, 1), "{all:?}");
        assert_eq!(all.short, [4 * MS]);
        assert!(all.missed_bars().is_empty() && all.faults[0].starts_with("not reported"), "{all:?}");
    }

    #[test]
    fn a_computing_block_is_found_late_if_at_all() {
        let mut computes = poll(0, 310 * MS);
        computes.blocks[0].kind = Kind::Computes;
        let shorter = Poll { outer: Span { start: 400 * MS, end: 500 * MS }, ..computes.clone() };
        let all = evaluation(vec![computes, shorter], vec![observed(30 * MS, 200 * MS, Certainty::Suspected)]);
        assert_eq!((all.computing_blocks.of, all.computing_blocks.suspected, all.waiting.of), (2, 1, 0));
    }

    #[test]
    fn every_bar_can_be_missed() {
        let all = |reported| evaluation(vec![poll(0, 30 * MS)], reported);
        let fails = |what: &str, all: &Unwatched| {
            assert!(all.missed_bars().iter().any(|bar| bar.starts_with(what)), "{what}: {all:?}");
        };
        fails("precision", &all(vec![observed(60 * MS, 12 * MS, Certainty::Observed)]));
        fails("precision", &all(vec![observed(10 * MS, 30 * MS, Certainty::Observed)]));
        assert!(all(vec![observed(60 * MS, 12 * MS, Certainty::Suspected)]).missed_bars().is_empty());
        // The poll held its worker for a little longer than the threshold.
        let in_place = Poll { held_until: Some(11 * MS), ..poll(0, 30 * MS) };
        let lower_bounds = ReportedStall { reports: reported(0).reports, ..observed(0, 12 * MS, Certainty::Observed) };
        fails("duration", &all(vec![lower_bounds]));
        fails("duration", &evaluation(vec![in_place], vec![observed(2 * MS, 26 * MS, Certainty::Observed)]));
        fails("recall", &Unwatched { alone: true, ..all(vec![]) });
        fails("recall", &Unwatched { alone: true, ..all(vec![observed(2 * MS, 26 * MS, Certainty::Suspected)]) });
        assert!(all(vec![]).missed_bars().is_empty(), "in a pool with others in it, it may be missed");
        let uncounted =
            Unwatched { observed: ReportCounts { reported: 1, ..ReportCounts::default() }, ..Unwatched::default() };
        fails("the metrics", &uncounted);
    }

    #[test]
    fn an_observed_stall_may_follow_a_suspected_one() {
        let reported =
            vec![observed(2 * MS, 12 * MS, Certainty::Suspected), observed(15 * MS, 12 * MS, Certainty::Observed)];
        let all = evaluation(vec![poll(0, 30 * MS)], reported);
        assert_eq!((all.waiting.observed, all.observed.repeated, all.observed.wrong), (1, 1, 0), "{all:?}");
    }
}
