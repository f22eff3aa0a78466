//! With made-up clocks and threads.

use super::*;
use crate::detect::pause::Sleep;

const MS: u64 = 1_000_000;
const THRESHOLD: u64 = 10 * MS;
/// Between two looks.
const LOOK: u64 = THRESHOLD / 4;

/// A made-up worker.
struct World {
    suspects: BlockedWorkerDetector,
    pauses: Pauses,
    now: u64,
    mark: (u64, u64),
    progress: u64,
    cpu: u64,
    inspector: Made,
}

/// What it would be found to do.
struct Made {
    wait: Option<BlockedIn>,
    keeps: bool,
    starved: u64,
    place: Option<u64>,
    /// How often a stack was taken.
    places: u32,
    waits: u32,
}

impl Inspector for Made {
    fn blocked_in(&mut self, _: u64) -> Option<BlockedIn> {
        self.waits += 1;
        self.wait
    }

    fn keeps_its_worker(&mut self, _: u64) -> bool {
        self.keeps
    }

    fn run_delay(&mut self, _: u64) -> u64 {
        self.starved
    }

    fn location(&mut self, _: u64) -> Option<u64> {
        self.places += 1;
        self.place
    }
}

const WAIT: BlockedIn = BlockedIn { digest: 1, in_call: true, is_shallow: false };

impl World {
    fn new() -> World {
        World {
            suspects: BlockedWorkerDetector::new(THRESHOLD),
            pauses: Pauses::default(),
            now: 1_000 * MS,
            mark: (1, 0),
            progress: 0,
            cpu: 0,
            inspector: Made { wait: None, keeps: true, starved: 0, place: None, places: 0, waits: 0 },
        }
    }

    /// It waits in a system call.
    fn standing() -> World {
        let mut world = World::new();
        world.inspector.wait = Some(WAIT);
        world
    }

    /// It computes at one place.
    fn computing() -> World {
        let mut world = World::new();
        world.inspector.place = Some(7);
        world
    }

    fn observation(&self) -> WorkerObservation {
        WorkerObservation { thread: 1, mark: self.mark, progress: self.progress, cpu: self.cpu, at: self.now }
    }

    fn look(&mut self) -> Vec<Verdict> {
        let look = [self.observation()];
        self.suspects.step(self.now, &look, &self.pauses, &mut self.inspector)
    }

    /// Looks for some time, after `change` each time; the verdicts but for those that it goes on.
    fn run(&mut self, time: u64, mut change: impl FnMut(&mut World)) -> Vec<Verdict> {
        let end = self.now + time;
        let mut told = Vec::new();
        while self.now < end {
            self.now += LOOK;
            change(self);
            told.extend(self.look().into_iter().filter(|verdict| !matches!(verdict, Verdict::Unchanged { .. })));
        }
        told
    }

    fn run_busy(&mut self, time: u64) -> Vec<Verdict> {
        self.run(time, |world| world.cpu += LOOK)
    }

    /// It has parked.
    fn park(&mut self) -> Vec<Verdict> {
        self.suspects.step(self.now, &[], &self.pauses, &mut self.inspector)
    }
}

fn began(verdicts: &[Verdict]) -> Vec<Certainty> {
    let certainty = |verdict: &Verdict| match verdict {
        Verdict::Started { certainty, .. } => Some(*certainty),
        _ => None,
    };
    verdicts.iter().filter_map(certainty).collect()
}

#[test]
fn one_that_stands_is_certain_after_the_threshold() {
    let mut world = World::standing();
    let begin = world.now;
    assert!(world.look().is_empty());
    assert_eq!(world.run(THRESHOLD - LOOK, |_| ()), []);
    let told = world.run(LOOK, |_| ());
    let elapsed = THRESHOLD;
    assert_eq!(told, [Verdict::Started { thread: 1, certainty: Certainty::Observed, stands: true, begin, elapsed }]);
    // Told again at 2, 4, 8.
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
fn one_that_runs_ends_its_stall() {
    let mut world = World::standing();
    world.look();
    assert_eq!(began(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed]);
    world.cpu += 1;
    world.now += LOOK;
    assert_eq!(world.look(), [Verdict::Ended { thread: 1, elapsed: 2 * THRESHOLD }], "by what was seen last");
    // The next wait is one of its own.
    assert_eq!(began(&world.run(THRESHOLD, |_| ())), [Certainty::Observed]);
}

#[test]
fn one_that_runs_now_and_then_is_never_certain() {
    let mut world = World::standing();
    let mut looks = 0;
    let told = world.run(100 * THRESHOLD, |world| {
        looks += 1;
        if looks % 4 == 0 {
            // Which is how it also publishes.
            (world.cpu, world.progress) = (world.cpu + 1, world.progress + 1);
        }
    });
    assert_eq!(told, []);
}

#[test]
fn another_unpark_or_frame_begins_anew() {
    for change in [|mark: &mut (u64, u64)| mark.0 += 2, |mark: &mut (u64, u64)| mark.1 += 1] {
        let mut world = World::standing();
        let mut looks = 0;
        let told = world.run(50 * THRESHOLD, |world| {
            looks += 1;
            if looks % 4 == 0 {
                change(&mut world.mark);
            }
        });
        assert_eq!(told, []);
    }
}

/// It was given no CPU when it was ready: what it waited for before that was shorter.
#[test]
fn one_that_is_ready_to_run_does_not_stand() {
    let mut world = World::standing();
    world.look();
    assert_eq!(world.run(THRESHOLD - LOOK, |_| ()), []);
    world.inspector.wait = None;
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), []);
    // Another wait than before, though nobody saw it run.
    world.inspector.wait = Some(WAIT);
    let told = world.run(100 * THRESHOLD, |world| {
        let digest = world.now;
        world.inspector.wait = Some(BlockedIn { digest, ..WAIT });
    });
    assert_eq!(told, []);
}

#[test]
fn where_it_may_have_been_handed_on_it_is_suspected_later() {
    for (keeps, in_call) in [(false, true), (true, false)] {
        let mut world = World::standing();
        (world.inspector.keeps, world.inspector.wait) = (keeps, Some(BlockedIn { in_call, ..WAIT }));
        world.look();
        assert_eq!(world.run(2 * THRESHOLD - LOOK, |_| ()), []);
        assert_eq!(began(&world.run(LOOK, |_| ())), [Certainty::Suspected]);
    }
}

#[test]
fn what_is_published_meanwhile_is_another_threads() {
    let mut world = World::standing();
    world.inspector.keeps = false;
    world.look();
    assert_eq!(began(&world.run(3 * THRESHOLD, |_| ())), [Certainty::Suspected]);
    world.progress += 1;
    assert!(matches!(world.run(LOOK, |_| ())[..], [Verdict::Ended { .. }]));
    world.inspector.keeps = true;
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), [], "whatever it does now");
    assert_eq!(world.run_busy(100 * THRESHOLD), []);
    world.mark.0 += 2;
    assert_eq!(began(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed], "it is a worker again");
}

#[test]
fn one_that_is_back_in_the_pool_is_no_worker() {
    let mut world = World::standing();
    world.inspector.wait = Some(BlockedIn { is_shallow: true, ..WAIT });
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), []);
    assert_eq!(world.inspector.waits, 1, "asked once");
}

#[test]
fn a_standstill_of_the_process_is_left_out() {
    let mut world = World::standing();
    world.look();
    let begin = world.now;
    world.now += 100 * THRESHOLD;
    let sleep = Sleep { begin, due: begin + LOOK, end: world.now, own_run_delay: Some(0), busiest: None };
    world.pauses.note(&sleep, THRESHOLD).expect("a pause");
    assert_eq!(world.look(), []);
    assert_eq!(world.run(THRESHOLD - LOOK, |_| ()), []);
    assert_eq!(began(&world.run(LOOK, |_| ())), [Certainty::Observed]);
}

#[test]
fn one_that_computes_in_one_place_is_suspected() {
    let mut world = World::computing();
    world.look();
    let told = world.run_busy(15 * THRESHOLD);
    assert_eq!(began(&told), [], "so long it may be polling others");
    let told = world.run_busy(3 * THRESHOLD);
    let [Verdict::Started { certainty: Certainty::Suspected, stands: false, begin, elapsed, .. }] = told[..] else {
        panic!("{told:?}")
    };
    assert!(begin + elapsed <= world.now && elapsed >= 7 * THRESHOLD, "since the first of its samples: {told:?}");
    assert_eq!(world.inspector.places, SAMPLES);
    // A stack now and then tells that it goes on.
    let told = world.run_busy(100 * THRESHOLD);
    assert!(told.iter().all(|verdict| matches!(verdict, Verdict::Continued { .. })), "{told:?}");
    assert!((40..=SAMPLES + 50).contains(&world.inspector.places), "{}", world.inspector.places);
    let before = world.now - begin;
    world.progress += 1;
    let told = world.run_busy(LOOK);
    let [Verdict::Ended { elapsed, .. }] = told[..] else { panic!("{told:?}") };
    assert!((before - 2 * THRESHOLD..=before).contains(&elapsed), "by the last sample: {elapsed} of {before}");
}

#[test]
fn one_that_goes_elsewhere_computes_there_no_more() {
    let suspected = || {
        let mut world = World::computing();
        world.look();
        assert_eq!(began(&world.run_busy(18 * THRESHOLD)), [Certainty::Suspected]);
        world
    };
    let mut world = suspected();
    world.inspector.place = Some(8);
    assert!(matches!(world.run_busy(3 * THRESHOLD)[..], [Verdict::Ended { .. }]));
    // It waits in a call, which is a stall of its own.
    let mut world = suspected();
    world.inspector.wait = Some(WAIT);
    let told = world.run(2 * THRESHOLD, |_| ());
    assert!(matches!(told[0], Verdict::Ended { .. }), "{told:?}");
    assert_eq!(began(&told), [Certainty::Observed]);
}

#[test]
fn one_that_moves_on_is_not() {
    let mut world = World::computing();
    let told = world.run(300 * THRESHOLD, |world| {
        world.cpu += LOOK;
        world.inspector.place = Some(world.now);
    });
    assert_eq!(told, []);
    assert!(
        world.inspector.places <= 300 * 4 / TICKS as u32 * 4,
        "and is not asked all the time: {}",
        world.inspector.places
    );
}

/// Polls of 2 ms, one after the other, or shorter ones: published every 61.
#[test]
fn one_that_publishes_is_not() {
    let mut world = World::computing();
    let mut busy = 0;
    let told = world.run(300 * THRESHOLD, |world| {
        (world.cpu, busy) = (world.cpu + LOOK, busy + LOOK);
        world.progress = busy / (TICKS * 2 * MS);
    });
    assert_eq!(told, []);
}

#[test]
fn one_that_is_starved_is_not() {
    let mut world = World::computing();
    let told = world.run(60 * THRESHOLD, |world| {
        world.cpu += LOOK / 10;
        world.inspector.starved += LOOK * 9 / 10;
    });
    assert_eq!(told, []);
    assert_eq!(world.inspector.places, 0);
}

#[test]
fn a_sample_that_fails_tells_nothing() {
    let mut world = World::computing();
    let mut looks = 0;
    let told = world.run(100 * THRESHOLD, |world| {
        (world.cpu, looks) = (world.cpu + LOOK, looks + 1);
        world.inspector.place = (looks % 3 == 0).then_some(7);
    });
    assert_eq!(began(&told), [Certainty::Suspected]);
    assert!(!told.iter().any(|verdict| matches!(verdict, Verdict::Ended { .. })), "{told:?}");
}

#[test]
fn what_cannot_be_told_is_not_suspected() {
    let mut world = World::new();
    world.look();
    assert_eq!(world.run_busy(100 * THRESHOLD), []);
}

/// A worker that comes and goes costs nothing but its look.
#[test]
fn short_times_are_not_asked_about() {
    let mut world = World::standing();
    let told = world.run(100 * THRESHOLD, |world| {
        world.mark.0 += 2;
        world.cpu += 1_000;
    });
    assert_eq!((told.len(), world.inspector.waits, world.inspector.places), (0, 0, 0));
}
