//! What reports of tasks that nobody measures are worth: what is certain and what is suspected are counted apart. Pure.

use pollwatch::Certainty;

use super::cpu_monitor::Watch;
use super::fixture::Outcome;
use super::ground_truth::{Poll, SHORT, Told};
use super::guarantee::Promise;
use super::matching::match_up;

/// What computes for so many thresholds is to be suspected.
pub(crate) const COMPUTES: u64 = 30;

/// Blocks of one sort that must be told, and those that were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) of: usize,
    pub(crate) certain: usize,
    pub(crate) suspected: usize,
}

/// Stalls of one sort that were told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) told: usize,
    /// Of no poll, or of one that was short.
    pub(crate) wrong: usize,
    /// Of a poll that was told already: what went on in between seemed to be something else.
    pub(crate) again: usize,
    /// That the metrics count.
    pub(crate) counted: u64,
}

/// See the columns of its table.
#[derive(Debug, Default)]
pub(crate) struct Unwatched {
    pub(crate) blocks: usize,
    /// That waited in a system call on a worker that was theirs to the end.
    pub(crate) stood: Found,
    pub(crate) computed: Found,
    /// Further ones that were not told, while no CPU was free for the watchdog.
    pub(crate) excused: usize,
    pub(crate) certain: Claims,
    pub(crate) suspected: Claims,
    /// From crossing the threshold to the callback; of those that stood and were told in flight.
    pub(crate) delays: Vec<u64>,
    /// By how much the last duration of what is certain is too short.
    pub(crate) short: Vec<u64>,
    /// Durations that are longer than their poll.
    pub(crate) too_long: usize,
    /// Nobody but workers ran in the pool: then whatever stands must be certain.
    pub(crate) alone: bool,
    /// Reports that do not say that theirs is the least duration.
    pub(crate) mute: usize,
    pub(crate) faults: Vec<String>,
}

fn is_certain(told: &Told) -> bool {
    told.last().certainty != Certainty::Suspected
}

impl Unwatched {
    pub(crate) fn new(promise: &Promise, outcome: &Outcome, watch: &Watch, alone: bool) -> Unwatched {
        let (polls, told) = (&outcome.journal, &outcome.told);
        let mut all = Unwatched { alone, ..Unwatched::default() };
        let matching = match_up(promise, polls, told);
        all.blocks = polls.iter().map(|poll| poll.blocks.len()).sum();
        (all.certain.counted, all.suspected.counted) = (outcome.counted, outcome.suspected);
        for report in told {
            all.claims(report).told += 1;
            all.mute += usize::from(!report.reports.iter().all(|r| r.at_least));
        }
        for &i in &matching.wrong {
            all.claims(&told[i]).wrong += 1;
            all.faults.push(format!("false: began {} {}", told[i].began, told[i].last().text));
        }
        for &i in &matching.duplicates {
            all.claims(&told[i]).again += 1;
        }
        // The surest report of each poll.
        let mut of_poll: Vec<Option<&Told>> = vec![None; polls.len()];
        for &(report, poll) in &matching.pairs {
            of_poll[poll] = Some(&told[report]);
            all.judge(promise, &polls[poll], &told[report], watch);
        }
        for told in matching.duplicates.iter().map(|&i| &told[i]).filter(|told| is_certain(told)) {
            let is_it = |poll: &Poll| poll.thread == told.thread && poll.outer.begin <= told.began;
            if let Some(poll) = polls.iter().rposition(is_it) {
                of_poll[poll] = Some(told);
            }
        }
        for (poll, told) in polls.iter().zip(of_poll) {
            all.find(promise, poll, told, watch);
        }
        all.delays.sort_unstable();
        all.short.sort_unstable();
        all
    }

    fn claims(&mut self, told: &Told) -> &mut Claims {
        if is_certain(told) { &mut self.certain } else { &mut self.suspected }
    }

    fn judge(&mut self, promise: &Promise, poll: &Poll, told: &Told, watch: &Watch) {
        let last = told.last();
        // That its worker was handed on is seen by the next look.
        let late = if poll.held_until.is_some() { promise.short_by(poll, watch) } else { 0 };
        let too_long = last.elapsed > poll.at_most() + late + SHORT;
        let block = match &poll.blocks[..] {
            [block] => Some(block),
            _ => None,
        };
        let ended = block.filter(|_| is_certain(told) && !last.ongoing);
        let short = ended.map_or(0, |block| block.inner.nanos().saturating_sub(last.elapsed));
        self.short.extend(ended.map(|_| short));
        if too_long {
            self.too_long += 1;
            self.faults.push(format!("too long: {}\n  {poll:?}", last.text));
        }
        if short > promise.short_by(poll, watch) {
            self.faults.push(format!("too short by {short}: {}\n  {poll:?}", last.text));
        }
        let Some(block) = block else { return };
        let first = &told.reports[0];
        if block.kind.stands() && first.received < block.inner.end {
            self.delays.push(first.received.saturating_sub(poll.outer.begin + promise.threshold));
        }
    }

    /// Whether the block of a poll was found, if it had to be.
    fn find(&mut self, promise: &Promise, poll: &Poll, told: Option<&Told>, watch: &Watch) {
        let [block] = &poll.blocks[..] else { return };
        let stands = block.kind.stands();
        // What waits for a CPU at its end does not stand any more.
        let long = if stands { promise.long + block.waited } else { promise.threshold * COMPUTES };
        if poll.at_least() < long {
            return;
        }
        if told.is_none() && promise.excuses(poll, watch) {
            self.excused += 1;
            return;
        }
        let found = if stands { &mut self.stood } else { &mut self.computed };
        found.of += 1;
        match told {
            Some(told) if is_certain(told) => found.certain += 1,
            Some(_) => found.suspected += 1,
            None => self.faults.push(format!("not told: {poll:?}")),
        }
    }

    /// The bars that are missed, in words. What is certain is so, whatever is found.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut bar = |holds: bool, text: String| {
            if !holds {
                missed.push(text)
            }
        };
        let Found { of, certain, .. } = self.stood;
        bar(!self.alone || certain == of, format!("recall: {} of {of} were not certain", of - certain));
        let Claims { told, wrong, counted, .. } = self.certain;
        bar(wrong == 0, format!("precision: {wrong} of {told} that are certain are false"));
        bar(self.too_long == 0, format!("duration: {} are longer than their polls", self.too_long));
        bar(self.mute == 0, format!("duration: {} do not say that they are the least", self.mute));
        bar(counted == told as u64, format!("the metrics count {counted} stalls, {told} were certain"));
        let Claims { told, counted, .. } = self.suspected;
        bar(counted == told as u64, format!("the metrics count {counted} suspected stalls, {told} were told"));
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::super::ground_truth::{MS, Span};
    use super::super::kinds::Kind;
    use super::super::matching::tests::{T, poll, told};
    use super::*;

    fn tally(polls: Vec<Poll>, told: Vec<Told>) -> Unwatched {
        let count = |certain: bool| told.iter().filter(|told| is_certain(told) == certain).count() as u64;
        let outcome = Outcome { polls: 0, counted: count(true), suspected: count(false), journal: polls, told };
        Unwatched::new(&Promise::unwatched(T), &outcome, &Watch::default(), false)
    }

    /// A report that begins then, of so long.
    fn seen(began: u64, elapsed: u64, certainty: Certainty) -> Told {
        let mut told = told(began);
        let report = &mut told.reports[0];
        (report.certainty, report.elapsed, report.at_least, report.ongoing) = (certainty, elapsed, true, false);
        told
    }

    #[test]
    fn what_is_certain_and_what_is_suspected_count_apart() {
        let polls = vec![poll(0, 30 * MS), poll(50 * MS, 30 * MS), poll(90 * MS, 30 * MS), poll(130 * MS, 11 * MS)];
        let told = vec![seen(2 * MS, 26 * MS, Certainty::Observed), seen(52 * MS, 20 * MS, Certainty::Suspected)];
        let all = tally(polls, told);
        assert_eq!((all.stood.of, all.stood.certain, all.stood.suspected), (3, 1, 1), "{all:?}");
        assert_eq!(all.short, [4 * MS]);
        assert!(all.missed_bars().is_empty() && all.faults[0].starts_with("not told"), "{all:?}");
    }

    #[test]
    fn what_computes_is_found_late_if_at_all() {
        let mut computes = poll(0, 310 * MS);
        computes.blocks[0].kind = Kind::Computes;
        let shorter = Poll { outer: Span { begin: 400 * MS, end: 500 * MS }, ..computes.clone() };
        let all = tally(vec![computes, shorter], vec![seen(30 * MS, 200 * MS, Certainty::Suspected)]);
        assert_eq!((all.computed.of, all.computed.suspected, all.stood.of), (2, 1, 0));
    }

    #[test]
    fn every_bar_can_be_missed() {
        let all = |told| tally(vec![poll(0, 30 * MS)], told);
        let fails = |what: &str, all: &Unwatched| {
            assert!(all.missed_bars().iter().any(|bar| bar.starts_with(what)), "{what}: {all:?}");
        };
        fails("precision", &all(vec![seen(60 * MS, 12 * MS, Certainty::Observed)]));
        fails("precision", &all(vec![seen(10 * MS, 30 * MS, Certainty::Observed)]));
        assert!(all(vec![seen(60 * MS, 12 * MS, Certainty::Suspected)]).missed_bars().is_empty());
        // It had its worker for a little longer than the threshold.
        let in_place = Poll { held_until: Some(11 * MS), ..poll(0, 30 * MS) };
        let mute = Told { reports: told(0).reports, ..seen(0, 12 * MS, Certainty::Observed) };
        fails("duration", &all(vec![mute]));
        fails("duration", &tally(vec![in_place], vec![seen(2 * MS, 26 * MS, Certainty::Observed)]));
        fails("recall", &Unwatched { alone: true, ..all(vec![]) });
        fails("recall", &Unwatched { alone: true, ..all(vec![seen(2 * MS, 26 * MS, Certainty::Suspected)]) });
        assert!(all(vec![]).missed_bars().is_empty(), "in a pool with others in it, it may be missed");
        let uncounted = Unwatched { certain: Claims { told: 1, ..Claims::default() }, ..Unwatched::default() };
        fails("the metrics", &uncounted);
    }

    #[test]
    fn a_second_report_of_a_poll_may_be_the_surer_one() {
        let told = vec![seen(2 * MS, 12 * MS, Certainty::Suspected), seen(15 * MS, 12 * MS, Certainty::Observed)];
        let all = tally(vec![poll(0, 30 * MS)], told);
        assert_eq!((all.stood.certain, all.certain.again, all.certain.wrong), (1, 1, 0), "{all:?}");
    }
}
