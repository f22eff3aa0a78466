//! Which report is of which poll, one to one. Pure.

use pollwatch::Certainty;

use super::ground_truth::{MS, Poll, SHORT, Told};
use super::guarantee::Promise;

/// Moments of the wall clock and of the monotonic one that stand for the same may differ by this much.
const SKEW: u64 = MS / 2;

/// Indices into the reports and the polls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    /// Report, poll.
    pub(crate) pairs: Vec<(usize, usize)>,
    /// Reports of a poll that was told already.
    pub(crate) duplicates: Vec<usize>,
    /// Reports of no poll, or of one that was short.
    pub(crate) wrong: Vec<usize>,
    /// Polls that were never told.
    pub(crate) missed: Vec<usize>,
}

pub(crate) fn match_up(promise: &Promise, polls: &[Poll], told: &[Told]) -> Matching {
    let mut matching = Matching::default();
    let mut taken = vec![false; polls.len()];
    for (i, report) in told.iter().enumerate() {
        match poll_of(polls, report) {
            Some(poll) if taken[poll] => matching.duplicates.push(i),
            Some(poll) if polls[poll].at_most() + SHORT >= promise.threshold => {
                taken[poll] = true;
                matching.pairs.push((i, poll));
            }
            _ => matching.wrong.push(i),
        }
    }
    let is_missed = |&i: &usize| !taken[i] && polls[i].at_least() >= promise.long;
    matching.missed = (0..polls.len()).filter(is_missed).collect();
    matching
}

/// The poll of this task, on this thread and worker, that began when the report says, or before where that was not seen. Such polls
/// never overlap. Of a task that nobody measures it is not known which it is.
fn poll_of(polls: &[Poll], told: &Told) -> Option<usize> {
    let is_measured = told.last().certainty == Certainty::Measured;
    let is_it = |poll: &Poll| {
        (&poll.thread, poll.worker) == (&told.thread, told.worker)
            && (poll.task == told.task || !is_measured && told.task.is_none())
            && (poll.outer.begin.saturating_sub(SKEW)..=poll.outer.end + SKEW).contains(&told.began)
            && (is_measured || told.began + told.last().elapsed <= poll.outer.end + SKEW)
    };
    let found = polls.iter().enumerate().filter(|(_, poll)| is_it(poll));
    found.min_by_key(|(_, poll)| poll.outer.begin.abs_diff(told.began)).map(|(i, _)| i)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::ground_truth::{Block, Report, Span};
    use super::super::kinds::Kind;
    use super::*;
    use pollwatch::Cause;

    pub(crate) const T: u64 = 10 * MS;

    /// A poll of worker 0 that blocked for `time`; hooks and preemption add a little.
    pub(crate) fn poll(begin: u64, time: u64) -> Poll {
        let inner = Span { begin: begin + MS / 100, end: begin + MS / 100 + time };
        Poll {
            thread: "worker 0".into(),
            task: None,
            worker: Some(0),
            outer: Span { begin, end: inner.end + MS / 100 },
            waited: 0,
            held_until: None,
            blocks: vec![Block { kind: Kind::Sleeps, inner, waited: 0, request: None }],
            site: None,
        }
    }

    pub(crate) fn told(began: u64) -> Told {
        let report = Report {
            received: began + T + MS,
            ongoing: true,
            elapsed: T,
            cause: Cause::Syscall,
            certainty: Certainty::Measured,
            at_least: false,
            site: None,
            route: None,
            leaf: None,
            text: "".into(),
        };
        Told { thread: "worker 0".into(), task: None, worker: Some(0), began, reports: vec![report] }
    }

    fn exactly(polls: &[Poll], told: &[Told]) -> Matching {
        match_up(&Promise::exact(T), polls, told)
    }

    #[test]
    fn each_report_has_its_poll() {
        let polls = [poll(0, 5 * MS), poll(20 * MS, 30 * MS), poll(60 * MS, 15 * MS)];
        let matching = exactly(&polls, &[told(60 * MS), told(20 * MS + 3)]);
        assert_eq!(matching, Matching { pairs: vec![(0, 2), (1, 1)], ..Matching::default() });
    }

    #[test]
    fn a_missed_one_is_caught() {
        let polls = [poll(0, 15 * MS), poll(20 * MS, 30 * MS)];
        assert_eq!(exactly(&polls, &[told(0)]).missed, [1]);
        assert_eq!(exactly(&polls, &[]).missed, [0, 1]);
        assert_eq!(exactly(&[poll(0, T + MS)], &[]).missed, [0; 0], "too near to be held against it");
    }

    #[test]
    fn a_false_one_is_caught() {
        let polls = [poll(0, 15 * MS), poll(40 * MS, 5 * MS)];
        assert_eq!(exactly(&polls, &[told(0), told(40 * MS)]).wrong, [1], "its poll was short");
        assert_eq!(exactly(&polls, &[told(0), told(90 * MS)]).wrong, [1], "there was no poll");
        assert_eq!(exactly(&[poll(0, T - MS)], &[told(0)]).wrong, [0]);
        assert_eq!(exactly(&[poll(0, T - SHORT / 2)], &[told(0)]).wrong, [0; 0]);
    }

    #[test]
    fn a_duplicate_is_caught() {
        let matching = exactly(&[poll(0, 15 * MS)], &[told(0), told(1)]);
        assert_eq!((matching.pairs, matching.duplicates), (vec![(0, 0)], vec![1]));
    }

    #[test]
    fn another_thread_worker_or_task_is_another_poll() {
        let polls = [poll(0, 15 * MS)];
        for other in [
            Told { thread: "worker 1".into(), ..told(0) },
            Told { worker: Some(1), ..told(0) },
            Told { worker: None, ..told(0) },
        ] {
            let matching = exactly(&polls, &[other]);
            assert_eq!((matching.wrong, matching.missed), (vec![0], vec![0]));
        }
    }

    #[test]
    fn off_a_worker_nothing_may_be_told() {
        let off = Poll { worker: None, ..poll(0, 50 * MS) };
        let matching = exactly(&[off], &[Told { worker: None, ..told(0) }]);
        assert_eq!((matching.wrong, matching.missed), (vec![0], vec![]));
    }

    #[test]
    fn a_worker_that_was_handed_on_was_kept_for_a_moment_only() {
        let in_place = |held: u64| Poll { held_until: Some(held), ..poll(0, 50 * MS) };
        assert_eq!(exactly(&[in_place(MS)], &[told(0)]).wrong, [0]);
        assert_eq!(exactly(&[in_place(MS)], &[]).missed, [0; 0]);
        assert_eq!(exactly(&[in_place(12 * MS)], &[told(0)]).pairs, [(0, 0)], "nobody took it for so long");
    }

    #[test]
    fn what_is_found_by_looks_may_be_short_and_begin_late() {
        let polls = [poll(0, 14 * MS), poll(20 * MS, 18 * MS)];
        let by_looks = |told: &[Told]| match_up(&Promise::unwatched(T), &polls, told);
        assert_eq!(by_looks(&[told(22 * MS)]), Matching { pairs: vec![(0, 1)], ..Matching::default() });
        assert_eq!(by_looks(&[told(2 * MS)]).missed, [1]);
    }

    #[test]
    fn of_a_task_that_nobody_measures_the_thread_and_the_time_are_known() {
        let polls = [poll(0, 15 * MS)];
        let seen = |began: u64, elapsed: u64, certainty: Certainty| {
            let mut told = told(began);
            told.reports[0] = Report { certainty, elapsed, ..told.reports[0].clone() };
            told
        };
        let of_a_task = [Poll { task: Some(tokio_task()), ..polls[0].clone() }];
        for certainty in [Certainty::Observed, Certainty::Suspected] {
            let matching = match_up(&Promise::unwatched(T), &of_a_task, &[seen(2 * MS, 12 * MS, certainty)]);
            assert_eq!(matching.pairs, [(0, 0)]);
            let matching = match_up(&Promise::unwatched(T), &of_a_task, &[seen(2 * MS, 20 * MS, certainty)]);
            assert_eq!(matching.wrong, [0], "it went on for longer than the poll");
        }
        assert_eq!(exactly(&of_a_task, &[seen(2 * MS, 12 * MS, Certainty::Measured)]).wrong, [0]);
    }

    fn tokio_task() -> tokio::task::Id {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async { tokio::spawn(async {}).id() })
    }
}
