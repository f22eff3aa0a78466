//! Runtimes that are well, of which no condition is reported.

use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use test_support::*;
use tokio::runtime::Runtime;

use super::{ONE_AT_A_TIME, bare, ongoing, watched};

/// The time for which each program runs: longer than a condition takes to be found.
const TIME: Duration = Duration::from_secs(3);

/// Asserts that no condition of a runtime was found since the start.
fn assert_silent(watchdog: &Watchdog, what: &str) {
    let snapshot = runtime_of(&watchdog.snapshot(), "main");
    assert_eq!((snapshot.driver_unattended.count, snapshot.hung.count), (0, 0), "{what}: {snapshot:?}");
    assert!(ongoing(watchdog).is_empty(), "{what}");
}

/// Keeps all workers of a runtime busy with short polls.
fn compute(runtime: &Runtime) {
    let started = Instant::now();
    let busy = || async move {
        while started.elapsed() < TIME {
            let poll = Instant::now();
            while poll.elapsed() < Duration::from_micros(200) {}
            tokio::task::yield_now().await;
        }
    };
    let tasks: Vec<_> = (0..16).map(|_| runtime.spawn(busy())).collect();
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
}

/// Runtimes that are well: idle, under full load, with `block_in_place` in all tasks, and with one
/// thread.
#[test]
fn a_runtime_that_is_well_has_no_condition() {
    let _guard = lock(&ONE_AT_A_TIME);
    let run = |what: &str, builder: tokio::runtime::Builder, program: &dyn Fn(&Runtime)| {
        let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
        let runtime = watchdog.build_runtime("main", builder).unwrap();
        program(&runtime);
        assert_silent(&watchdog, what);
    };
    run("idle", multi_thread(4), &|_| std::thread::sleep(TIME));
    run("a timer", multi_thread(4), &|runtime| {
        runtime.block_on(async {
            let started = Instant::now();
            while started.elapsed() < TIME {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
    });
    run("full load", multi_thread(4), &compute);
    run("block_in_place", multi_thread(4), &|runtime| {
        let started = Instant::now();
        let blocking = || async move {
            while started.elapsed() < TIME {
                tokio::task::block_in_place(|| std::thread::sleep(THRESHOLD * 2));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let tasks: Vec<_> = (0..6).map(|_| runtime.spawn(blocking())).collect();
        tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    });
    run("one thread", current_thread(), &|runtime| {
        runtime.block_on(async {
            std::thread::sleep(THRESHOLD * 4);
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
    });
}

/// A runtime that was attached, whose driver is learned from its measured tasks: first it has a
/// timer, then it is idle.
#[test]
fn an_attached_runtime_that_is_well_has_no_condition() {
    let _guard = lock(&ONE_AT_A_TIME);
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
    let runtime = bare(2);
    watchdog.attach("main", runtime.handle()).unwrap();
    let (started, mut is_learned) = (Instant::now(), false);
    while started.elapsed() < TIME {
        let _entered = runtime.enter();
        let timer = watchdog.spawn(tokio::time::sleep(Duration::from_millis(5)));
        runtime.block_on(timer).unwrap();
        is_learned |= watchdog.coverage().runtimes[0].driver_unobserved.is_none();
    }
    assert!(is_learned, "{:?}", watchdog.coverage());
    std::thread::sleep(TIME);
    assert_silent(&watchdog, "attached");
}

/// An idle runtime beside one under full load.
#[test]
fn an_idle_runtime_beside_a_busy_one_has_no_condition() {
    let _guard = lock(&ONE_AT_A_TIME);
    let (watchdog, _idle) = watched(2, true);
    let busy = watchdog.build_runtime("busy", multi_thread(2)).unwrap();
    compute(&busy);
    assert_silent(&watchdog, "beside a busy one");
}

/// A runtime that is shut down while a call blocks a thread of its pool, so that its shutdown
/// lasts, beside another one that keeps the watchdog awake.
#[test]
fn a_runtime_that_is_shut_down_has_no_condition() {
    let _guard = lock(&ONE_AT_A_TIME);
    let (watchdog, runtime) = watched(2, true);
    let busy = watchdog.build_runtime("busy", multi_thread(2)).unwrap();
    let stop = Gate::new();
    let key = stop.key();
    runtime.spawn_blocking(move || key.pass());
    std::thread::scope(|scope| {
        scope.spawn(|| compute(&busy));
        runtime.shutdown_timeout(TIME);
        stop.open();
    });
    assert_silent(&watchdog, "shut down");
}
