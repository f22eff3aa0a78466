use super::*;

const MS: Nanos = Nanos::from_millis(1);
const T: Nanos = Nanos::from_millis(10);
const THREAD: EntryId = EntryId(7);

/// What the stack of the thread shows, when it waits and when it runs.
struct Stacks {
    waiting: StackFinding,
    running: StackFinding,
    is_held: bool,
    /// False in light scans.
    may_sample: bool,
    /// How often the thread has waited.
    waits: u64,
    captures: u32,
    stops: u32,
}

impl StackInspector for Stacks {
    fn may_sample(&self) -> bool {
        self.may_sample
    }

    fn inspect_waiting(&mut self, _: EntryId, times: Option<RunTimes>) -> StackFinding {
        if times.is_none() && !self.may_sample {
            return StackFinding::Unknown;
        }
        self.captures += 1;
        self.waiting
    }

    fn waits(&mut self, _: EntryId) -> Option<u64> {
        Some(self.waits)
    }

    fn is_held(&mut self, _: EntryId) -> bool {
        self.is_held
    }

    fn sample_running(&mut self, _: EntryId) -> StackFinding {
        if !self.may_sample {
            return StackFinding::Unknown;
        }
        self.stops += 1;
        self.waits += 1;
        self.running
    }
}

fn in_poll(location: u64) -> StackFinding {
    StackFinding::InPoll { location, certainty: Certainty::Observed }
}

fn stacks(waiting: StackFinding, running: StackFinding) -> Stacks {
    Stacks { waiting, running, is_held: false, may_sample: true, waits: 0, captures: 0, stops: 0 }
}

struct Scene {
    detector: BlockedThreadDetector,
    stacks: Stacks,
    /// Milliseconds.
    now: u64,
    times: RunTimes,
}

impl Scene {
    fn new(stacks: Stacks) -> Scene {
        Scene { detector: BlockedThreadDetector::new(T), stacks, now: 0, times: RunTimes::default() }
    }

    /// Scans every 2 ms for `time` milliseconds, of which the thread runs `cpu` tenths, and is
    /// given a CPU anew in each scan if `switches`.
    fn run(&mut self, time: u64, cpu: u64, switches: bool) -> Vec<WorkerChange> {
        let mut changes = Vec::new();
        for _ in 0..time / 2 {
            self.now += 2;
            self.times.cpu += Nanos(cpu * 2 * MS.0 / 10);
            self.times.runs += u64::from(switches);
            let (at, times) = (self.now * MS, self.times);
            let scan = ThreadScan { thread: THREAD, at, times, unchanged_since: at };
            changes.extend(self.detector.step(&[scan], &mut self.stacks));
        }
        changes
    }
}

fn started(changes: &[WorkerChange]) -> Vec<(Certainty, Activity, Nanos, Nanos)> {
    let start = |change: &WorkerChange| match *change {
        WorkerChange::Started { certainty, activity, start, elapsed, .. } => {
            Some((certainty, activity, start, elapsed))
        }
        _ => None,
    };
    changes.iter().filter_map(start).collect()
}

fn ended(changes: &[WorkerChange]) -> Vec<Nanos> {
    let end = |change: &WorkerChange| match *change {
        WorkerChange::Ended { elapsed, .. } => Some(elapsed),
        _ => None,
    };
    changes.iter().filter_map(end).collect()
}

#[test]
fn a_wait_in_a_task_is_observed_and_ends_when_the_thread_runs() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    let changes = scene.run(100, 0, false);
    assert_eq!(started(&changes), [(Certainty::Observed, Activity::Waiting, 2 * MS, 10 * MS)]);
    let reports = changes.iter().filter(|change| matches!(change, WorkerChange::ReportDue { .. })).count();
    assert_eq!(reports, 3, "at 20, 40 and 80 ms");
    assert!(ended(&changes).is_empty());
    assert_eq!(ended(&scene.run(2, 1, true)), [98 * MS]);
    assert_eq!(scene.stacks.stops, 0, "what waits is never stopped");
}

/// A thread of the pool that was handed a worker has waited since before that was known.
#[test]
fn a_wait_starts_with_the_first_reading_of_its_counts() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    let scan = |at: u64| ThreadScan { thread: THREAD, at: at * MS, times: scene.times, unchanged_since: 3 * MS };
    assert!(scene.detector.step(&[scan(8)], &mut scene.stacks).is_empty());
    let changes = scene.detector.step(&[scan(13)], &mut scene.stacks);
    assert_eq!(started(&changes), [(Certainty::Observed, Activity::Waiting, 3 * MS, 10 * MS)]);
}

#[test]
fn scans_are_close_while_a_thread_may_be_blocked() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    scene.run(4, 0, false);
    assert!(scene.detector.needs_close_scans(), "it waits");
    scene.run(40, 0, false);
    assert!(scene.detector.needs_close_scans(), "it is blocked");
    let mut parked = Scene::new(stacks(StackFinding::BlocksNothing, StackFinding::Unknown));
    parked.run(40, 0, false);
    assert!(!parked.detector.needs_close_scans(), "it is parked");
    parked.run(2, 1, true);
    assert!(!parked.detector.needs_close_scans(), "it has run since the scan before");
}

#[test]
fn a_parked_worker_is_captured_once_a_wait() {
    let mut scene = Scene::new(stacks(StackFinding::BlocksNothing, StackFinding::Unknown));
    assert!(scene.run(10_000, 0, false).is_empty());
    let once = scene.stacks.captures;
    assert!(once <= 4, "{once} captures");
    assert!(scene.run(2, 1, true).is_empty() && scene.run(10_000, 0, false).is_empty());
    assert!(scene.stacks.captures <= 2 * once + 2);
}

#[test]
fn a_wait_that_is_shorter_than_the_threshold_is_no_stall() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    scene.run(2, 0, true);
    let changes = scene.run(8, 0, false);
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn a_stack_that_could_not_be_captured_is_tried_again() {
    let mut scene = Scene::new(stacks(StackFinding::Unknown, StackFinding::Unknown));
    assert!(scene.run(50, 0, false).is_empty());
    scene.stacks.waiting = in_poll(1);
    assert_eq!(started(&scene.run(2, 0, false)), [(Certainty::Observed, Activity::Waiting, 2 * MS, 50 * MS)]);
}

#[test]
fn a_thread_that_computes_in_one_location_is_suspected() {
    let mut scene = Scene::new(stacks(StackFinding::Runs, in_poll(1)));
    let changes = scene.run(60, 10, false);
    let started = started(&changes);
    assert_eq!(started.len(), 1, "{changes:?}");
    assert_eq!((started[0].0, started[0].1), (Certainty::Suspected, Activity::Computing));
    assert!(started[0].3 >= T);
    // The worker parks.
    scene.stacks = stacks(StackFinding::BlocksNothing, StackFinding::Unknown);
    assert_eq!(ended(&scene.run(30, 0, false)).len(), 1);
}

#[test]
fn a_thread_that_moves_between_tasks_is_not_suspected() {
    let mut scene = Scene::new(stacks(StackFinding::Runs, in_poll(1)));
    for location in 0..200 {
        scene.stacks.running = in_poll(location);
        let changes = scene.run(4, 10, false);
        assert!(changes.is_empty(), "{changes:?}");
    }
    assert!(scene.stacks.stops > 50 && scene.stacks.stops < 250, "{} stops", scene.stacks.stops);
}

#[test]
fn an_idle_worker_is_never_stopped() {
    let mut scene = Scene::new(stacks(StackFinding::BlocksNothing, in_poll(1)));
    assert!(scene.run(2_000, 3, true).is_empty());
    assert_eq!(scene.stacks.stops, 0);
}

#[test]
fn short_waits_in_one_location_are_suspected() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    let changes = scene.run(60, 1, true);
    assert_eq!(started(&changes).len(), 1, "{changes:?}");
    assert_eq!(started(&changes)[0].0, Certainty::Suspected);
    assert_eq!(scene.stacks.stops, 0);
}

#[test]
fn a_long_wait_after_a_computation_is_a_stall_of_its_own() {
    let mut scene = Scene::new(stacks(StackFinding::Runs, in_poll(1)));
    scene.run(60, 10, false);
    scene.stacks.waiting = in_poll(1);
    let changes = scene.run(40, 0, false);
    assert_eq!(ended(&changes).len(), 1, "{changes:?}");
    assert_eq!(started(&changes)[0].0, Certainty::Observed);
}

#[test]
fn a_pause_ends_stalls_and_evidence() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    assert_eq!(started(&scene.run(20, 0, false)).len(), 1);
    assert_eq!(scene.detector.pause().len(), 1);
    assert!(scene.run(10, 0, false).is_empty(), "the threshold counts from the end of the pause");
}

#[test]
fn a_thread_that_is_gone_ends_its_stall() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    scene.run(20, 0, false);
    assert_eq!(ended(&scene.detector.step(&[], &mut scene.stacks)).len(), 1);
    assert!(scene.detector.threads.is_empty());
}

#[test]
fn a_computation_after_a_wait_is_a_suspected_stall_of_its_own() {
    let mut scene = Scene::new(stacks(in_poll(1), in_poll(1)));
    scene.run(30, 0, false);
    // The thread runs: the wait is over, and what follows starts with its own samples.
    scene.stacks.waiting = StackFinding::Runs;
    let first = scene.run(2, 10, true);
    assert_eq!((ended(&first), started(&first)), (vec![28 * MS], vec![]), "{first:?}");
    let changes = scene.run(60, 10, true);
    let found: Vec<_> = started(&changes).iter().map(|(certainty, _, start, _)| (*certainty, *start)).collect();
    assert_eq!(found.len(), 1, "{changes:?}");
    assert!(found[0].0 == Certainty::Suspected && found[0].1 >= 32 * MS, "{changes:?}");
}

#[test]
fn a_long_computation_stays_suspected() {
    let mut scene = Scene::new(stacks(StackFinding::Runs, in_poll(1)));
    let changes = scene.run(5_000, 10, false);
    let found: Vec<_> = started(&changes).iter().map(|(certainty, ..)| *certainty).collect();
    assert_eq!(found, [Certainty::Suspected], "no time makes samples a proof");
}

#[test]
fn a_thread_that_is_held_is_no_stall_and_ends_one() {
    let mut scene = Scene::new(stacks(in_poll(1), in_poll(1)));
    scene.stacks.is_held = true;
    let changes = scene.run(100, 0, false);
    assert!(changes.is_empty(), "{changes:?}");
    // It runs when it is released, and the wait counts from then on.
    scene.stacks.is_held = false;
    scene.run(2, 0, true);
    assert_eq!(started(&scene.run(20, 0, false)), [(Certainty::Observed, Activity::Waiting, 102 * MS, 10 * MS)]);
    scene.stacks.is_held = true;
    assert_eq!(ended(&scene.run(100, 0, false)).len(), 1);
    assert!(scene.run(100, 0, true).is_empty(), "samples of a held thread are none");
}

#[test]
fn a_thread_that_waits_between_samples_may_have_parked() {
    let mut scene = Scene::new(stacks(StackFinding::Runs, in_poll(1)));
    for _ in 0..500 {
        // A poll of the same code, again and again, and a short park after each.
        let changes = scene.run(4, 10, true);
        scene.stacks.waits += 1;
        assert!(changes.is_empty(), "{changes:?}");
    }
    assert!(scene.stacks.stops > 100);
    // One poll.
    assert_eq!(started(&scene.run(60, 10, false)).len(), 1);
    // It has ended.
    scene.stacks.waits += 1;
    assert_eq!(ended(&scene.run(200, 10, true)).len(), 1);
}

#[test]
fn a_park_refutes_short_waits() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    for _ in 0..100 {
        scene.stacks.waiting = in_poll(1);
        let changes = scene.run(16, 1, true);
        assert!(changes.is_empty(), "{changes:?}");
        scene.stacks.waiting = StackFinding::BlocksNothing;
        let changes = scene.run(2, 1, true);
        assert!(changes.is_empty(), "{changes:?}");
    }
}

#[test]
fn short_waits_around_a_light_scan_do_not_belong_together() {
    let mut scene = Scene::new(stacks(in_poll(1), StackFinding::Unknown));
    let mut light = |may_sample: bool, cpu: u64| {
        scene.stacks.may_sample = may_sample;
        scene.run(if may_sample { 16 } else { 2 }, cpu, cpu > 0)
    };
    for _ in 0..100 {
        // The thread runs in the light scan, in which its park is not found.
        let changes = [light(true, 1), light(false, 1)].concat();
        assert!(changes.is_empty(), "{changes:?}");
    }
    // A thread that does not run is in the same poll still.
    let changes: Vec<_> = (0..4).flat_map(|_| [light(true, 1), light(false, 0)].concat()).collect();
    assert_eq!(started(&changes).len(), 1, "{changes:?}");
}
