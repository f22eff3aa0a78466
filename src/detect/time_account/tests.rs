use super::*;

const MS: Nanos = Nanos::from_millis(1);
const THRESHOLD: Nanos = Nanos::from_millis(10);

/// A reading in milliseconds, of a thread that was given a CPU since the reading before.
fn reading(at: u64, cpu: u64, run_delay: u64) -> ThreadTimes {
    let (at, cpu, run_delay) = (at * MS, cpu * MS, run_delay * MS);
    ThreadTimes { at, cpu, run_delay: Some(run_delay), runs: at.0, is_runnable: true }
}

fn bounds(estimate: Estimate) -> [u64; 3] {
    [estimate.low, estimate.likely, estimate.high].map(|time| time.0 / MS.0)
}

/// Returns the account of a poll from `start` to `end`, by these readings. The last one may be
/// from after its end.
fn account<const N: usize>(readings: [ThreadTimes; N], start: u64, end: u64) -> TimeAccount {
    let (last, earlier) = readings.split_last().unwrap();
    PollReadings::new(start * MS, earlier.iter().copied()).at_end(ended(end), Some(*last))
}

/// The end of a poll whose thread did not read its CPU clock.
fn ended(at: u64) -> PollEnd {
    PollEnd { at: at * MS, cpu: None }
}

#[test]
fn the_cpu_time_at_the_end_of_a_poll_leaves_only_its_head_unknown() {
    let end = PollEnd { at: 40 * MS, cpu: Some(12 * MS) };
    let of = |readings: &[ThreadTimes]| {
        let readings = PollReadings::new(10 * MS, readings.iter().copied());
        bounds(readings.at_end(end, Some(reading(90, 60, 22))).cpu)
    };
    assert_eq!(of(&[reading(6, 0, 0), reading(20, 4, 0)]), [8, 10, 12]);
    assert_eq!(of(&[reading(10, 2, 0)]), [10; 3]);
    assert_eq!(of(&[reading(4, 0, 0)]), [6, 10, 12]);
    assert_eq!(of(&[reading(14, 1, 0)]), [11, 11, 15]);
}

#[test]
fn amounts_within_a_poll_are_exact() {
    let account = account([reading(10, 5, 2), reading(40, 15, 22)], 10, 40);
    assert_eq!((bounds(account.cpu), bounds(account.run_delay)), ([10; 3], [20; 3]));
    assert_eq!(account.verdict(30 * MS, THRESHOLD), CpuVerdict::Computed);
    assert_eq!(account.verdict(30 * MS, 11 * MS), CpuVerdict::Starved, "its own time is 10 ms");
    assert_eq!(account.verdict(31 * MS, 11 * MS), CpuVerdict::Other, "it waited for 1 ms besides");
}

#[test]
fn a_reading_from_outside_gives_bounds() {
    // 4 of the 20 ms between the readings are before the poll.
    let head = account([reading(6, 0, 0), reading(26, 10, 5)], 10, 26);
    assert_eq!((bounds(head.cpu), bounds(head.run_delay)), ([6, 8, 10], [1, 5, 5]));
    // A thread that was asleep has other reasons for the rest of the time.
    let asleep = ThreadTimes { is_runnable: false, ..reading(16, 5, 0) };
    assert_eq!(bounds(account([reading(6, 0, 0), asleep, reading(26, 10, 5)], 10, 24).run_delay), [3, 4, 5]);
    // The same after the poll.
    assert_eq!(bounds(account([reading(6, 0, 0), reading(26, 20, 0)], 6, 22).cpu), [16, 16, 16]);
    // Without a reading after the end, the rest may be anything.
    let tail = PollReadings::new(5 * MS, [reading(5, 0, 0), reading(26, 20, 0)]).at_end(ended(30), None);
    assert_eq!((bounds(tail.cpu), bounds(tail.run_delay)), ([20, 20, 24], [0, 0, 4]));
}

/// The kernel counts a wait when it is over. The second reading falls into a wait of 20 ms.
#[test]
fn a_wait_across_a_reading_counts_whole() {
    let poll = account([reading(0, 0, 0), reading(5, 2, 0), reading(12, 2, 0), reading(26, 3, 20)], 0, 25);
    assert_eq!(bounds(poll.run_delay), [19, 20, 20]);
    assert_eq!(poll.verdict(25 * MS, THRESHOLD), CpuVerdict::Starved);
}

#[test]
fn a_thread_that_is_ready_and_was_given_no_cpu_waits_for_one() {
    let from = reading(10, 5, 2);
    let to = |is_runnable| ThreadTimes { at: 30 * MS, cpu: 8 * MS, is_runnable, ..from };
    let waited = |start, from, to| bounds(PollReadings::new(start * MS, [from, to]).so_far().run_delay);
    assert_eq!(waited(10, from, to(true)), [17; 3], "it was preempted after 3 ms");
    assert_eq!(waited(10, from, to(false)), [0; 3], "it sleeps");
    let asleep = ThreadTimes { is_runnable: false, ..from };
    assert_eq!(waited(9, asleep, to(true))[1], 0, "it slept, and was woken at an unknown moment");
    assert_eq!(waited(10, asleep, to(true)), [17; 3], "it has started a poll since");
    let mut readings = PollReadings::new(9 * MS, [asleep, to(true)]);
    readings.set_waiting_for_cpu();
    assert_eq!(bounds(readings.so_far().run_delay)[1], 18, "by another observation");
}

#[test]
fn without_run_delays_nobody_is_starved() {
    let unknown = |reading| ThreadTimes { run_delay: None, ..reading };
    let account = account([unknown(reading(0, 0, 0)), unknown(reading(20, 1, 0))], 0, 20);
    assert_eq!(bounds(account.run_delay), [0, 0, 19]);
    assert_eq!(account.verdict(20 * MS, THRESHOLD), CpuVerdict::Other);
}

#[test]
fn an_ongoing_poll_is_judged_anew_with_each_reading() {
    let mut running = PollReadings::new(10 * MS, [reading(8, 0, 0), reading(20, 4, 8)]);
    assert_eq!(running.so_far().verdict(10 * MS, THRESHOLD), CpuVerdict::Starved);
    let earlier = running.clone();
    running.add(reading(40, 14, 18));
    let shares = running.shares_since(Some(&earlier)).unwrap();
    assert_eq!((shares.cpu, shares.run_delay, shares.asleep()), (0.5, 0.5, 0.0));
    assert_eq!(running.so_far().verdict(30 * MS, THRESHOLD), CpuVerdict::Computed);
    // The last 5 ms and 5 ms after it.
    assert_eq!(bounds(running.at_end(ended(45), Some(reading(51, 18, 24))).cpu), [10, 14, 18]);
    assert_eq!(bounds(running.at_end(ended(45), None).cpu), [12, 13, 19]);
}

#[test]
fn time_before_the_first_reading_is_taken_to_be_like_the_rest() {
    let mut running = PollReadings::new(Nanos::ZERO, []);
    assert_eq!(running.shares_since(None), None);
    running.add(reading(10, 5, 2));
    assert_eq!((running.shares_since(None), bounds(running.so_far().cpu)), (None, [0, 0, 10]));
    running.add(reading(20, 13, 2));
    assert_eq!(bounds(running.so_far().cpu), [8, 16, 18]);
    assert_eq!(running.shares_since(None).map(|shares| shares.cpu), Some(0.8));
    running.add(reading(15, 0, 0));
    assert_eq!(running.latest().unwrap().at, 20 * MS, "a reading from earlier is none");
}

/// Under a CPU limit, the watchdog thread had no CPU for 90 ms. The thread computed for 19 ms in
/// other polls, was then in this one for 2 ms, and waited for the rest of it.
#[test]
fn the_cpu_time_of_earlier_polls_is_no_proof_against_a_poll_that_waited() {
    let (before, after) = (reading(0, 0, 0), reading(90, 22, 68));
    let end = PollEnd { at: 85 * MS, cpu: Some(21 * MS) };
    let unseen = PollReadings::new(36 * MS, [before]).at_end(end, Some(after));
    assert_eq!(bounds(unseen.cpu), [0, 12, 21]);
    assert_eq!(unseen.verdict(49 * MS, THRESHOLD), CpuVerdict::Starved);
    // The same, where a scan found it just before its end.
    let seen = PollReadings::new(36 * MS, [before, reading(84, 20, 64)]).at_end(end, Some(after));
    assert_eq!(seen.verdict(49 * MS, THRESHOLD), CpuVerdict::Starved);
    // A thread that computed for 60 of the 85 ms did so within the poll as well.
    let end = PollEnd { at: 85 * MS, cpu: Some(60 * MS) };
    let guilty = PollReadings::new(36 * MS, [before]).at_end(end, Some(reading(90, 61, 29)));
    assert_eq!(guilty.verdict(49 * MS, THRESHOLD), CpuVerdict::Computed);
}

/// A thread that lost its CPU at the very end of a poll, before it published the end.
#[test]
fn a_wait_for_a_cpu_after_the_end_is_none_of_the_polls() {
    let readings = PollReadings::new(10 * MS, [reading(8, 0, 0), reading(20, 2, 9), reading(44, 3, 20)]);
    let after = Some(reading(46, 3, 42));
    let end = PollEnd { at: 32 * MS, cpu: Some(3 * MS) };
    assert_eq!(readings.verdict_at_end(34 * MS, end, after, THRESHOLD), CpuVerdict::Starved);
    let asleep = ThreadTimes { is_runnable: false, ..reading(20, 2, 0) };
    let slept = PollReadings::new(10 * MS, [reading(10, 0, 0), asleep]);
    assert_eq!(slept.verdict_at_end(34 * MS, end, Some(reading(46, 3, 12)), THRESHOLD), CpuVerdict::Other);
}
