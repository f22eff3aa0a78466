use super::*;
use crate::detect::pause::CheckedSpan;
use crate::detect::time_account::{Estimate, PollEnd};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{FrameNumber, RuntimeId, SiteId, WorkerIndex};

pub(super) const MS: Nanos = Nanos::from_millis(1);
pub(super) const T: Nanos = Nanos::from_millis(10);

/// The worker that the polls of most tests block.
pub(super) const WORKER: WorkerIndex = WorkerIndex(0);

/// The end of each poll, which the tracker passes on.
pub(super) const END: PollEnd = PollEnd { at: Nanos(7), cpu: None };

pub(super) fn poll(number: u64, start: Nanos) -> Poll {
    Poll {
        key: PollKey { thread: ThreadNumber(1), number: FrameNumber(number) },
        start,
        runtime: RuntimeId(1),
        site: SiteId(1),
        watched: None,
        request: None,
        parent_route: None,
        task: TaskBits(9),
        allowed_since: None,
        account: None,
        is_root: false,
    }
}

pub(super) fn running(polls: &[Poll]) -> ScannedPolls {
    ScannedPolls { running: polls.to_vec(), ..ScannedPolls::default() }
}

fn ended(poll: Poll, duration: Nanos) -> ScannedPolls {
    ScannedPolls {
        ended: vec![EndedPoll { poll, duration, worker: Some(WORKER), end: END }],
        ..ScannedPolls::default()
    }
}

pub(super) fn on_worker(_: &Poll) -> PollState {
    PollState::OnWorker(WORKER)
}

#[test]
fn reported_at_the_threshold_then_at_each_doubling_then_with_the_exact_duration() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, Nanos::ZERO);
    assert_eq!(tracker.step(T - Nanos(1), &running(&[p]), &pauses, on_worker), []);
    assert_eq!(
        tracker.step(T, &running(&[p]), &pauses, on_worker),
        [Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: T, route: None }]
    );
    let mut reported = Vec::new();
    for now in (10..200).map(Nanos::from_millis) {
        reported.extend(tracker.step(now, &running(&[p]), &pauses, on_worker));
    }
    let at = |n: u64| Change::ReportDue { id: StallId(1), elapsed: n * T };
    let (again, quiet): (Vec<_>, Vec<_>) = reported.into_iter().partition(|c| matches!(c, Change::ReportDue { .. }));
    assert_eq!(again, [at(2), at(4), at(8), at(16)]);
    assert!(quiet.iter().all(|c| matches!(c, Change::StillOngoing { id: StallId(1), .. })));
    assert!(tracker.has_stalls());
    assert_eq!(
        tracker.step(216 * MS, &ended(p, 214 * MS), &pauses, on_worker),
        [Change::Ended { id: StallId(1), elapsed: 214 * MS, end: Some(END), whole: 214 * MS }]
    );
    assert_eq!(tracker.step(217 * MS, &ScannedPolls::default(), &pauses, on_worker), []);
    assert!(!tracker.has_stalls());
}

#[test]
fn a_cooperative_load_is_silent() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    for i in 0..1_000 {
        let p = poll(i, i * T);
        assert_eq!(tracker.step(i * T + T - Nanos(1), &running(&[p]), &pauses, on_worker), []);
    }
}

#[test]
fn a_stall_that_ended_unseen_is_reported_once() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(7, Nanos::ZERO);
    let reported = tracker.step(30 * MS, &ended(p, 12 * MS), &pauses, on_worker);
    assert_eq!(
        reported,
        [Change::EndedUnseen {
            id: StallId(1),
            poll: p,
            worker: Some(WORKER),
            elapsed: 12 * MS,
            route: None,
            cause: Cause::Unknown
        }]
    );
    assert_eq!(tracker.step(31 * MS, &ScannedPolls::default(), &pauses, on_worker), []);
}

#[test]
fn a_stall_found_and_ended_in_one_scan_starts_and_ends() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(7, Nanos::ZERO);
    let scan = ScannedPolls { running: vec![p], ..ended(p, 15 * MS) };
    let reported = tracker.step(15 * MS, &scan, &pauses, on_worker);
    assert_eq!(
        reported,
        [
            Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: 15 * MS, route: None },
            Change::Ended { id: StallId(1), elapsed: 15 * MS, end: Some(END), whole: 15 * MS }
        ]
    );
}

#[test]
fn a_poll_that_is_over_when_asked_is_left_to_its_published_end() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(7, Nanos::ZERO);
    let scan = ScannedPolls { running: vec![p], ..ended(p, 15 * MS) };
    let reported = tracker.step(16 * MS, &scan, &pauses, |_| PollState::Finished);
    assert_eq!(
        reported,
        [Change::EndedUnseen {
            id: StallId(1),
            poll: p,
            worker: Some(WORKER),
            elapsed: 15 * MS,
            route: None,
            cause: Cause::Unknown
        }]
    );
}

#[test]
fn a_poll_off_its_worker_is_never_a_stall() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, Nanos::ZERO);
    let mut asked = 0;
    for now in [T, 2 * T, 5 * T] {
        let reported = tracker.step(now, &running(&[p]), &pauses, |_| {
            asked += 1;
            PollState::OffWorker
        });
        assert_eq!(reported, []);
    }
    assert_eq!(asked, 1, "the question takes a lock: asked once a poll");
    assert_eq!(tracker.step(6 * T, &ended(p, 6 * T), &pauses, on_worker), []);
}

#[test]
fn a_hand_off_ends_the_stall_for_good() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, Nanos::ZERO);
    tracker.step(T, &running(&[p]), &pauses, on_worker);
    let reported = tracker.step(15 * MS, &running(&[p]), &pauses, |_| PollState::OffWorker);
    assert_eq!(reported, [Change::Ended { id: StallId(1), elapsed: T, end: None, whole: T }], "where it was seen last");
    assert_eq!(tracker.step(90 * MS, &running(&[p]), &pauses, on_worker), []);
    assert_eq!(tracker.step(99 * MS, &ended(p, 95 * MS), &pauses, on_worker), []);
}

#[test]
fn a_hand_off_that_only_the_end_shows_ends_where_it_was_last_observed() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, Nanos::ZERO);
    tracker.step(12 * MS, &running(&[p]), &pauses, on_worker);
    let scan = ScannedPolls {
        ended: vec![EndedPoll { poll: p, duration: 80 * MS, worker: None, end: END }],
        ..ScannedPolls::default()
    };
    assert_eq!(
        tracker.step(81 * MS, &scan, &pauses, on_worker),
        [Change::Ended { id: StallId(1), elapsed: 12 * MS, end: Some(END), whole: 80 * MS }]
    );
}

#[test]
fn a_lost_end_ends_a_stall_as_last_observed_and_an_unread_slot_does_not() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, Nanos::ZERO);
    tracker.step(12 * MS, &running(&[p]), &pauses, on_worker);
    let unread = ScannedPolls { unread: vec![ThreadNumber(1)], ..ScannedPolls::default() };
    assert_eq!(tracker.step(14 * MS, &unread, &pauses, on_worker), []);
    assert_eq!(
        tracker.step(16 * MS, &ScannedPolls::default(), &pauses, on_worker),
        [Change::Ended { id: StallId(1), elapsed: 12 * MS, end: None, whole: 12 * MS }]
    );
}

#[test]
fn a_part_that_may_block_does_not_count() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let allowed = Poll { allowed_since: Some(4 * MS), ..poll(1, Nanos::ZERO) };
    assert_eq!(tracker.step(80 * MS, &running(&[allowed]), &pauses, on_worker), []);
    assert_eq!(tracker.next_scan(80 * MS, &running(&[allowed]), &pauses), 80 * MS + T);
    // The part is over: the poll seems to have started 80 ms later.
    let unchanged = poll(1, 80 * MS);
    assert_eq!(tracker.step(89 * MS, &running(&[unchanged]), &pauses, on_worker), []);
    let reported = tracker.step(90 * MS, &running(&[unchanged]), &pauses, on_worker);
    assert_eq!(
        reported,
        [Change::Started { id: StallId(1), poll: unchanged, worker: Some(WORKER), elapsed: T, route: None }]
    );
}

#[test]
fn a_poll_that_got_no_cpu_and_ended_unseen_is_starved() {
    let (mut tracker, mut pauses) = (Tracker::new(T), Pauses::default());
    let span = CheckedSpan::new(Nanos::ZERO, MS, 40 * MS);
    let sleep = CheckedSpan { own_run_delay: Some(38 * MS), busiest: Some(Nanos::ZERO), ..span };
    assert_eq!(pauses.record(&sleep, T), None, "no pause: others had the CPU");
    let p = poll(1, MS);
    let reported = tracker.step(41 * MS, &ended(p, 38 * MS), &pauses, on_worker);
    assert_eq!(
        reported,
        [Change::EndedUnseen {
            id: StallId(1),
            poll: p,
            worker: Some(WORKER),
            elapsed: 38 * MS,
            route: None,
            cause: Cause::Starved
        }]
    );
}

fn a_pause(start: Nanos, end: Nanos) -> Pauses {
    let mut pauses = Pauses::default();
    let span = CheckedSpan::new(start, start + MS, end);
    let sleep = CheckedSpan { own_run_delay: Some(Nanos::ZERO), busiest: Some(Nanos::ZERO), ..span };
    pauses.record(&sleep, T).expect("a pause");
    pauses
}

#[test]
fn a_pause_is_not_the_tasks_fault() {
    let mut tracker = Tracker::new(T);
    let pauses = a_pause(2 * MS, 1_000 * MS);
    let p = poll(1, Nanos::ZERO);
    assert_eq!(tracker.step(1_001 * MS, &running(&[p]), &pauses, on_worker), []);
    let reported = tracker.step(1_003 * MS, &ended(p, 1_002 * MS), &pauses, on_worker);
    assert_eq!(
        reported,
        [Change::EndedUnseen {
            id: StallId(1),
            poll: p,
            worker: Some(WORKER),
            elapsed: 1_002 * MS,
            route: None,
            cause: Cause::Paused
        }]
    );
}

#[test]
fn a_block_that_continues_after_a_pause_is_a_stall() {
    let mut tracker = Tracker::new(T);
    let pauses = a_pause(2 * MS, 1_000 * MS);
    let p = poll(1, Nanos::ZERO);
    assert_eq!(tracker.next_scan(1_000 * MS, &running(&[p]), &pauses), 1_008 * MS);
    let reported = tracker.step(1_008 * MS, &running(&[p]), &pauses, on_worker);
    assert_eq!(
        reported,
        [Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: 10 * MS, route: None }]
    );
    let reported = tracker.step(1_030 * MS, &ended(p, 1_025 * MS), &pauses, on_worker);
    assert_eq!(reported, [Change::Ended { id: StallId(1), elapsed: 27 * MS, end: Some(END), whole: 27 * MS }]);
}

fn exactly(time: Nanos) -> Estimate {
    Estimate { low: time, likely: time, high: time }
}

/// Returns the account of a poll that waited for a CPU for so many milliseconds.
fn waited(millis: u64) -> Option<TimeAccount> {
    Some(TimeAccount { run_delay: exactly(millis * MS), ..TimeAccount::default() })
}

/// However long a poll waited for a CPU: if it was on one for the threshold, its task is to blame.
#[test]
fn an_unseen_poll_that_computed_for_the_threshold_is_blamed() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let mut cause = |number, cpu: Estimate| {
        let account = Some(TimeAccount { run_delay: exactly(90 * MS), cpu });
        let poll = Poll { account, ..poll(number, Nanos::ZERO) };
        let changes = tracker.step(200 * MS, &ended(poll, 95 * MS), &pauses, on_worker);
        if let Change::EndedUnseen { cause, .. } = changes[0] { cause } else { panic!("{changes:?}") }
    };
    assert_eq!((cause(1, exactly(T - Nanos(1))), cause(2, exactly(T))), (Cause::Starved, Cause::Cpu));
    assert_eq!(cause(3, Estimate { low: T - Nanos(1), ..exactly(5 * T) }), Cause::Starved, "not proven");
}

/// It waited for a CPU for 3 ms: too long to be called slow, too short to be called starved. What
/// it does by itself decides.
#[test]
fn a_poll_that_is_due_only_because_it_waited_for_a_cpu_is_judged_again() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = Poll { account: waited(3), ..poll(1, Nanos::ZERO) };
    assert_eq!(tracker.step(11 * MS, &running(&[p]), &pauses, on_worker), []);
    assert_eq!(tracker.next_scan(11 * MS, &running(&[p]), &pauses), 11 * MS + T / 4, "and soon");
    let started = Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: 13 * MS, route: None };
    assert_eq!(tracker.step(13 * MS, &running(&[p]), &pauses, on_worker), [started]);
    // Another one is over before that.
    let q = Poll { account: waited(3), ..poll(2, 20 * MS) };
    assert_eq!(tracker.step(31 * MS, &running(&[q]), &pauses, on_worker)[1..], []);
    let (elapsed, cause) = (12 * MS, Cause::Starved);
    assert_eq!(
        tracker.step(33 * MS, &ended(q, 12 * MS), &pauses, on_worker),
        [Change::EndedUnseen { id: StallId(2), poll: q, worker: Some(WORKER), elapsed, route: None, cause }]
    );
    // A third one would have been long in any case, so that it is blamed.
    let r = Poll { account: waited(3), ..poll(3, 40 * MS) };
    let reported = tracker.step(60 * MS, &ended(r, 14 * MS), &pauses, on_worker);
    assert!(
        matches!(reported[..], [Change::EndedUnseen { id: StallId(3), cause: Cause::Unknown, .. }]),
        "{reported:?}"
    );
}

#[test]
fn a_poll_that_mostly_waited_for_a_cpu_is_reported_at_once() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = Poll { account: waited(6), ..poll(1, Nanos::ZERO) };
    let reported = tracker.step(T, &running(&[p]), &pauses, on_worker);
    assert_eq!(reported, [Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: T, route: None }]);
}

/// A laptop is suspended for eight hours while the clock's counter runs. One poll was short; one
/// had blocked before.
#[test]
fn a_machine_that_was_suspended_has_no_stall_for_it() {
    const HOURS: Nanos = Nanos::from_secs(8 * 3_600);
    let (mut tracker, none) = (Tracker::new(T), Pauses::default());
    let (blocks, short) = (poll(1, Nanos::ZERO), poll(2, 49 * MS));
    let reported = tracker.step(T, &running(&[blocks]), &none, on_worker);
    assert!(matches!(reported[..], [Change::Started { id: StallId(1), .. }]), "{reported:?}");
    let pauses = a_pause(50 * MS, 50 * MS + HOURS);
    let now = 50 * MS + HOURS;
    assert_eq!(pauses.stopped_within(Nanos::ZERO, now), HOURS);
    let reported = tracker.step(now, &running(&[blocks, short]), &pauses, on_worker);
    assert_eq!(reported, [Change::ReportDue { id: StallId(1), elapsed: 50 * MS }], "as if it had not been");
    let next = tracker.next_scan(now, &running(&[blocks, short]), &pauses);
    assert_eq!(next, 49 * MS + HOURS + T, "when the short one would be due");
    let scan = ScannedPolls {
        ended: vec![
            EndedPoll { poll: short, duration: HOURS + 2 * MS, worker: Some(WorkerIndex(1)), end: END },
            EndedPoll { poll: blocks, duration: HOURS + 60 * MS, worker: Some(WORKER), end: END },
        ],
        ..ScannedPolls::default()
    };
    let reported = tracker.step(now + 10 * MS, &scan, &pauses, on_worker);
    let (elapsed, cause) = (HOURS + 2 * MS, Cause::Paused);
    assert_eq!(
        reported,
        [
            Change::EndedUnseen {
                id: StallId(2),
                poll: short,
                worker: Some(WorkerIndex(1)),
                elapsed,
                route: None,
                cause
            },
            Change::Ended { id: StallId(1), elapsed: 60 * MS, end: Some(END), whole: 60 * MS }
        ]
    );
}

/// And with one that started anew when it woke.
#[test]
fn a_clock_that_restarts_is_no_stall() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let p = poll(1, 5_000 * MS);
    assert_eq!(tracker.step(5_001 * MS, &running(&[p]), &pauses, on_worker), []);
    assert_eq!(tracker.step(MS, &running(&[p]), &pauses, on_worker), []);
    assert_eq!(tracker.next_scan(MS, &running(&[p]), &pauses), MS + T);
    assert_eq!(tracker.step(2 * MS, &ended(p, Nanos::ZERO), &pauses, on_worker), []);
    let q = poll(2, 3 * MS);
    let reported = tracker.step(3 * MS + T, &running(&[q]), &pauses, on_worker);
    assert!(matches!(reported[..], [Change::Started { elapsed: T, .. }]), "what comes after is found: {reported:?}");
}

#[test]
fn scans_when_the_earliest_poll_is_due_but_not_too_often() {
    let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
    let now = 100 * MS;
    assert_eq!(tracker.next_scan(now, &ScannedPolls::default(), &pauses), now + T);
    assert_eq!(tracker.next_scan(now, &running(&[poll(1, 95 * MS), poll(2, 97 * MS)]), &pauses), 105 * MS);
    assert_eq!(tracker.next_scan(now, &running(&[poll(1, 91 * MS)]), &pauses), now + T / 4, "four a threshold");
    let old = poll(3, 60 * MS);
    tracker.step(now, &running(&[old]), &pauses, on_worker);
    assert_eq!(tracker.next_scan(now, &running(&[old]), &pauses), now + T, "the next doubling is far");
    let now = 137 * MS;
    assert_eq!(tracker.next_scan(now, &running(&[old]), &pauses), 140 * MS, "at 8x");
}
