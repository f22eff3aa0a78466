use pollwatch_stack::Tid;

use super::*;
use crate::detect::time_account::ThreadTimes;
use crate::model::id::{SiteId, ThreadNumber};
use crate::model::late_runtime::LateReason;

const RUNTIME: RuntimeId = RuntimeId(1);
const THRESHOLD: Nanos = Nanos::from_millis(10);

fn ms(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

/// Returns a reading of one worker's thread that has been in polls of site 1 for this long.
fn reading(at: u64, busy: u64) -> UsageReading {
    let mut reading = UsageReading { at: ms(at), workers: 1, ..UsageReading::default() };
    reading.sites.insert((ThreadNumber(1), SiteId(1)), PollUsage { polls: busy / 2, busy: ms(busy) });
    reading
}

/// A detector with a probe that was woken at the moment 100.
struct Scenario {
    detector: LateDetector,
    pauses: Pauses,
}

impl Scenario {
    fn new() -> Scenario {
        Scenario { detector: LateDetector::new(THRESHOLD), pauses: Pauses::default() }
    }

    fn step(&mut self, now: u64, probe: ProbeState, has_stall: bool, read: UsageReading) -> Option<Lateness> {
        self.scan(now, probe, has_stall, true, read)
    }

    /// Takes in a scan at which no poll of the current-thread runtime runs.
    fn undriven(&mut self, now: u64, probe: ProbeState, read: UsageReading) -> Option<Lateness> {
        self.scan(now, probe, false, false, read)
    }

    fn scan(
        &mut self,
        now: u64,
        probe: ProbeState,
        has_stall: bool,
        is_driven: bool,
        read: UsageReading,
    ) -> Option<Lateness> {
        let scan = LateScan { now: ms(now), probe, has_stall, is_driven, pauses: &self.pauses };
        self.detector.step(RUNTIME, &scan, || read)
    }

    fn waits(&mut self, now: u64, read: UsageReading) -> Option<Lateness> {
        self.step(now, WAITING, false, read)
    }

    fn answered(&mut self, now: u64, delay: u64, read: UsageReading) -> Option<Lateness> {
        self.step(now, ProbeState::Answered(ms(delay)), false, read)
    }
}

const WAITING: ProbeState = ProbeState::Waiting(WakeOfProbe { id: Ticks(7), at: Nanos::from_millis(100) });

#[test]
fn a_runtime_with_many_short_polls_is_reported_with_their_site() {
    let mut scenario = Scenario::new();
    assert_eq!(scenario.waits(105, reading(105, 5)), None);
    assert_eq!(scenario.waits(112, reading(112, 12)), None);
    let late = scenario.answered(192, 90, reading(192, 90)).unwrap();
    assert_eq!((late.delay, late.is_ongoing, late.usage.observed), (ms(90), false, ms(80)));
    assert_eq!(late.usage.sites, [(SiteId(1), PollUsage { polls: 39, busy: ms(78) })]);
    assert_eq!(late.usage.reason(), LateReason::BusyWorkers);
    assert!((late.usage.polling - 78.0 / 80.0).abs() < 1e-9);
    assert_eq!(scenario.answered(202, 90, reading(202, 100)), None, "reported once");
}

#[test]
fn a_runtime_that_stays_late_is_reported_once_while_it_is() {
    let mut scenario = Scenario::new();
    assert_eq!(scenario.waits(112, reading(112, 12)), None);
    assert_eq!(scenario.waits(1_090, reading(1_090, 990)), None);
    let late = scenario.waits(1_101, reading(1_101, 1_001)).unwrap();
    assert_eq!((late.delay, late.is_ongoing), (ms(1_001), true));
    assert_eq!(scenario.waits(2_200, reading(2_200, 2_000)), None);
    assert_eq!(scenario.answered(2_300, 2_190, reading(2_300, 2_100)), None);
}

#[test]
fn short_waits_and_waits_behind_stalls_are_not_reported() {
    let mut scenario = Scenario::new();
    scenario.waits(112, reading(112, 12));
    assert_eq!(scenario.answered(140, 39, reading(140, 39)), None);
    scenario.waits(112, reading(112, 12));
    scenario.step(150, WAITING, true, reading(150, 50));
    assert_eq!(scenario.answered(192, 90, reading(192, 90)), None, "a stall explains it");
    scenario.waits(112, reading(112, 12));
    assert_eq!(scenario.step(192, ProbeState::Silent, false, reading(192, 90)), None, "withdrawn");
    assert!(!scenario.detector.is_waiting(RUNTIME));
}

#[test]
fn a_runtime_that_nobody_drives_is_not_late() {
    let mut scenario = Scenario::new();
    for now in (112..2_000).step_by(10) {
        assert_eq!(scenario.undriven(now, WAITING, reading(now, 12)), None, "{now}");
    }
    assert_eq!(scenario.waits(2_000, reading(2_000, 13)), None, "driven only now");
    assert_eq!(scenario.answered(2_010, 1_905, reading(2_010, 15)), None);
    // A scan may fall between two polls.
    scenario.waits(112, reading(112, 12));
    scenario.undriven(122, WAITING, reading(122, 21));
    scenario.waits(132, reading(132, 30));
    assert!(scenario.answered(192, 90, reading(192, 90)).is_some());
    scenario.waits(112, reading(112, 12));
    scenario.waits(602, reading(602, 490));
    assert_eq!(scenario.undriven(1_105, WAITING, reading(1_105, 990)), None);
    assert!(scenario.waits(1_115, reading(1_115, 1_000)).is_some_and(|late| late.is_ongoing));
}

#[test]
fn the_reason_follows_from_what_the_workers_did() {
    let usage = |polling, on_cpu, waiting_for_cpu| RuntimeUsage {
        observed: ms(100),
        workers: 2,
        polling,
        on_cpu,
        waiting_for_cpu,
        sites: Vec::new(),
        routes: Vec::new(),
    };
    assert_eq!(usage(0.98, Some(0.97), Some(0.01)).reason(), LateReason::BusyWorkers);
    assert_eq!(usage(0.1, Some(0.97), Some(0.01)).reason(), LateReason::BusyWorkers, "by tasks that are not watched");
    assert_eq!(usage(0.98, Some(0.4), Some(0.58)).reason(), LateReason::NoCpu);
    assert_eq!(usage(0.2, Some(0.2), Some(0.0)).reason(), LateReason::Unknown);
    assert_eq!(usage(0.9, None, None).reason(), LateReason::BusyWorkers);
}

/// A thread of which there is one reading may be old: one of the pool that was handed a worker.
#[test]
fn a_thread_counts_from_its_first_reading_on() {
    let times = |cpu, run_delay| ThreadTimes {
        at: ms(0),
        cpu: ms(cpu),
        run_delay: Some(ms(run_delay)),
        runs: 1,
        is_runnable: false,
    };
    let at = |now, threads: &[(i32, ThreadTimes)]| UsageReading {
        at: ms(now),
        workers: 2,
        threads: threads.iter().map(|(tid, times)| (Tid::from_raw(*tid), *times)).collect(),
        ..UsageReading::default()
    };
    let before = at(0, &[(1, times(500, 500))]);
    let usage = RuntimeUsage::between(&before, &at(100, &[(1, times(510, 520)), (2, times(90_000, 90_000))]));
    assert_eq!((usage.on_cpu, usage.waiting_for_cpu), (Some(0.05), Some(0.1)));
    assert_eq!(usage.reason(), LateReason::Unknown);
    let cut = UsageReading { is_cut: true, ..at(100, &[(1, times(700, 500))]) };
    assert_eq!(RuntimeUsage::between(&before, &cut).on_cpu, None, "not all threads were read");
    assert_eq!(RuntimeUsage::between(&at(0, &[]), &at(100, &[(2, times(90_000, 0))])).on_cpu, None);
}
