//! The detector with invented clocks and threads.

mod handed_on;
mod short_waits;

use super::*;
use crate::detect::identity::BusyPeriod;
use crate::detect::outside::observation::EntryId;
use crate::detect::outside::stalls::MIN_SAMPLES;
use crate::detect::pause::CheckedSpan;

const MS: Nanos = Nanos::from_millis(1);
const THRESHOLD: Nanos = Nanos::from_millis(10);
/// The time between two scans.
const INTERVAL: Nanos = Nanos::from_micros(2_500);
const THREAD: EntryId = EntryId(1);

/// An invented worker.
struct World {
    detector: BlockedWorkerDetector,
    pauses: Pauses,
    now: Nanos,
    period: BusyPeriod,
    published: u64,
    cpu: Nanos,
    inspector: FakeInspector,
}

/// The results of inspections of the worker.
struct FakeInspector {
    blocked_in: Option<BlockedIn>,
    is_owner: bool,
    stack_role: Option<StackRole>,
    run_delay: Nanos,
    can_read_run_delay: bool,
    location: Option<u64>,
    /// The number of stacks that were sampled.
    samples: u32,
    inspections: u32,
}

impl Inspector for FakeInspector {
    fn blocked_in(&mut self, _: EntryId) -> Option<BlockedIn> {
        self.inspections += 1;
        self.blocked_in
    }

    fn stack_role(&mut self, _: EntryId) -> Option<StackRole> {
        self.stack_role
    }

    fn is_confirmed_owner(&mut self, _: EntryId) -> bool {
        self.is_owner
    }

    fn run_delay(&mut self, _: EntryId) -> Option<Nanos> {
        self.can_read_run_delay.then_some(self.run_delay)
    }

    fn location(&mut self, _: EntryId) -> Option<u64> {
        self.samples += 1;
        self.location
    }
}

const WAIT: BlockedIn = BlockedIn { digest: 1, in_syscall: true, is_shallow: false };

impl World {
    fn new() -> World {
        World {
            detector: BlockedWorkerDetector::new(THRESHOLD),
            pauses: Pauses::default(),
            now: 1_000 * MS,
            period: BusyPeriod { event: 1, slot_version: 0 },
            published: 0,
            cpu: Nanos::ZERO,
            inspector: FakeInspector {
                blocked_in: None,
                is_owner: true,
                stack_role: None,
                run_delay: Nanos::ZERO,
                can_read_run_delay: true,
                location: None,
                samples: 0,
                inspections: 0,
            },
        }
    }

    /// A worker that waits in a system call.
    fn waiting() -> World {
        let mut world = World::new();
        world.inspector.blocked_in = Some(WAIT);
        world
    }

    /// A worker that computes in one location.
    fn computing() -> World {
        let mut world = World::new();
        world.inspector.location = Some(7);
        world
    }

    fn observation(&self) -> WorkerObservation {
        WorkerObservation {
            thread: THREAD,
            period: self.period,
            published: self.published,
            cpu: self.cpu,
            at: self.now,
        }
    }

    fn scan(&mut self) -> Vec<WorkerChange> {
        let observations = [self.observation()];
        self.detector.step(self.now, &observations, &self.pauses, &mut self.inspector)
    }

    /// Scans for some time, each time after `act`. Returns the changes without `Unchanged`.
    fn run(&mut self, time: Nanos, mut act: impl FnMut(&mut World)) -> Vec<WorkerChange> {
        let end = self.now + time;
        let mut changes = Vec::new();
        while self.now < end {
            self.now += INTERVAL;
            act(self);
            changes
                .extend(self.scan().into_iter().filter(|change| !matches!(change, WorkerChange::StillOngoing { .. })));
        }
        changes
    }

    fn run_busy(&mut self, time: Nanos) -> Vec<WorkerChange> {
        self.run(time, |world| world.cpu += INTERVAL)
    }

    /// The worker has parked.
    fn park(&mut self) -> Vec<WorkerChange> {
        self.detector.step(self.now, &[], &self.pauses, &mut self.inspector)
    }
}

fn started(changes: &[WorkerChange]) -> Vec<Certainty> {
    let certainty = |change: &WorkerChange| match change {
        WorkerChange::Started { certainty, .. } => Some(*certainty),
        _ => None,
    };
    changes.iter().filter_map(certainty).collect()
}

#[test]
fn a_waiting_worker_is_observed_after_the_threshold() {
    let mut world = World::waiting();
    let start = world.now;
    assert!(world.scan().is_empty());
    assert_eq!(world.run(THRESHOLD - INTERVAL, |_| ()), []);
    let changes = world.run(INTERVAL, |_| ());
    let elapsed = THRESHOLD;
    assert_eq!(
        changes,
        [WorkerChange::Started {
            thread: THREAD,
            certainty: Certainty::Observed,
            activity: Activity::Waiting,
            start,
            elapsed
        }]
    );
    // Reported again at 2, 4, 8 thresholds.
    let again = world.run(8 * THRESHOLD, |_| ());
    let thresholds = again.iter().map(|change| match change {
        WorkerChange::ReportDue { elapsed, .. } => elapsed.0 / THRESHOLD.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(thresholds.collect::<Vec<_>>(), [2, 4, 8]);
    assert_eq!(world.park(), [WorkerChange::Ended { thread: THREAD, elapsed: 9 * THRESHOLD }]);
    assert_eq!(world.park(), []);
}

#[test]
fn a_worker_that_runs_ends_its_stall() {
    let mut world = World::waiting();
    world.scan();
    assert_eq!(started(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed]);
    world.cpu += Nanos(1);
    world.now += INTERVAL;
    assert_eq!(
        world.scan(),
        [WorkerChange::Ended { thread: THREAD, elapsed: 2 * THRESHOLD }],
        "as it was confirmed last"
    );
    // The next wait is a stall of its own.
    assert_eq!(started(&world.run(THRESHOLD, |_| ())), [Certainty::Observed]);
}

#[test]
fn a_worker_that_runs_now_and_then_is_never_observed() {
    let mut world = World::waiting();
    let mut scans = 0;
    let changes = world.run(100 * THRESHOLD, |world| {
        scans += 1;
        if scans % 4 == 0 {
            // It publishes as it runs.
            (world.cpu, world.published) = (world.cpu + Nanos(1), world.published + 1);
        }
    });
    assert_eq!(changes, []);
}

#[test]
fn another_unpark_or_frame_starts_from_scratch() {
    for change in [|period: &mut BusyPeriod| period.event += 2, |period: &mut BusyPeriod| period.slot_version += 1] {
        let mut world = World::waiting();
        let mut scans = 0;
        let changes = world.run(50 * THRESHOLD, |world| {
            scans += 1;
            if scans % 4 == 0 {
                change(&mut world.period);
            }
        });
        assert_eq!(changes, []);
    }
}

/// It got no CPU when it was ready: what it waited for before that was shorter.
#[test]
fn a_worker_that_is_ready_to_run_does_not_wait() {
    let mut world = World::waiting();
    world.scan();
    assert_eq!(world.run(THRESHOLD - INTERVAL, |_| ()), []);
    world.inspector.blocked_in = None;
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), []);
    // Another wait than before, though no scan saw it run.
    world.inspector.blocked_in = Some(WAIT);
    let changes = world.run(100 * THRESHOLD, |world| {
        let digest = world.now.0;
        world.inspector.blocked_in = Some(BlockedIn { digest, ..WAIT });
    });
    assert_eq!(changes, []);
}

#[test]
fn a_pause_of_the_process_does_not_count() {
    let mut world = World::waiting();
    world.scan();
    let start = world.now;
    world.now += 100 * THRESHOLD;
    let sleep =
        CheckedSpan { own_run_delay: Some(Nanos::ZERO), ..CheckedSpan::new(start, start + INTERVAL, world.now) };
    world.pauses.record(&sleep, THRESHOLD).expect("a pause");
    assert_eq!(world.scan(), []);
    assert_eq!(world.run(THRESHOLD - INTERVAL, |_| ()), []);
    assert_eq!(started(&world.run(INTERVAL, |_| ())), [Certainty::Observed]);
}

#[test]
fn a_worker_that_computes_in_one_location_is_suspected() {
    let mut world = World::computing();
    world.scan();
    let changes = world.run_busy(15 * THRESHOLD);
    assert_eq!(started(&changes), [], "until then it may be polling others");
    let changes = world.run_busy(3 * THRESHOLD);
    let [
        WorkerChange::Started {
            certainty: Certainty::Suspected, activity: Activity::Computing, start, elapsed, ..
        },
    ] = changes[..]
    else {
        panic!("{changes:?}")
    };
    assert!(start + elapsed <= world.now && elapsed >= 7 * THRESHOLD, "since its first sample: {changes:?}");
    assert_eq!(world.inspector.samples, MIN_SAMPLES);
    // An occasional sample confirms that the stall is ongoing.
    let changes = world.run_busy(100 * THRESHOLD);
    assert!(changes.iter().all(|change| matches!(change, WorkerChange::ReportDue { .. })), "{changes:?}");
    assert!((40..=MIN_SAMPLES + 50).contains(&world.inspector.samples), "{}", world.inspector.samples);
    let before = world.now - start;
    world.published += 1;
    let changes = world.run_busy(INTERVAL);
    let [WorkerChange::Ended { elapsed, .. }] = changes[..] else { panic!("{changes:?}") };
    assert!((before - 2 * THRESHOLD..=before).contains(&elapsed), "by the last sample: {elapsed:?} of {before:?}");
}

#[test]
fn a_worker_that_changes_its_location_ends_its_stall() {
    let suspected = || {
        let mut world = World::computing();
        world.scan();
        assert_eq!(started(&world.run_busy(18 * THRESHOLD)), [Certainty::Suspected]);
        world
    };
    let mut world = suspected();
    world.inspector.location = Some(8);
    assert!(matches!(world.run_busy(3 * THRESHOLD)[..], [WorkerChange::Ended { .. }]));
    // A wait in a call is a stall of its own.
    let mut world = suspected();
    world.inspector.blocked_in = Some(WAIT);
    let changes = world.run(2 * THRESHOLD, |_| ());
    assert!(matches!(changes[0], WorkerChange::Ended { .. }), "{changes:?}");
    assert_eq!(started(&changes), [Certainty::Observed]);
}

#[test]
fn a_worker_that_keeps_changing_its_location_is_not_suspected() {
    let mut world = World::computing();
    let changes = world.run(300 * THRESHOLD, |world| {
        world.cpu += INTERVAL;
        world.inspector.location = Some(world.now.0);
    });
    assert_eq!(changes, []);
    assert!(
        world.inspector.samples <= 300 * 4 / EVENT_INTERVAL as u32 * 4,
        "it is not sampled all the time: {}",
        world.inspector.samples
    );
}

/// Polls of 2 ms, one after the other, or shorter ones: figures are published every 61.
#[test]
fn a_worker_that_publishes_is_not_suspected() {
    let mut world = World::computing();
    let mut busy = Nanos::ZERO;
    let changes = world.run(300 * THRESHOLD, |world| {
        (world.cpu, busy) = (world.cpu + INTERVAL, busy + INTERVAL);
        world.published = busy.0 / (EVENT_INTERVAL * 2 * MS).0;
    });
    assert_eq!(changes, []);
}

#[test]
fn a_starved_worker_is_not_suspected() {
    let mut world = World::computing();
    let changes = world.run(60 * THRESHOLD, |world| {
        world.cpu += INTERVAL / 10;
        world.inspector.run_delay += 9 * INTERVAL / 10;
    });
    assert_eq!(changes, []);
    assert_eq!(world.inspector.samples, 0);
}

#[test]
fn a_failed_sample_says_nothing() {
    let mut world = World::computing();
    let mut scans = 0;
    let changes = world.run(100 * THRESHOLD, |world| {
        (world.cpu, scans) = (world.cpu + INTERVAL, scans + 1);
        world.inspector.location = (scans % 3 == 0).then_some(7);
    });
    assert_eq!(started(&changes), [Certainty::Suspected]);
    assert!(!changes.iter().any(|change| matches!(change, WorkerChange::Ended { .. })), "{changes:?}");
}

#[test]
fn a_worker_of_unknown_location_is_not_suspected() {
    let mut world = World::new();
    world.scan();
    assert_eq!(world.run_busy(100 * THRESHOLD), []);
}

/// A worker that comes and goes costs nothing but its observation.
#[test]
fn short_times_are_not_inspected() {
    let mut world = World::waiting();
    let changes = world.run(100 * THRESHOLD, |world| {
        world.period.event += 2;
        world.cpu += Nanos(1_000);
    });
    assert_eq!((changes.len(), world.inspector.inspections, world.inspector.samples), (0, 0, 0));
}
