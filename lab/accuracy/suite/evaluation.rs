//! The evaluation of all reports: counts, errors, and the bars that were missed.

use pollwatch::Cause;

use super::cpu_monitor::CpuAvailability;
use super::ground_truth::{MS, Poll, Report, ReportedStall, Span};
use super::guarantee::{FREE, Guarantee};
use super::matching::match_up;
use super::statements::{MissedBars, Score};

/// The figures of one mode, which are the columns of its table.
#[derive(Debug, Default)]
pub(crate) struct Evaluation {
    /// The polls that pollwatch counted.
    pub(crate) polls: u64,
    pub(crate) blocks: usize,
    /// The polls that must be reported.
    pub(crate) long: usize,
    pub(crate) missed: usize,
    /// The long polls that were not reported, and are not in `missed`, because another poll handed
    /// a worker on meanwhile.
    pub(crate) handed_on: usize,
    pub(crate) reports: usize,
    pub(crate) wrong: usize,
    pub(crate) duplicates: usize,
    /// Polls of at least twice the threshold, during which the watchdog had a CPU. The wrong ones
    /// were not reported before they ended.
    pub(crate) late: Score,
    /// Polls that were reported late and are not in `late`, since the watchdog had no CPU.
    pub(crate) excused: usize,
    /// The reports of a measured poll that call its duration a lower bound.
    pub(crate) lower_bounds: usize,
    /// The times from crossing the threshold to the callback, of polls reported in flight.
    pub(crate) delays: Vec<u64>,
    /// The distance of each final duration from the possible range.
    pub(crate) errors: Vec<u64>,
    /// The final durations whose error is larger than allowed.
    pub(crate) imprecise: usize,
    pub(crate) cause: Score,
    pub(crate) site: Score,
    pub(crate) route: Score,
    pub(crate) leaf: Score,
    /// The polls reported in flight without a stack.
    pub(crate) no_stack: usize,
    /// The stalls that the metrics count.
    pub(crate) counted: u64,
    /// A description of each fault.
    pub(crate) faults: Vec<String>,
}

/// Returns the allowed error of a duration: 1%, and at least 0.2 ms.
fn allowed_error(nanos: u64) -> u64 {
    (nanos / 100).max(MS / 5)
}

impl Evaluation {
    pub(crate) fn new(
        guarantee: &Guarantee,
        polls: &[Poll],
        reported: &[ReportedStall],
        cpu: &CpuAvailability,
    ) -> Evaluation {
        let mut evaluation = Evaluation { reports: reported.len(), ..Evaluation::default() };
        let matching = match_up(guarantee, polls, reported);
        evaluation.blocks = polls.iter().map(|poll| poll.blocks.len()).sum();
        evaluation.long = polls.iter().filter(|poll| poll.min_nanos() >= guarantee.long).count();
        (evaluation.wrong, evaluation.duplicates) = (matching.wrong.len(), matching.duplicates.len());
        for (what, list) in [("false", &matching.wrong), ("a duplicate", &matching.duplicates)] {
            let text =
                |i: &usize| format!("{what}: started_at {} {}", reported[*i].started_at, reported[*i].last().text);
            evaluation.faults.extend(list.iter().map(text));
        }
        let excuses = |&i: &usize| guarantee.excuses_handed_on(&polls[i], polls, cpu);
        let (handed_on, missed): (Vec<usize>, Vec<usize>) = matching.missed.into_iter().partition(excuses);
        (evaluation.missed, evaluation.handed_on) = (missed.len(), handed_on.len());
        for &i in &missed {
            evaluation.in_flight(guarantee.threshold, &polls[i], None, cpu);
            evaluation.faults.push(format!("missed: {:?}", polls[i]));
        }
        for &(report, poll) in &matching.pairs {
            evaluation.evaluate(guarantee, &polls[poll], &reported[report], cpu);
        }
        evaluation.delays.sort_unstable();
        evaluation.errors.sort_unstable();
        evaluation
    }

    fn evaluate(&mut self, guarantee: &Guarantee, poll: &Poll, reported: &ReportedStall, cpu: &CpuAvailability) {
        self.in_flight(guarantee.threshold, poll, Some(reported), cpu);
        self.duration(poll, reported, cpu);
        let last = reported.last();
        if let Some(site) = poll.site {
            self.score("site", |t| &mut t.site, last.site == Some(site), poll, last);
        }
        if !poll.blocks.is_empty()
            && let Some(right) = route_is_right(guarantee, poll, last)
        {
            self.score("route", |t| &mut t.route, right, poll, last);
        }
        // A report received during the only block of a poll is about that block.
        let [block] = &poll.blocks[..] else { return };
        let during = |r: &&Report| r.ongoing && r.received < block.inner.end;
        let Some(report) = reported.reports.iter().rfind(during) else { return };
        let delay = block.waited + (block.inner.start - poll.outer.start);
        let right = report.cause == block.kind.cause()
            || delay >= MS / 2 && matches!(report.cause, Cause::Starved | Cause::Unknown)
            || report.cause == Cause::Paused && cpu.pause_within(poll.outer) > 0;
        self.score("cause", |t| &mut t.cause, right, poll, report);
        match reported.reports.iter().rev().filter(during).find_map(|r| r.leaf.as_deref()) {
            Some(leaf) => self.score("leaf", |t| &mut t.leaf, leaf.ends_with(block.kind.leaf()), poll, report),
            None => self.no_stack += 1,
        }
    }

    fn score(
        &mut self,
        what: &str,
        score: impl FnOnce(&mut Evaluation) -> &mut Score,
        right: bool,
        poll: &Poll,
        report: &Report,
    ) {
        if !right {
            self.faults.push(format!("wrong {what}, leaf {:?}: {}\n  {poll:?}", report.leaf, report.text));
        }
        score(self).add(right);
    }

    fn in_flight(&mut self, threshold: u64, poll: &Poll, reported: Option<&ReportedStall>, cpu: &CpuAvailability) {
        let Some(inner) = poll.inner().filter(|_| poll.min_nanos() >= threshold) else { return };
        let crossing = poll.outer.start + threshold;
        let first = reported.map(|reported| &reported.reports[0]).filter(|first| first.received < inner.end);
        if let Some(first) = first {
            self.delays.push(first.received.saturating_sub(crossing));
        }
        // The run delay of the blocked thread itself is subtracted.
        let waited: u64 = poll.blocks.iter().map(|block| block.waited).sum();
        if poll.min_nanos().saturating_sub(waited) < 2 * threshold {
            return;
        }
        let delay = cpu.delay_within(Span { start: inner.start + threshold, end: inner.end });
        if first.is_none() && delay >= threshold / FREE {
            self.excused += 1;
            return;
        }
        if first.is_none() {
            let reports =
                reported.map(|reported| reported.reports.iter().map(|r| (r.received, r.ongoing)).collect::<Vec<_>>());
            self.faults.push(format!("late, the watchdog got no CPU for {delay} ns: {reports:?} {poll:?}"));
        }
        self.late.add(first.is_some());
    }

    fn duration(&mut self, poll: &Poll, reported: &ReportedStall, cpu: &CpuAvailability) {
        let last = reported.last();
        if last.is_lower_bound {
            self.lower_bounds += 1;
            self.faults.push(format!("calls its duration a lower bound: {}", last.text));
        }
        if last.ongoing {
            self.faults.push(format!("no end: {}", last.text));
            self.imprecise += 1;
            return;
        }
        // A pause of the machine may be excluded from the duration.
        let least = poll.min_nanos().saturating_sub(cpu.pause_within(poll.outer));
        let (long, short) = (last.elapsed.saturating_sub(poll.max_nanos()), least.saturating_sub(last.elapsed));
        let error = long.max(short);
        self.errors.push(error);
        if error > allowed_error(poll.min_nanos()) {
            self.imprecise += 1;
            self.faults.push(format!("duration off by {error}: {}\n  {poll:?}", last.text));
        }
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut bars = MissedBars::default();
        let mut bar = |is_met: bool, text: String| bars.require(is_met, || text);
        bar(self.missed == 0, format!("recall: {} of {} were not reported", self.missed, self.long));
        let wrong = self.wrong + self.duplicates;
        bar(wrong == 0, format!("precision: {wrong} of {} reports are false", self.reports));
        bar(self.imprecise == 0, format!("duration: {} are off by more than 1% or 0.2 ms", self.imprecise));
        bar(self.lower_bounds == 0, format!("duration: {} are called lower bounds", self.lower_bounds));
        let Score { wrong, of } = self.late;
        // One in a hundred may be late, and one in fifty of fewer than a hundred polls.
        let allowed = if of < 100 { of / 50 } else { of / 100 };
        bar(wrong <= allowed, format!("in flight: {wrong} of {of} were reported late"));
        bar(self.site.wrong == 0, format!("site: {} of {} are wrong", self.site.wrong, self.site.of));
        bar(self.route.wrong == 0, format!("route: {} of {} are wrong", self.route.wrong, self.route.of));
        bar(
            self.counted == self.reports as u64,
            format!("the metrics count {} stalls, {} were reported", self.counted, self.reports),
        );
        bars.into_vec()
    }
}

/// Returns true if the reported route is right. Returns `None` for a request that lasted for about
/// the threshold, for which any route is right.
fn route_is_right(guarantee: &Guarantee, poll: &Poll, report: &Report) -> Option<bool> {
    let surely =
        |block: &super::ground_truth::Block| block.request.is_some() && block.inner.nanos() >= guarantee.long_request;
    let maybe =
        |block: &super::ground_truth::Block| block.request.is_some_and(|r| r.nanos() + MS / 10 >= guarantee.threshold);
    let reported = report.route.as_deref();
    match reported {
        Some(route) => Some(poll.blocks.iter().any(|block| maybe(block) && block.kind.route() == route)),
        None if poll.blocks.iter().any(surely) => Some(false),
        None if poll.blocks.iter().any(maybe) => None,
        None => Some(true),
    }
}

/// Returns the `q`-quantile of a sorted list, or 0 if the list is empty.
pub(crate) fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::ground_truth::Block;
    use super::super::kinds::Kind;
    use super::super::matching::tests::{T, poll, reported};
    use super::*;

    /// Returns a poll with its site and request, and the correct reports of it.
    fn pair() -> (Poll, ReportedStall) {
        let mut poll = poll(0, 30 * MS);
        poll.site = Some(std::panic::Location::caller());
        poll.blocks[0].request = Some(poll.outer);
        let mut reported = reported(0);
        let first = Report {
            site: poll.site,
            route: Some(Kind::Sleeps.route().into()),
            leaf: Some(format!("x::{}", Kind::Sleeps.leaf()).into()),
            ..reported.reports[0].clone()
        };
        let last = Report { ongoing: false, elapsed: 30 * MS, received: 31 * MS, ..first.clone() };
        reported.reports = vec![first, last];
        (poll, reported)
    }

    fn evaluation(poll: &Poll, reported: &[ReportedStall]) -> Evaluation {
        let counted = reported.len() as u64;
        Evaluation {
            counted,
            ..Evaluation::new(
                &Guarantee::measured(T),
                std::slice::from_ref(poll),
                reported,
                &CpuAvailability::default(),
            )
        }
    }

    #[test]
    fn correct_reports_meet_every_bar() {
        let (poll, reported) = pair();
        let evaluation = evaluation(&poll, &[reported]);
        assert!(evaluation.missed_bars().is_empty(), "{:?} {:?}", evaluation.missed_bars(), evaluation.faults);
        assert_eq!(
            (evaluation.cause.of, evaluation.leaf.of, evaluation.cause.wrong, evaluation.leaf.wrong),
            (1, 1, 0, 0)
        );
        assert_eq!((evaluation.delays, evaluation.errors), (vec![MS], vec![0]));
    }

    #[track_caller]
    fn fails(what: &str, evaluation: &Evaluation) {
        let missed = evaluation.missed_bars();
        assert!(missed.iter().any(|bar| bar.starts_with(what)), "{what}: {missed:?}");
        assert!(!evaluation.faults.is_empty());
    }

    #[test]
    fn every_bar_can_be_missed() {
        let (poll, good) = pair();
        fails("recall", &evaluation(&poll, &[]));
        fails("in flight", &evaluation(&poll, &[]));
        fails("precision", &evaluation(&poll, &[good.clone(), good.clone()]));
        fails(
            "precision",
            &evaluation(&Poll { worker: None, ..poll.clone() }, &[ReportedStall { worker: None, ..good.clone() }]),
        );
        let with = |change: &dyn Fn(&mut Report)| {
            let mut reported = good.clone();
            reported.reports.iter_mut().for_each(change);
            evaluation(&poll, &[reported])
        };
        fails("site", &with(&|r| r.site = Some(std::panic::Location::caller())));
        fails("site", &with(&|r| r.site = None));
        fails("route", &with(&|r| r.route = None));
        fails("route", &with(&|r| r.route = Some("/locks".into())));
        fails("duration", &with(&|r| r.elapsed = 29 * MS));
        fails("duration", &with(&|r| r.elapsed = 31 * MS));
        fails("duration", &with(&|r| r.ongoing = true));
        fails("duration", &with(&|r| r.is_lower_bound = true));
        fails("in flight", &with(&|r| r.received = 40 * MS));
        let cause = with(&|r| r.cause = Cause::Cpu);
        let leaf = with(&|r| r.leaf = Some("x::kinds::locks".into()));
        assert_eq!((cause.cause.wrong, leaf.leaf.wrong), (1, 1));
        let uncounted = Evaluation {
            counted: 0,
            ..Evaluation::new(&Guarantee::measured(T), &[poll], &[good], &CpuAvailability::default())
        };
        assert!(uncounted.missed_bars()[0].starts_with("the metrics"));
    }

    #[test]
    fn several_short_requests_have_no_route() {
        let (mut poll, mut reported) = pair();
        let part = |start: u64| Span { start, end: start + 8 * MS };
        poll.blocks = [part(MS), part(20 * MS)]
            .map(|inner| Block { kind: Kind::Sleeps, inner, waited: 0, request: Some(inner) })
            .to_vec();
        fails("route", &evaluation(&poll, &[reported.clone()]));
        reported.reports.iter_mut().for_each(|r| r.route = None);
        assert_eq!(evaluation(&poll, &[reported]).route.wrong, 0);
    }

    #[test]
    fn quantiles() {
        assert_eq!((quantile(&[], 0.5), quantile(&[7], 0.99)), (0, 7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99), quantile(&hundred, 1.0)), (50, 99, 100));
    }
}
