//! Matches reports and polls, one to one.

use pollwatch::Certainty;

use super::ground_truth::{MS, Poll, ReportedStall, SHORT};
use super::guarantee::Guarantee;

/// The largest difference between readings of the wall clock and of the monotonic clock.
const SKEW: u64 = MS / 2;

/// The result of matching, as indices into the reports and the polls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    /// Pairs of a report and its poll.
    pub(crate) pairs: Vec<(usize, usize)>,
    /// Reports of a poll that has been reported already.
    pub(crate) duplicates: Vec<usize>,
    /// Reports that match no poll, or a short one.
    pub(crate) wrong: Vec<usize>,
    /// Polls that were never reported.
    pub(crate) missed: Vec<usize>,
}

pub(crate) fn match_up(guarantee: &Guarantee, polls: &[Poll], reported: &[ReportedStall]) -> Matching {
    let mut matching = Matching::default();
    let mut taken = vec![false; polls.len()];
    for (i, report) in reported.iter().enumerate() {
        match poll_of(polls, report) {
            Some(poll) if taken[poll] => matching.duplicates.push(i),
            Some(poll) if polls[poll].max_nanos() + SHORT >= guarantee.threshold => {
                taken[poll] = true;
                matching.pairs.push((i, poll));
            }
            _ => matching.wrong.push(i),
        }
    }
    let is_missed = |&i: &usize| !taken[i] && polls[i].min_nanos() >= guarantee.long;
    matching.missed = (0..polls.len()).filter(is_missed).collect();
    matching
}

/// Returns the poll of the reported task, thread and worker that started at the reported time, or
/// earlier if its start was not observed. Such polls never overlap. The report of an unmeasured
/// task does not name the task, and the index of its worker is evaluated separately.
fn poll_of(polls: &[Poll], reported: &ReportedStall) -> Option<usize> {
    let is_measured = reported.last().certainty == Certainty::Measured;
    let is_it = |poll: &Poll| {
        poll.thread == reported.thread
            && (poll.worker == reported.worker || !is_measured)
            && (poll.task == reported.task || !is_measured && reported.task.is_none())
            && (poll.outer.start.saturating_sub(SKEW)..=poll.outer.end + SKEW).contains(&reported.started_at)
            && (is_measured || reported.started_at + reported.last().elapsed <= poll.outer.end + SKEW)
    };
    let found = polls.iter().enumerate().filter(|(_, poll)| is_it(poll));
    found.min_by_key(|(_, poll)| poll.outer.start.abs_diff(reported.started_at)).map(|(i, _)| i)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::ground_truth::{Block, Report, Span};
    use super::super::kinds::Kind;
    use super::*;
    use pollwatch::Cause;

    pub(crate) const T: u64 = 10 * MS;

    /// Returns a poll of worker 0 that blocked for `time`. Hooks and preemption add a little.
    pub(crate) fn poll(start: u64, time: u64) -> Poll {
        let inner = Span { start: start + MS / 100, end: start + MS / 100 + time };
        Poll {
            thread: "worker 0".into(),
            task: None,
            worker: Some(0),
            is_root: false,
            outer: Span { start, end: inner.end + MS / 100 },
            waited: 0,
            cpu: 0,
            held_until: None,
            blocks: vec![Block { kind: Kind::Sleeps, inner, waited: 0, request: None }],
            site: None,
        }
    }

    pub(crate) fn reported(started_at: u64) -> ReportedStall {
        let report = Report {
            received: started_at + T + MS,
            ongoing: true,
            elapsed: T,
            cause: Cause::Syscall,
            certainty: Certainty::Measured,
            is_lower_bound: false,
            site: None,
            route: None,
            leaf: None,
            text: "".into(),
        };
        ReportedStall { thread: "worker 0".into(), task: None, worker: Some(0), started_at, reports: vec![report] }
    }

    fn exactly(polls: &[Poll], reported: &[ReportedStall]) -> Matching {
        match_up(&Guarantee::measured(T), polls, reported)
    }

    #[test]
    fn each_report_has_its_poll() {
        let polls = [poll(0, 5 * MS), poll(20 * MS, 30 * MS), poll(60 * MS, 15 * MS)];
        let matching = exactly(&polls, &[reported(60 * MS), reported(20 * MS + 3)]);
        assert_eq!(matching, Matching { pairs: vec![(0, 2), (1, 1)], ..Matching::default() });
    }

    #[test]
    fn a_missed_poll_is_found() {
        let polls = [poll(0, 15 * MS), poll(20 * MS, 30 * MS)];
        assert_eq!(exactly(&polls, &[reported(0)]).missed, [1]);
        assert_eq!(exactly(&polls, &[]).missed, [0, 1]);
        assert_eq!(exactly(&[poll(0, T + MS)], &[]).missed, [0; 0], "too near to be held against it");
    }

    #[test]
    fn a_false_report_is_found() {
        let polls = [poll(0, 15 * MS), poll(40 * MS, 5 * MS)];
        assert_eq!(exactly(&polls, &[reported(0), reported(40 * MS)]).wrong, [1], "its poll was short");
        assert_eq!(exactly(&polls, &[reported(0), reported(90 * MS)]).wrong, [1], "there was no poll");
        assert_eq!(exactly(&[poll(0, T - MS)], &[reported(0)]).wrong, [0]);
        assert_eq!(exactly(&[poll(0, T - SHORT / 2)], &[reported(0)]).wrong, [0; 0]);
    }

    #[test]
    fn a_duplicate_report_is_found() {
        let matching = exactly(&[poll(0, 15 * MS)], &[reported(0), reported(1)]);
        assert_eq!((matching.pairs, matching.duplicates), (vec![(0, 0)], vec![1]));
    }

    #[test]
    fn thread_worker_and_task_identify_a_poll() {
        let polls = [poll(0, 15 * MS)];
        for other in [
            ReportedStall { thread: "worker 1".into(), ..reported(0) },
            ReportedStall { worker: Some(1), ..reported(0) },
            ReportedStall { worker: None, ..reported(0) },
        ] {
            let matching = exactly(&polls, &[other]);
            assert_eq!((matching.wrong, matching.missed), (vec![0], vec![0]));
        }
    }

    #[test]
    fn a_poll_on_no_worker_may_not_be_reported() {
        let off = Poll { worker: None, ..poll(0, 50 * MS) };
        let matching = exactly(&[off], &[ReportedStall { worker: None, ..reported(0) }]);
        assert_eq!((matching.wrong, matching.missed), (vec![0], vec![]));
    }

    #[test]
    fn a_poll_that_handed_its_worker_over_counts_until_then() {
        let in_place = |held: u64| Poll { held_until: Some(held), ..poll(0, 50 * MS) };
        assert_eq!(exactly(&[in_place(MS)], &[reported(0)]).wrong, [0]);
        assert_eq!(exactly(&[in_place(MS)], &[]).missed, [0; 0]);
        assert_eq!(
            exactly(&[in_place(12 * MS)], &[reported(0)]).pairs,
            [(0, 0)],
            "no thread took the worker over before"
        );
    }

    #[test]
    fn a_stall_found_by_scans_may_be_short_and_start_late() {
        let polls = [poll(0, 14 * MS), poll(20 * MS, 18 * MS)];
        let by_scans = |reported: &[ReportedStall]| match_up(&Guarantee::unwatched(T), &polls, reported);
        assert_eq!(by_scans(&[reported(22 * MS)]), Matching { pairs: vec![(0, 1)], ..Matching::default() });
        assert_eq!(by_scans(&[reported(2 * MS)]).missed, [1]);
    }

    #[test]
    fn reports_of_unmeasured_tasks_match_by_thread_and_time() {
        let polls = [poll(0, 15 * MS)];
        let observed = |started_at: u64, elapsed: u64, certainty: Certainty| {
            let mut reported = reported(started_at);
            reported.reports[0] = Report { certainty, elapsed, ..reported.reports[0].clone() };
            reported
        };
        let of_a_task = [Poll { task: Some(tokio_task()), ..polls[0].clone() }];
        for certainty in [Certainty::Observed, Certainty::Suspected] {
            let matching = match_up(&Guarantee::unwatched(T), &of_a_task, &[observed(2 * MS, 12 * MS, certainty)]);
            assert_eq!(matching.pairs, [(0, 0)]);
            let matching = match_up(&Guarantee::unwatched(T), &of_a_task, &[observed(2 * MS, 20 * MS, certainty)]);
            assert_eq!(matching.wrong, [0], "the reported stall is longer than the poll");
        }
        assert_eq!(exactly(&of_a_task, &[observed(2 * MS, 12 * MS, Certainty::Measured)]).wrong, [0]);
    }

    fn tokio_task() -> tokio::task::Id {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async { tokio::spawn(async {}).id() })
    }
}
