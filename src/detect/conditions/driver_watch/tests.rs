use super::*;

const MS: u64 = 1_000_000;

fn reading(at_ms: u64, blocked: usize, parked: usize, active: usize) -> RuntimeReading {
    RuntimeReading {
        at: Nanos(at_ms * MS),
        read_at: Nanos(at_ms * MS),
        driver: DriverState::Unattended,
        published: 7,
        workers: WorkerCounts { blocked, parked, active },
        culprit: (blocked > 0).then_some(Culprit { stall: StallId(3), start: Nanos(100 * MS) }),
        evidence: ReadingEvidence::Conclusive,
    }
}

fn ms(duration: Nanos) -> u64 {
    duration.0 / MS
}

/// Returns the change by each reading, with its duration in milliseconds.
fn changes(readings: &[RuntimeReading]) -> Vec<Option<(&'static str, u64)>> {
    let (mut watch, pauses) = (DriverWatch::default(), Pauses::default());
    let text = |change| match change {
        DriverChange::Started { kind, duration, .. } => (kind.as_str(), ms(duration)),
        DriverChange::Ongoing { duration, .. } => ("ongoing", ms(duration)),
        DriverChange::Ended { duration } => ("ended", ms(duration)),
    };
    readings.iter().map(|reading| watch.step(reading, &pauses).map(text)).collect()
}

#[test]
fn a_blocked_worker_and_parked_others_leave_the_driver_unattended() {
    let attended = RuntimeReading { driver: DriverState::Attended, ..reading(140, 1, 3, 0) };
    let found = changes(&[reading(110, 1, 3, 0), reading(113, 1, 3, 0), reading(120, 1, 2, 1), attended]);
    assert_eq!(found, [None, Some(("driver_unattended", 13)), Some(("ongoing", 20)), Some(("ended", 20))]);
    let returned = [reading(110, 1, 1, 0), reading(113, 1, 1, 0), reading(116, 0, 1, 1)];
    assert_eq!(changes(&returned)[2], Some(("ended", 13)), "the culprit has returned");
}

#[test]
fn it_is_unattended_no_earlier_than_somebody_was_last_seen() {
    let attended = RuntimeReading { driver: DriverState::Attended, ..reading(108, 1, 3, 0) };
    let found = changes(&[attended, reading(110, 1, 3, 0), reading(113, 1, 3, 0)]);
    assert_eq!(found[2], Some(("driver_unattended", 3)), "it may have been attended until the next reading");
}

/// On a busy machine the threads are read long after the workers were.
#[test]
fn it_is_unattended_no_earlier_than_the_threads_were_read() {
    let attended = RuntimeReading { driver: DriverState::Attended, read_at: Nanos(180 * MS), ..reading(108, 1, 3, 0) };
    let late = |at, read_at| RuntimeReading { read_at: Nanos(read_at * MS), ..reading(at, 1, 3, 0) };
    let found = changes(&[attended, late(182, 250), late(253, 270)]);
    assert_eq!(found[2], Some(("driver_unattended", 3)), "somebody was in the driver after the scan");
    let parked = |at, read_at| RuntimeReading { read_at: Nanos(read_at * MS), ..reading(at, 0, 4, 0) };
    let found = changes(&[parked(100, 190), parked(1_100, 1_101), parked(1_191, 1_192)]);
    assert_eq!(
        found,
        [None, None, Some(("runtime_hung", 1_001))],
        "a worker may have left the driver until it was read"
    );
}

/// A worker that was woken in the driver, and is given no CPU, has not published that it is active.
#[test]
fn a_worker_that_runs_may_have_left_the_driver_just_now() {
    let of = |evidence, at| RuntimeReading { evidence, ..reading(at, 1, 3, 0) };
    let first = |evidence| changes(&[150, 251].map(|at| of(evidence, at)))[1];
    assert_eq!(first(ReadingEvidence::MayRun), Some(("driver_unattended", 101)));
    assert_eq!(first(ReadingEvidence::BlockedRuns), Some(("driver_unattended", 151)), "the blocked worker computes");
}

/// Returns a check at which the threads were not read.
fn unread(at_ms: u64, blocked: usize, parked: usize, active: usize) -> RuntimeReading {
    RuntimeReading { driver: DriverState::NotRead, ..reading(at_ms, blocked, parked, active) }
}

#[test]
fn a_condition_ends_with_its_cause_before_the_next_reading_of_the_threads() {
    let reported = [reading(110, 1, 3, 0), reading(113, 1, 3, 0)];
    let then = |checks: &[RuntimeReading]| changes(&[&reported, checks].concat())[2..].to_vec();
    assert_eq!(then(&[unread(120, 0, 3, 1)]), [Some(("ended", 13))], "no worker is blocked");
    let next = Culprit { stall: StallId(4), start: Nanos(116 * MS) };
    let next = RuntimeReading { culprit: Some(next), published: 8, ..unread(120, 1, 3, 0) };
    assert_eq!(then(&[next]), [Some(("ended", 13))], "another worker is blocked");
    assert_eq!(then(&[unread(120, 1, 3, 0), unread(140, 1, 3, 0)]), [20, 40].map(|ms| Some(("ongoing", ms))));
}

#[test]
fn a_check_without_a_reading_confirms_nothing_after_a_worker_may_have_entered_the_driver() {
    let reported = [reading(110, 1, 3, 0), reading(113, 1, 3, 0)];
    let published = |reading: RuntimeReading| RuntimeReading { published: 8, ..reading };
    let checks = [published(unread(120, 1, 3, 0)), published(unread(220, 1, 3, 0)), published(reading(230, 1, 3, 0))];
    let found = changes(&[&reported[..], &checks].concat());
    assert_eq!(found[2..], [None, None, Some(("ongoing", 130))]);
    // A worker that runs may have published before it enters the driver.
    let may_run = |reading: RuntimeReading| RuntimeReading { evidence: ReadingEvidence::MayRun, ..reading };
    let found = changes(&[may_run(reading(110, 1, 3, 0)), may_run(reading(210, 1, 3, 0)), unread(220, 1, 3, 0)]);
    assert_eq!(found[1..], [Some(("driver_unattended", 100)), None]);
    // A condition is reported only by a reading.
    assert_eq!(changes(&[reading(110, 1, 3, 0), unread(113, 1, 3, 0)]), [None, None]);
}

#[test]
fn it_is_unattended_no_earlier_than_a_worker_may_have_been_there() {
    let published = |at| RuntimeReading { published: 8, ..reading(at, 1, 3, 0) };
    let found = changes(&[reading(110, 1, 3, 0), published(150), published(153)]);
    assert_eq!(found[2], Some(("driver_unattended", 3)), "a worker has parked again");
    let found = changes(&[reading(110, 1, 2, 1), reading(150, 1, 3, 0), reading(153, 1, 3, 0)]);
    assert_eq!(found[2], Some(("driver_unattended", 3)), "a worker was active");
}

#[test]
fn other_states_are_no_condition() {
    let later =
        |one: RuntimeReading| RuntimeReading { at: one.at + Nanos(50 * MS), read_at: one.at + Nanos(50 * MS), ..one };
    let twice = |one: RuntimeReading| [one, later(one)];
    for (blocked, parked, active) in [(0, 3, 1), (1, 2, 1), (2, 0, 0), (4, 0, 0), (0, 4, 0)] {
        assert_eq!(changes(&twice(reading(110, blocked, parked, active))), [None, None], "{blocked} {parked} {active}");
    }
    for driver in [DriverState::Attended, DriverState::Unknown, DriverState::NotRead] {
        assert_eq!(changes(&twice(RuntimeReading { driver, ..reading(110, 1, 1, 0) })), [None, None]);
    }
}

#[test]
fn a_worker_that_publishes_was_in_the_driver() {
    let readings = |at| RuntimeReading { published: at, ..reading(at, 1, 3, 0) };
    assert_eq!(changes(&[readings(110), readings(120), readings(130)]), [None, None, None]);
    let next = Culprit { stall: StallId(4), start: Nanos(126 * MS) };
    let next = |at| RuntimeReading { culprit: Some(next), ..readings(at) };
    let found = changes(&[
        reading(110, 1, 3, 0),
        reading(120, 1, 3, 0),
        next(130),
        RuntimeReading { at: Nanos(133 * MS), read_at: Nanos(133 * MS), ..next(130) },
    ]);
    assert_eq!(found[1..], [Some(("driver_unattended", 20)), Some(("ended", 20)), Some(("driver_unattended", 7))]);
}

#[test]
fn a_worker_that_is_kept_out_of_the_driver_ends_nothing() {
    let readings = |at| RuntimeReading { published: at, ..reading(at, 0, 4, 0) };
    let found = changes(&[reading(100, 0, 4, 0), reading(1_100, 0, 4, 0), readings(1_200), readings(1_300)]);
    assert_eq!(found[1..], [Some(("runtime_hung", 1_000)), Some(("ongoing", 1_100)), Some(("ongoing", 1_200))]);
    let active = |at| reading(at, 0, 3, 1);
    let found = changes(&[reading(100, 0, 4, 0), reading(1_100, 0, 4, 0), active(1_150), active(1_250)]);
    assert_eq!(found[2..], [Some(("ongoing", 1_050)), Some(("ended", 1_050))], "it works again");
    let readings = |at| RuntimeReading { published: at, ..reading(at, 1, 3, 0) };
    let found = changes(&[reading(110, 1, 3, 0), reading(120, 1, 3, 0), readings(130)]);
    assert_eq!(found[1..], [Some(("driver_unattended", 20)), Some(("ongoing", 30))]);
}

#[test]
fn a_driver_is_not_unattended_while_no_worker_is_free() {
    let start = [reading(110, 1, 1, 0), reading(113, 1, 1, 0)];
    let all_blocked = |at| reading(at, 2, 0, 0);
    let found = changes(&[start[0], start[1], all_blocked(120), all_blocked(200), all_blocked(230), all_blocked(240)]);
    assert_eq!(found[2..], [Some(("ongoing", 20)), Some(("ongoing", 100)), Some(("ended", 100)), None]);
    // A worker that was woken is blocked for a moment, and parks again.
    let found = changes(&[start[0], start[1], all_blocked(120), reading(160, 1, 1, 0), all_blocked(230)]);
    assert_eq!(found[2..], [Some(("ongoing", 20)), Some(("ongoing", 60)), Some(("ongoing", 130))]);
}

/// Workers that were active meanwhile, with one of them parked, do not count.
#[test]
fn a_driver_is_unattended_until_no_worker_has_been_parked_for_a_while() {
    let start = [reading(110, 1, 2, 0), reading(113, 1, 2, 0)];
    let active = |at| reading(at, 1, 1, 1);
    let none_parked = |at| reading(at, 2, 0, 1);
    let found = changes(&[start[0], start[1], active(120), active(230), none_parked(240), none_parked(330)]);
    assert_eq!(found[2..], [20, 130, 140, 230].map(|duration| Some(("ongoing", duration))));
    let found = changes(&[start[0], start[1], active(230), none_parked(240), none_parked(330), none_parked(341)]);
    assert_eq!(found[4..], [Some(("ongoing", 230)), Some(("ended", 230))]);
    // Also where it is not known who is in the driver.
    let unread = |at, blocked, parked, active| RuntimeReading {
        driver: DriverState::Unknown,
        ..reading(at, blocked, parked, active)
    };
    let found = changes(&[start[0], start[1], unread(120, 1, 1, 1), unread(230, 2, 0, 1), unread(331, 2, 0, 1)]);
    assert_eq!(found[2..], [None, None, Some(("ended", 13))]);
}

#[test]
fn weaker_evidence_needs_more_time() {
    let of = |evidence, at| RuntimeReading { evidence, ..reading(at, 1, 3, 0) };
    let found = |evidence| changes(&[110, 115, 209, 211, 1_109, 1_111].map(|at| of(evidence, at)));
    let first = |evidence| found(evidence).iter().position(|change| change.is_some());
    assert_eq!(first(ReadingEvidence::Conclusive), Some(1));
    assert_eq!(first(ReadingEvidence::BlockedRuns), Some(3));
    assert_eq!(first(ReadingEvidence::MayRun), Some(3));
    assert_eq!(first(ReadingEvidence::Partial), Some(5));
}

#[test]
fn a_runtime_with_all_workers_parked_hangs_after_a_second() {
    let found = changes(&[100, 600, 1_099, 1_100, 2_000].map(|at| reading(at, 0, 4, 0)));
    assert_eq!(found, [None, None, None, Some(("runtime_hung", 1_000)), Some(("ongoing", 1_900))]);
    let mut partial = [100, 1_100].map(|at| reading(at, 0, 4, 0));
    partial.iter_mut().for_each(|reading| reading.evidence = ReadingEvidence::Partial);
    assert_eq!(changes(&partial)[1], Some(("driver_unattended", 1_000)), "a worker may be blocked");
}

/// A worker that was woken in the driver, and is given no CPU for seconds, has published nothing.
#[test]
fn a_runtime_whose_worker_lacks_a_cpu_does_not_hang() {
    let of = |evidence, at| RuntimeReading { evidence, ..reading(at, 0, 1, 0) };
    let lacks = |at| of(ReadingEvidence::LacksCpu, at);
    assert_eq!(changes(&[lacks(100), lacks(1_200), lacks(5_000)]), [None, None, None]);
    let may_run = |at| of(ReadingEvidence::MayRun, at);
    let found = changes(&[lacks(100), lacks(1_000), may_run(1_200), may_run(2_100), may_run(2_200)]);
    assert_eq!(found[..4], [None; 4], "the time without a CPU does not count");
    assert_eq!(found[4], Some(("runtime_hung", 1_000)), "it has run, and stays in the driver");
    let mut watch = DriverWatch::default();
    watch.step(&lacks(100), &Pauses::default());
    assert!(watch.is_open() && watch.confirmation().is_none(), "no reading exceeds the budget for it");
}

#[test]
fn a_pause_of_the_process_does_not_count() {
    let (mut watch, mut pauses) = (DriverWatch::default(), Pauses::default());
    assert_eq!(watch.step(&reading(100, 0, 4, 0), &pauses), None);
    let span = crate::detect::pause::CheckedSpan {
        start: Nanos(110 * MS),
        due: Nanos(115 * MS),
        end: Nanos(5_115 * MS),
        own_run_delay: Some(Nanos::ZERO),
        own_cpu: Some(Nanos::ZERO),
        busiest: None,
    };
    assert!(pauses.record(&span, Nanos(10 * MS)).is_some());
    assert_eq!(watch.step(&reading(5_120, 0, 4, 0), &pauses), None);
    let change = watch.step(&reading(6_120, 0, 4, 0), &pauses);
    assert!(matches!(change, Some(DriverChange::Started { kind: ConditionKind::RuntimeHung, .. })), "{change:?}");
}

/// Returns a reading that does not show who is in the driver.
fn unknown(at_ms: u64, blocked: usize, parked: usize, active: usize) -> RuntimeReading {
    RuntimeReading { driver: DriverState::Unknown, ..reading(at_ms, blocked, parked, active) }
}

#[test]
fn a_condition_ends_with_its_cause_also_where_the_driver_cannot_be_read() {
    let reported = [reading(110, 1, 3, 0), reading(113, 1, 3, 0)];
    let then = |last| changes(&[reported[0], reported[1], last])[2];
    assert_eq!(then(unknown(120, 1, 3, 0)), None, "its culprit is still blocked");
    assert_eq!(then(unknown(120, 0, 4, 0)), Some(("ended", 13)), "no worker is blocked");
    assert_eq!(then(unknown(120, 0, 3, 1)), Some(("ended", 13)));
    let hung = [reading(100, 0, 4, 0), reading(1_100, 0, 4, 0)];
    let found = changes(&[hung[0], hung[1], unknown(1_200, 0, 4, 0), unknown(1_250, 0, 3, 1), unknown(1_360, 0, 3, 1)]);
    assert_eq!(found[2..], [None, None, Some(("ended", 1_000))], "its workers are active");
}

#[test]
fn a_condition_that_no_reading_confirms_is_no_longer_known() {
    let found = changes(&[
        reading(100, 0, 4, 0),
        reading(1_100, 0, 4, 0),
        unknown(2_000, 0, 4, 0),
        unknown(11_000, 0, 4, 0),
        unknown(11_100, 0, 4, 0),
    ]);
    assert_eq!(found[1..], [Some(("runtime_hung", 1_000)), None, None, Some(("ended", 1_000))]);
}

/// Under load, some worker publishes during each reading of the threads.
#[test]
fn a_condition_ends_with_its_cause_also_under_load() {
    let loaded = |at, blocked| RuntimeReading { published: at, ..unknown(at, blocked, 3 - blocked, 1) };
    let found = changes(&[reading(110, 1, 3, 0), reading(113, 1, 3, 0), loaded(120, 1), loaded(130, 0)]);
    assert_eq!(found[1..], [Some(("driver_unattended", 13)), None, Some(("ended", 13))]);
    let next = Culprit { stall: StallId(4), start: Nanos(126 * MS) };
    let next = RuntimeReading { culprit: Some(next), ..loaded(130, 1) };
    let found = changes(&[reading(110, 1, 3, 0), reading(113, 1, 3, 0), next]);
    assert_eq!(found[2], Some(("ended", 13)), "another worker is blocked, which was active before");
    let found = changes(&[reading(110, 1, 3, 0), loaded(113, 1), reading(116, 1, 3, 0), reading(119, 1, 3, 0)]);
    assert_eq!(found, [None, None, None, Some(("driver_unattended", 3))], "a worker may have been in the driver");
}

/// The workers are known to be active only until the pause.
#[test]
fn a_pause_is_no_time_in_which_workers_are_active() {
    let mut pauses = Pauses::default();
    let span = crate::detect::pause::CheckedSpan {
        own_run_delay: Some(Nanos::ZERO),
        own_cpu: Some(Nanos::ZERO),
        ..crate::detect::pause::CheckedSpan::new(Nanos(1_210 * MS), Nanos(1_215 * MS), Nanos(6_215 * MS))
    };
    assert!(pauses.record(&span, Nanos(10 * MS)).is_some());
    let last = |reported: [RuntimeReading; 2], then: [RuntimeReading; 3]| {
        let mut watch = DriverWatch::default();
        for reading in &reported {
            watch.step(reading, &pauses);
        }
        then.map(|reading| matches!(watch.step(&reading, &pauses), Some(DriverChange::Ended { .. })))
    };
    let hung = [reading(100, 0, 4, 0), reading(1_100, 0, 4, 0)];
    let active = [1_200, 6_220, 6_306].map(|at| reading(at, 0, 3, 1));
    assert_eq!(last(hung, active), [false, false, true], "a runtime that hangs");
    let unattended = [reading(110, 1, 1, 0), reading(113, 1, 1, 0)];
    let none_parked = [1_200, 6_220, 6_306].map(|at| reading(at, 2, 0, 0));
    assert_eq!(last(unattended, none_parked), [false, false, true], "a driver that nobody attends");
}
