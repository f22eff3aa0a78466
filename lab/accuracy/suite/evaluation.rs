//! What the reports are worth: counts, errors, and whether the bars hold. Pure.

use pollwatch::Cause;

use super::cpu_monitor::Watch;
use super::ground_truth::{MS, Poll, Report, Span, Told};
use super::guarantee::{FREE, Promise};
use super::matching::match_up;

/// Wrong, of so many.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) wrong: usize,
    pub(crate) of: usize,
}

impl Score {
    fn add(&mut self, right: bool) {
        self.of += 1;
        self.wrong += usize::from(!right);
    }
}

/// See the columns of the table.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Polls that pollwatch counted.
    pub(crate) polls: u64,
    pub(crate) blocks: usize,
    /// Those that must be told.
    pub(crate) long: usize,
    pub(crate) missed: usize,
    pub(crate) reports: usize,
    pub(crate) wrong: usize,
    pub(crate) duplicates: usize,
    /// At least twice the threshold, while a CPU was free for the watchdog: not told before they ended.
    pub(crate) late: Score,
    /// Told late, but left out of that: no CPU was free for it.
    pub(crate) excused: usize,
    /// Reports of a measured poll that call its duration a lower bound.
    pub(crate) mute: usize,
    /// From crossing the threshold to the callback; of those told in flight.
    pub(crate) delays: Vec<u64>,
    /// By how much a final duration lies outside of what is possible.
    pub(crate) errors: Vec<u64>,
    /// By more than is allowed.
    pub(crate) imprecise: usize,
    pub(crate) cause: Score,
    pub(crate) site: Score,
    pub(crate) route: Score,
    pub(crate) leaf: Score,
    /// Told in flight without a stack.
    pub(crate) no_stack: usize,
    /// Stalls that the metrics count.
    pub(crate) counted: u64,
    /// What went wrong, in words.
    pub(crate) faults: Vec<String>,
}

/// Of a duration, at least: 1%, or 0.2 ms.
fn allowed_error(nanos: u64) -> u64 {
    (nanos / 100).max(MS / 5)
}

impl Tally {
    pub(crate) fn new(promise: &Promise, polls: &[Poll], told: &[Told], watch: &Watch) -> Tally {
        let mut tally = Tally { reports: told.len(), ..Tally::default() };
        let matching = match_up(promise, polls, told);
        tally.blocks = polls.iter().map(|poll| poll.blocks.len()).sum();
        tally.long = polls.iter().filter(|poll| poll.at_least() >= promise.long).count();
        (tally.missed, tally.wrong) = (matching.missed.len(), matching.wrong.len());
        tally.duplicates = matching.duplicates.len();
        for (what, list) in [("false", &matching.wrong), ("a duplicate", &matching.duplicates)] {
            let text = |i: &usize| format!("{what}: began {} {}", told[*i].began, told[*i].last().text);
            tally.faults.extend(list.iter().map(text));
        }
        for &i in &matching.missed {
            tally.in_flight(promise.threshold, &polls[i], None, watch);
            tally.faults.push(format!("missed: {:?}", polls[i]));
        }
        for &(report, poll) in &matching.pairs {
            tally.judge(promise, &polls[poll], &told[report], watch);
        }
        tally.delays.sort_unstable();
        tally.errors.sort_unstable();
        tally
    }

    fn judge(&mut self, promise: &Promise, poll: &Poll, told: &Told, watch: &Watch) {
        self.in_flight(promise.threshold, poll, Some(told), watch);
        self.duration(poll, told, watch);
        let last = told.last();
        if let Some(site) = poll.site {
            self.score("site", |t| &mut t.site, last.site == Some(site), poll, last);
        }
        if !poll.blocks.is_empty()
            && let Some(right) = route_is_right(promise, poll, last)
        {
            self.score("route", |t| &mut t.route, right, poll, last);
        }
        // What was found while the one block of a poll lasted is found of that block.
        let [block] = &poll.blocks[..] else { return };
        let during = |r: &&Report| r.ongoing && r.received < block.inner.end;
        let Some(report) = told.reports.iter().rfind(during) else { return };
        let kept_off = block.waited + (block.inner.begin - poll.outer.begin);
        let right = report.cause == block.kind.cause()
            || kept_off >= MS / 2 && matches!(report.cause, Cause::Starved | Cause::Unknown)
            || report.cause == Cause::Paused && watch.standstill(poll.outer) > 0;
        self.score("cause", |t| &mut t.cause, right, poll, report);
        match told.reports.iter().rev().filter(during).find_map(|r| r.leaf.as_deref()) {
            Some(leaf) => self.score("leaf", |t| &mut t.leaf, leaf.ends_with(block.kind.leaf()), poll, report),
            None => self.no_stack += 1,
        }
    }

    fn score(
        &mut self,
        what: &str,
        score: impl FnOnce(&mut Tally) -> &mut Score,
        right: bool,
        poll: &Poll,
        report: &Report,
    ) {
        if !right {
            self.faults.push(format!("wrong {what}, leaf {:?}: {}\n  {poll:?}", report.leaf, report.text));
        }
        score(self).add(right);
    }

    fn in_flight(&mut self, threshold: u64, poll: &Poll, told: Option<&Told>, watch: &Watch) {
        let Some(inner) = poll.inner().filter(|_| poll.at_least() >= threshold) else { return };
        let crossing = poll.outer.begin + threshold;
        let first = told.map(|told| &told.reports[0]).filter(|first| first.received < inner.end);
        if let Some(first) = first {
            self.delays.push(first.received.saturating_sub(crossing));
        }
        // Without the time in which it was itself kept from a CPU.
        let waited: u64 = poll.blocks.iter().map(|block| block.waited).sum();
        if poll.at_least().saturating_sub(waited) < 2 * threshold {
            return;
        }
        let kept_off = watch.kept_off(Span { begin: inner.begin + threshold, end: inner.end });
        if first.is_none() && kept_off >= threshold / FREE {
            self.excused += 1;
            return;
        }
        if first.is_none() {
            let reports = told.map(|told| told.reports.iter().map(|r| (r.received, r.ongoing)).collect::<Vec<_>>());
            self.faults.push(format!("late, kept off for {kept_off}: {reports:?} {poll:?}"));
        }
        self.late.add(first.is_some());
    }

    fn duration(&mut self, poll: &Poll, told: &Told, watch: &Watch) {
        let last = told.last();
        if last.at_least {
            self.mute += 1;
            self.faults.push(format!("calls its duration a lower bound: {}", last.text));
        }
        if last.ongoing {
            self.faults.push(format!("no end: {}", last.text));
            self.imprecise += 1;
            return;
        }
        // A standstill may be left out.
        let least = poll.at_least().saturating_sub(watch.standstill(poll.outer));
        let (long, short) = (last.elapsed.saturating_sub(poll.at_most()), least.saturating_sub(last.elapsed));
        let error = long.max(short);
        self.errors.push(error);
        if error > allowed_error(poll.at_least()) {
            self.imprecise += 1;
            self.faults.push(format!("duration off by {error}: {}\n  {poll:?}", last.text));
        }
    }

    /// The bars that are missed, in words.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut bar = |holds: bool, text: String| {
            if !holds {
                missed.push(text)
            }
        };
        bar(self.missed == 0, format!("recall: {} of {} were not told", self.missed, self.long));
        let wrong = self.wrong + self.duplicates;
        bar(wrong == 0, format!("precision: {wrong} of {} reports are false", self.reports));
        bar(self.imprecise == 0, format!("duration: {} are off by more than 1% or 0.2 ms", self.imprecise));
        bar(self.mute == 0, format!("duration: {} are called lower bounds", self.mute));
        let Score { wrong, of } = self.late;
        // Where there are so few that one is more than a hundredth, one in fifty.
        let allowed = if of < 100 { of / 50 } else { of / 100 };
        bar(wrong <= allowed, format!("in flight: {wrong} of {of} were told late"));
        bar(self.site.wrong == 0, format!("site: {} of {} are wrong", self.site.wrong, self.site.of));
        bar(self.route.wrong == 0, format!("route: {} of {} are wrong", self.route.wrong, self.route.of));
        bar(
            self.counted == self.reports as u64,
            format!("the metrics count {} stalls, {} were told", self.counted, self.reports),
        );
        missed
    }
}

/// `None` where either answer is right: a request that lasted for about the threshold.
fn route_is_right(promise: &Promise, poll: &Poll, report: &Report) -> Option<bool> {
    let surely =
        |block: &super::ground_truth::Block| block.request.is_some() && block.inner.nanos() >= promise.long_request;
    let maybe =
        |block: &super::ground_truth::Block| block.request.is_some_and(|r| r.nanos() + MS / 10 >= promise.threshold);
    let told = report.route.as_deref();
    match told {
        Some(route) => Some(poll.blocks.iter().any(|block| maybe(block) && block.kind.route() == route)),
        None if poll.blocks.iter().any(surely) => Some(false),
        None if poll.blocks.iter().any(maybe) => None,
        None => Some(true),
    }
}

/// The value that the share `q` of a sorted list does not exceed; 0 of an empty one.
pub(crate) fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::ground_truth::Block;
    use super::super::kinds::Kind;
    use super::super::matching::tests::{T, poll, told};
    use super::*;

    /// A poll with its site and request, and all that is to be told of it.
    fn pair() -> (Poll, Told) {
        let mut poll = poll(0, 30 * MS);
        poll.site = Some(std::panic::Location::caller());
        poll.blocks[0].request = Some(poll.outer);
        let mut told = told(0);
        let first = Report {
            site: poll.site,
            route: Some(Kind::Sleeps.route().into()),
            leaf: Some(format!("x::{}", Kind::Sleeps.leaf()).into()),
            ..told.reports[0].clone()
        };
        let last = Report { ongoing: false, elapsed: 30 * MS, received: 31 * MS, ..first.clone() };
        told.reports = vec![first, last];
        (poll, told)
    }

    fn tally(poll: &Poll, told: &[Told]) -> Tally {
        let counted = told.len() as u64;
        Tally { counted, ..Tally::new(&Promise::exact(T), std::slice::from_ref(poll), told, &Watch::default()) }
    }

    #[test]
    fn what_is_right_holds_every_bar() {
        let (poll, told) = pair();
        let tally = tally(&poll, &[told]);
        assert!(tally.missed_bars().is_empty(), "{:?} {:?}", tally.missed_bars(), tally.faults);
        assert_eq!((tally.cause.of, tally.leaf.of, tally.cause.wrong, tally.leaf.wrong), (1, 1, 0, 0));
        assert_eq!((tally.delays, tally.errors), (vec![MS], vec![0]));
    }

    #[track_caller]
    fn fails(what: &str, tally: &Tally) {
        let missed = tally.missed_bars();
        assert!(missed.iter().any(|bar| bar.starts_with(what)), "{what}: {missed:?}");
        assert!(!tally.faults.is_empty());
    }

    #[test]
    fn every_bar_can_be_missed() {
        let (poll, good) = pair();
        fails("recall", &tally(&poll, &[]));
        fails("in flight", &tally(&poll, &[]));
        fails("precision", &tally(&poll, &[good.clone(), good.clone()]));
        fails("precision", &tally(&Poll { worker: None, ..poll.clone() }, &[Told { worker: None, ..good.clone() }]));
        let with = |change: &dyn Fn(&mut Report)| {
            let mut told = good.clone();
            told.reports.iter_mut().for_each(change);
            tally(&poll, &[told])
        };
        fails("site", &with(&|r| r.site = Some(std::panic::Location::caller())));
        fails("site", &with(&|r| r.site = None));
        fails("route", &with(&|r| r.route = None));
        fails("route", &with(&|r| r.route = Some("/locks".into())));
        fails("duration", &with(&|r| r.elapsed = 29 * MS));
        fails("duration", &with(&|r| r.elapsed = 31 * MS));
        fails("duration", &with(&|r| r.ongoing = true));
        fails("duration", &with(&|r| r.at_least = true));
        fails("in flight", &with(&|r| r.received = 40 * MS));
        let cause = with(&|r| r.cause = Cause::Cpu);
        let leaf = with(&|r| r.leaf = Some("x::kinds::locks".into()));
        assert_eq!((cause.cause.wrong, leaf.leaf.wrong), (1, 1));
        let uncounted = Tally { counted: 0, ..Tally::new(&Promise::exact(T), &[poll], &[good], &Watch::default()) };
        assert!(uncounted.missed_bars()[0].starts_with("the metrics"));
    }

    #[test]
    fn several_short_requests_have_no_route() {
        let (mut poll, mut told) = pair();
        let part = |begin: u64| Span { begin, end: begin + 8 * MS };
        poll.blocks = [part(MS), part(20 * MS)]
            .map(|inner| Block { kind: Kind::Sleeps, inner, waited: 0, request: Some(inner) })
            .to_vec();
        fails("route", &tally(&poll, &[told.clone()]));
        told.reports.iter_mut().for_each(|r| r.route = None);
        assert_eq!(tally(&poll, &[told]).route.wrong, 0);
    }

    #[test]
    fn quantiles() {
        assert_eq!((quantile(&[], 0.5), quantile(&[7], 0.99)), (0, 7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99), quantile(&hundred, 1.0)), (50, 99, 100));
    }
}
