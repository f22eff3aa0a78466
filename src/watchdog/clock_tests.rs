//! Tests of a whole watchdog whose CPU counter fails while polls are running.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Watchdog;
use crate::detect::scan;
use crate::measure::primitives::clock::Clock;
use crate::model::stall::{Phase, Stall};
use crate::model::time::Nanos;
use crate::util::lock;

const THRESHOLD: Duration = Duration::from_millis(20);
/// The longest time that a test takes, with room for a busy machine.
const AGE: Duration = Duration::from_secs(3_600);
/// More ticks than a counter makes in a century.
const CENTURIES: i64 = 1 << 60;

struct Fixture {
    watchdog: Watchdog,
    reported: Arc<Mutex<Vec<Stall>>>,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn start() -> Fixture {
        let reported: Arc<Mutex<Vec<Stall>>> = Arc::default();
        let collect = reported.clone();
        let watchdog = Watchdog::builder()
            .threshold(THRESHOLD)
            .log(false)
            .capture_stacks(false)
            .on_stall(move |stall| lock(&collect).push(stall.clone()))
            .start()
            .unwrap();
        let runtime = watchdog.runtime("main").worker_threads(2).enable_all().build().unwrap();
        assert_eq!(watchdog.coverage().clock, "cpu counter", "these tests need a counter");
        Fixture { watchdog, reported, runtime }
    }

    fn clock(&self) -> &Clock {
        &self.watchdog.state.meter.clock
    }

    fn block(&self, time: Duration) {
        let _entered = self.runtime.enter();
        let task = self.watchdog.spawn(async move { std::thread::sleep(time) });
        self.runtime.block_on(task).unwrap();
    }

    /// Runs short polls for a while, and calls `meanwhile` in the middle of it.
    fn poll_while(&self, meanwhile: impl FnOnce()) {
        let _entered = self.runtime.enter();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                self.watchdog.spawn(async {
                    let start = Instant::now();
                    while start.elapsed() < THRESHOLD * 5 {
                        std::thread::sleep(THRESHOLD / 40);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        std::thread::sleep(THRESHOLD * 2);
        meanwhile();
        tasks.into_iter().for_each(|task| self.runtime.block_on(task).unwrap());
    }

    /// Blocks a worker, and asserts that this is reported with the right duration.
    fn assert_finds_a_stall(&self) {
        let blocked = THRESHOLD * 10;
        let known = lock(&self.reported).len();
        let before = Instant::now();
        self.block(blocked);
        let outer = before.elapsed();
        let deadline = Instant::now() + Duration::from_secs(30);
        let is_it = |stall: &&Stall| stall.phase == Phase::Resolved && stall.elapsed >= blocked.mul_f64(0.98);
        loop {
            if let Some(stall) = lock(&self.reported)[known..].iter().find(is_it) {
                assert!(stall.elapsed <= outer + THRESHOLD, "{stall} of {outer:?}");
                break;
            }
            assert!(Instant::now() < deadline, "the stall is not reported: {:#?}", lock(&self.reported));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that no time is one that only the fault explains.
    fn assert_no_time_is_absurd(&self) {
        for stall in lock(&self.reported).iter() {
            assert!(stall.elapsed < AGE, "{stall}");
        }
        let snapshot = self.watchdog.snapshot();
        for runtime in &snapshot.runtimes {
            assert!(runtime.polls.sum < AGE, "{:?}", runtime.polls);
            assert!(runtime.schedule_delay.sum < AGE, "{:?}", runtime.schedule_delay);
            assert!(runtime.blocked_workers == 0, "{}", runtime.blocked_workers);
            for cause in &runtime.stalls {
                assert!(cause.stalls.time < AGE, "{cause:?}");
            }
        }
        for site in &snapshot.sites {
            assert!(site.poll_max < AGE && site.busy < AGE, "{site:?}");
        }
        for allowed in &snapshot.watchdog.allowed_blocking {
            assert!(allowed.time < AGE, "{allowed:?}");
        }
    }
}

#[test]
fn a_counter_that_jumps_forward_makes_no_stall() {
    let fixture = Fixture::start();
    fixture.poll_while(|| fixture.clock().fault().jump(CENTURIES));
    // A poll that spans the jump ends as it would have without it.
    let (clock, watchdog) = (fixture.clock().clone(), fixture.watchdog.clone());
    fixture.block(THRESHOLD * 2);
    let _entered = fixture.runtime.enter();
    let spans = watchdog.spawn(async move {
        std::thread::sleep(THRESHOLD * 4);
        clock.fault().jump(CENTURIES);
        crate::allow_blocking("a test", || {
            std::thread::sleep(THRESHOLD);
            clock.fault().jump(CENTURIES);
        });
        std::thread::sleep(THRESHOLD);
    });
    fixture.runtime.block_on(spans).unwrap();
    fixture.assert_finds_a_stall();
    fixture.assert_no_time_is_absurd();
    let coverage = fixture.watchdog.coverage();
    assert!(coverage.clock_steps >= 1, "{coverage}");
}

/// A scrape may come after a jump and before the watchdog thread has noticed it.
#[test]
fn polls_off_their_worker_have_no_absurd_age() {
    let fixture = Fixture::start();
    let (release, is_released) = std::sync::mpsc::channel::<()>();
    let _entered = fixture.runtime.enter();
    let task = fixture.watchdog.spawn(async move { tokio::task::block_in_place(|| is_released.recv().is_err()) });
    let meter = &fixture.watchdog.state.meter;
    let runtime = meter.runtimes.find(fixture.runtime.handle().id()).unwrap();
    let polls = || scan::off_worker_polls(meter, &runtime, Nanos::ZERO);
    let start = Instant::now();
    while polls().count == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "another thread takes the worker over");
        std::thread::sleep(Duration::from_millis(1));
    }
    for jump in [CENTURIES, CENTURIES, -CENTURIES] {
        fixture.clock().fault().jump(jump);
        let oldest = polls().oldest;
        assert!(oldest < Nanos::from(AGE), "{oldest:?}");
    }
    drop(release);
    assert!(fixture.runtime.block_on(task).unwrap());
}

/// Below its start, the counter says that no time has passed for centuries.
#[test]
fn a_counter_that_jumps_back_is_noticed() {
    let fixture = Fixture::start();
    fixture.clock().fault().jump(CENTURIES);
    fixture.poll_while(|| fixture.clock().fault().jump(-CENTURIES - (1 << 34)));
    fixture.assert_finds_a_stall();
    fixture.assert_no_time_is_absurd();
    let coverage = fixture.watchdog.coverage();
    assert!(coverage.clock_steps >= 1 && coverage.clock_replaced.is_none(), "{coverage}");
    assert!(coverage.to_string().contains("clock: cpu counter; jumps of the CPU's counter: "), "{coverage}");
}

/// As when a machine is restored from a snapshot that was taken while it was idle.
#[test]
fn a_counter_that_jumps_while_the_watchdog_sleeps_is_noticed() {
    for jump in [CENTURIES, -CENTURIES] {
        let fixture = Fixture::start();
        fixture.clock().fault().jump(CENTURIES);
        fixture.poll_while(|| ());
        let wakeups = || fixture.watchdog.snapshot().watchdog.wakeups;
        let deadline = Instant::now() + Duration::from_secs(60);
        // Without a poll the watchdog thread falls asleep after a second.
        let mut last = wakeups();
        loop {
            std::thread::sleep(Duration::from_millis(1_200));
            if last == std::mem::replace(&mut last, wakeups()) {
                break;
            }
            assert!(Instant::now() < deadline, "the watchdog thread does not fall asleep");
        }
        fixture.clock().fault().jump(jump);
        fixture.assert_finds_a_stall();
        fixture.assert_no_time_is_absurd();
        assert!(fixture.watchdog.coverage().clock_steps >= 2);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_counter_that_differs_between_cpus_is_replaced() {
    let fixture = Fixture::start();
    let mut cpus = Vec::new();
    crate::sys::on_each_cpu(|| {
        cpus.extend(crate::sys::current_cpu());
        true
    });
    if !(0..2).all(|odd| cpus.iter().any(|cpu| cpu % 2 == odd)) {
        eprintln!("skipped: this test needs an even and an odd CPU");
        return;
    }
    let before = Instant::now();
    for _ in 0..20 {
        fixture.poll_while(|| fixture.clock().fault().offset_odd_cpus(CENTURIES));
        fixture.block(THRESHOLD * 2);
        if fixture.watchdog.coverage().clock_replaced.is_some() {
            break;
        }
    }
    fixture.assert_finds_a_stall();
    fixture.assert_no_time_is_absurd();
    let coverage = fixture.watchdog.coverage();
    assert_eq!(coverage.clock, "monotonic", "{coverage} after {:?}", before.elapsed());
    assert!(coverage.to_string().contains("clock: monotonic (instead of the CPU's counter, because it "), "{coverage}");
}
