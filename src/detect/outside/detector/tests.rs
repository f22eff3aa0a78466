//! The detector with invented clocks and threads.

use super::*;
use crate::detect::pause::Sleep;

const MS: u64 = 1_000_000;
const THRESHOLD: u64 = 10 * MS;
/// Between two scans.
const INTERVAL: u64 = THRESHOLD / 4;

/// An invented worker.
struct World {
    detector: BlockedWorkerDetector,
    pauses: Pauses,
    now: u64,
    mark: (u64, u64),
    progress: u64,
    cpu: u64,
    inspector: Invented,
}

/// What an inspection of it would find.
struct Invented {
    blocked_in: Option<BlockedIn>,
    keeps: bool,
    run_delay: u64,
    location: Option<u64>,
    /// The number of stacks that were sampled.
    samples: u32,
    questions: u32,
}

impl Inspector for Invented {
    fn blocked_in(&mut self, _: u64) -> Option<BlockedIn> {
        self.questions += 1;
        self.blocked_in
    }

    fn keeps_its_worker(&mut self, _: u64) -> bool {
        self.keeps
    }

    fn run_delay(&mut self, _: u64) -> u64 {
        self.run_delay
    }

    fn location(&mut self, _: u64) -> Option<u64> {
        self.samples += 1;
        self.location
    }
}

const WAIT: BlockedIn = BlockedIn { digest: 1, in_call: true, is_shallow: false };

impl World {
    fn new() -> World {
        World {
            detector: BlockedWorkerDetector::new(THRESHOLD),
            pauses: Pauses::default(),
            now: 1_000 * MS,
            mark: (1, 0),
            progress: 0,
            cpu: 0,
            inspector: Invented {
                blocked_in: None,
                keeps: true,
                run_delay: 0,
                location: None,
                samples: 0,
                questions: 0,
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
        WorkerObservation { thread: 1, mark: self.mark, progress: self.progress, cpu: self.cpu, at: self.now }
    }

    fn scan(&mut self) -> Vec<Verdict> {
        let observations = [self.observation()];
        self.detector.step(self.now, &observations, &self.pauses, &mut self.inspector)
    }

    /// Scans for some time, each time after `change`. Returns the verdicts, except that nothing has
    /// changed.
    fn run(&mut self, time: u64, mut change: impl FnMut(&mut World)) -> Vec<Verdict> {
        let end = self.now + time;
        let mut verdicts = Vec::new();
        while self.now < end {
            self.now += INTERVAL;
            change(self);
            verdicts.extend(self.scan().into_iter().filter(|verdict| !matches!(verdict, Verdict::Unchanged { .. })));
        }
        verdicts
    }

    fn run_busy(&mut self, time: u64) -> Vec<Verdict> {
        self.run(time, |world| world.cpu += INTERVAL)
    }

    /// The worker has parked.
    fn park(&mut self) -> Vec<Verdict> {
        self.detector.step(self.now, &[], &self.pauses, &mut self.inspector)
    }
}

fn started(verdicts: &[Verdict]) -> Vec<Certainty> {
    let certainty = |verdict: &Verdict| match verdict {
        Verdict::Started { certainty, .. } => Some(*certainty),
        _ => None,
    };
    verdicts.iter().filter_map(certainty).collect()
}

#[test]
fn a_waiting_worker_is_certain_after_the_threshold() {
    let mut world = World::waiting();
    let begin = world.now;
    assert!(world.scan().is_empty());
    assert_eq!(world.run(THRESHOLD - INTERVAL, |_| ()), []);
    let verdicts = world.run(INTERVAL, |_| ());
    let elapsed = THRESHOLD;
    assert_eq!(
        verdicts,
        [Verdict::Started { thread: 1, certainty: Certainty::Observed, activity: Activity::Waiting, begin, elapsed }]
    );
    // Reported again at 2, 4, 8 thresholds.
    let again = world.run(8 * THRESHOLD, |_| ());
    let thresholds = again.iter().map(|verdict| match verdict {
        Verdict::Continued { elapsed, .. } => elapsed / THRESHOLD,
        other => panic!("{other:?}"),
    });
    assert_eq!(thresholds.collect::<Vec<_>>(), [2, 4, 8]);
    assert_eq!(world.park(), [Verdict::Ended { thread: 1, elapsed: 9 * THRESHOLD }]);
    assert_eq!(world.park(), []);
}

#[test]
fn a_worker_that_runs_ends_its_stall() {
    let mut world = World::waiting();
    world.scan();
    assert_eq!(started(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed]);
    world.cpu += 1;
    world.now += INTERVAL;
    assert_eq!(world.scan(), [Verdict::Ended { thread: 1, elapsed: 2 * THRESHOLD }], "as it was confirmed last");
    // The next wait is a stall of its own.
    assert_eq!(started(&world.run(THRESHOLD, |_| ())), [Certainty::Observed]);
}

#[test]
fn a_worker_that_runs_now_and_then_is_never_certain() {
    let mut world = World::waiting();
    let mut scans = 0;
    let verdicts = world.run(100 * THRESHOLD, |world| {
        scans += 1;
        if scans % 4 == 0 {
            // It publishes as it runs.
            (world.cpu, world.progress) = (world.cpu + 1, world.progress + 1);
        }
    });
    assert_eq!(verdicts, []);
}

#[test]
fn another_unpark_or_frame_starts_from_scratch() {
    for change in [|mark: &mut (u64, u64)| mark.0 += 2, |mark: &mut (u64, u64)| mark.1 += 1] {
        let mut world = World::waiting();
        let mut scans = 0;
        let verdicts = world.run(50 * THRESHOLD, |world| {
            scans += 1;
            if scans % 4 == 0 {
                change(&mut world.mark);
            }
        });
        assert_eq!(verdicts, []);
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
    let verdicts = world.run(100 * THRESHOLD, |world| {
        let digest = world.now;
        world.inspector.blocked_in = Some(BlockedIn { digest, ..WAIT });
    });
    assert_eq!(verdicts, []);
}

#[test]
fn a_worker_that_may_have_been_handed_on_is_suspected_later() {
    for (keeps, in_call) in [(false, true), (true, false)] {
        let mut world = World::waiting();
        (world.inspector.keeps, world.inspector.blocked_in) = (keeps, Some(BlockedIn { in_call, ..WAIT }));
        world.scan();
        assert_eq!(world.run(2 * THRESHOLD - INTERVAL, |_| ()), []);
        assert_eq!(started(&world.run(INTERVAL, |_| ())), [Certainty::Suspected]);
    }
}

#[test]
fn figures_published_meanwhile_are_another_threads() {
    let mut world = World::waiting();
    world.inspector.keeps = false;
    world.scan();
    assert_eq!(started(&world.run(3 * THRESHOLD, |_| ())), [Certainty::Suspected]);
    world.progress += 1;
    assert!(matches!(world.run(INTERVAL, |_| ())[..], [Verdict::Ended { .. }]));
    world.inspector.keeps = true;
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), [], "whatever it does now");
    assert_eq!(world.run_busy(100 * THRESHOLD), []);
    world.mark.0 += 2;
    assert_eq!(started(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed], "it is a worker again");
}

#[test]
fn a_thread_that_is_back_in_the_pool_is_no_worker() {
    let mut world = World::waiting();
    world.inspector.blocked_in = Some(BlockedIn { is_shallow: true, ..WAIT });
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), []);
    assert_eq!(world.inspector.questions, 1, "asked once");
}

#[test]
fn a_pause_of_the_process_does_not_count() {
    let mut world = World::waiting();
    world.scan();
    let begin = world.now;
    world.now += 100 * THRESHOLD;
    let sleep = Sleep { begin, due: begin + INTERVAL, end: world.now, own_run_delay: Some(0), busiest: None };
    world.pauses.note(&sleep, THRESHOLD).expect("a pause");
    assert_eq!(world.scan(), []);
    assert_eq!(world.run(THRESHOLD - INTERVAL, |_| ()), []);
    assert_eq!(started(&world.run(INTERVAL, |_| ())), [Certainty::Observed]);
}

#[test]
fn a_worker_that_computes_in_one_location_is_suspected() {
    let mut world = World::computing();
    world.scan();
    let verdicts = world.run_busy(15 * THRESHOLD);
    assert_eq!(started(&verdicts), [], "until then it may be polling others");
    let verdicts = world.run_busy(3 * THRESHOLD);
    let [Verdict::Started { certainty: Certainty::Suspected, activity: Activity::Computing, begin, elapsed, .. }] =
        verdicts[..]
    else {
        panic!("{verdicts:?}")
    };
    assert!(begin + elapsed <= world.now && elapsed >= 7 * THRESHOLD, "since its first sample: {verdicts:?}");
    assert_eq!(world.inspector.samples, SAMPLES);
    // An occasional sample confirms that the stall is ongoing.
    let verdicts = world.run_busy(100 * THRESHOLD);
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Continued { .. })), "{verdicts:?}");
    assert!((40..=SAMPLES + 50).contains(&world.inspector.samples), "{}", world.inspector.samples);
    let before = world.now - begin;
    world.progress += 1;
    let verdicts = world.run_busy(INTERVAL);
    let [Verdict::Ended { elapsed, .. }] = verdicts[..] else { panic!("{verdicts:?}") };
    assert!((before - 2 * THRESHOLD..=before).contains(&elapsed), "by the last sample: {elapsed} of {before}");
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
    assert!(matches!(world.run_busy(3 * THRESHOLD)[..], [Verdict::Ended { .. }]));
    // A wait in a call is a stall of its own.
    let mut world = suspected();
    world.inspector.blocked_in = Some(WAIT);
    let verdicts = world.run(2 * THRESHOLD, |_| ());
    assert!(matches!(verdicts[0], Verdict::Ended { .. }), "{verdicts:?}");
    assert_eq!(started(&verdicts), [Certainty::Observed]);
}

#[test]
fn a_worker_that_keeps_changing_its_location_is_not_suspected() {
    let mut world = World::computing();
    let verdicts = world.run(300 * THRESHOLD, |world| {
        world.cpu += INTERVAL;
        world.inspector.location = Some(world.now);
    });
    assert_eq!(verdicts, []);
    assert!(
        world.inspector.samples <= 300 * 4 / TICKS as u32 * 4,
        "it is not sampled all the time: {}",
        world.inspector.samples
    );
}

/// Polls of 2 ms, one after the other, or shorter ones: figures are published every 61.
#[test]
fn a_worker_that_publishes_is_not_suspected() {
    let mut world = World::computing();
    let mut busy = 0;
    let verdicts = world.run(300 * THRESHOLD, |world| {
        (world.cpu, busy) = (world.cpu + INTERVAL, busy + INTERVAL);
        world.progress = busy / (TICKS * 2 * MS);
    });
    assert_eq!(verdicts, []);
}

#[test]
fn a_starved_worker_is_not_suspected() {
    let mut world = World::computing();
    let verdicts = world.run(60 * THRESHOLD, |world| {
        world.cpu += INTERVAL / 10;
        world.inspector.run_delay += INTERVAL * 9 / 10;
    });
    assert_eq!(verdicts, []);
    assert_eq!(world.inspector.samples, 0);
}

#[test]
fn a_failed_sample_says_nothing() {
    let mut world = World::computing();
    let mut scans = 0;
    let verdicts = world.run(100 * THRESHOLD, |world| {
        (world.cpu, scans) = (world.cpu + INTERVAL, scans + 1);
        world.inspector.location = (scans % 3 == 0).then_some(7);
    });
    assert_eq!(started(&verdicts), [Certainty::Suspected]);
    assert!(!verdicts.iter().any(|verdict| matches!(verdict, Verdict::Ended { .. })), "{verdicts:?}");
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
    let verdicts = world.run(100 * THRESHOLD, |world| {
        world.mark.0 += 2;
        world.cpu += 1_000;
    });
    assert_eq!((verdicts.len(), world.inspector.questions, world.inspector.samples), (0, 0, 0));
}
