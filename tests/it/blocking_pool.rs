//! Tests that a full pool for blocking work is reported. tokio publishes its load with
//! `tokio_unstable` only.

use std::time::Duration;

#[cfg(tokio_unstable)]
use pollwatch::{Condition, ConditionKind, Phase};
use pollwatch::{Watchdog, WatchdogBuilder};

use test_support::*;

const AFTER: Duration = Duration::from_millis(200);

fn builder() -> WatchdogBuilder {
    Watchdog::builder().threshold(THRESHOLD).log(false).blocking_pool_full_after(AFTER)
}

#[cfg(tokio_unstable)]
fn full(watchdog: &Watchdog) -> Option<Condition> {
    watchdog.conditions().into_iter().find(|condition| condition.kind == ConditionKind::BlockingPoolFull)
}

#[cfg(tokio_unstable)]
#[inline(never)]
fn occupies_the_pool(key: &Key) -> bool {
    std::hint::black_box(key.pass())
}

/// Two calls block a pool of two threads, and a file operation waits behind them.
#[test]
#[cfg(tokio_unstable)]
fn a_full_pool_is_reported_with_its_threads() {
    let watchdog = builder().start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().max_blocking_threads(2).build().unwrap();
    // The threads of another pool are not in the report.
    let other =
        watchdog.runtime("other runtime").worker_threads(1).enable_all().max_blocking_threads(9).build().unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let elsewhere = other.spawn_blocking(move || key.pass());
    let blocked: Vec<_> = (0..2)
        .map(|_| {
            let key = gate.key();
            runtime.spawn_blocking(move || occupies_the_pool(&key))
        })
        .collect();
    let counts = || {
        let metrics = runtime.handle().metrics();
        (metrics.num_blocking_threads(), metrics.num_idle_blocking_threads(), metrics.blocking_queue_depth())
    };
    wait_equal("both threads are busy", &(2, 0, 0), counts);
    assert!(full(&watchdog).is_none(), "nothing waits");
    let file = runtime.spawn(tokio::fs::read("Cargo.toml"));
    let condition = wait_for("the pool is full", || full(&watchdog));
    assert_eq!((&*condition.runtime, condition.phase), ("main", Phase::Ongoing));
    assert!(condition.duration >= AFTER, "{condition}");
    let pool = condition.blocking_pool.as_ref().expect("its load");
    assert_eq!((pool.threads, pool.waiting), (2, 1));
    let text = condition.to_string();
    assert!(text.contains("all 2 threads are busy, and 1 call waits for one"), "{text}");
    let snapshot = || runtime_of(&watchdog.snapshot(), "main");
    assert_eq!((snapshot().blocking_pool_is_full, snapshot().blocking_pool_full.count), (Some(true), 1));
    #[cfg(all(feature = "capture", target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    {
        // Symbols may take longer than the report waits for them. A later reading has them.
        let named = |condition: &Condition| {
            let groups = &condition.blocking_pool.as_ref().unwrap().groups;
            let is_it = |frame: &pollwatch::Frame| frame.name().contains("occupies_the_pool");
            groups.iter().any(|group| group.stack.as_ref().is_some_and(|stack| stack.frames().iter().any(is_it)))
        };
        let condition = wait_for("the threads' stacks", || full(&watchdog).filter(named));
        assert!(condition.to_string().contains("2 in "), "{condition}");
        let groups = &condition.blocking_pool.as_ref().unwrap().groups;
        assert_eq!(groups.iter().map(|group| group.count).sum::<usize>(), 2, "{condition}");
    }
    gate.open();
    assert!(!runtime.block_on(file).unwrap().unwrap().is_empty());
    wait_until("it is over", || full(&watchdog).is_none());
    let after = snapshot();
    assert_eq!((after.blocking_pool_is_full, after.blocking_pool_full.count), (Some(false), 1));
    assert!(after.blocking_pool_full.time >= condition.duration);
    blocked.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap()));
    assert!(other.block_on(elsewhere).unwrap());
}

/// No poll wakes the watchdog: a thread outside of the runtime has queued the call that waits.
#[test]
#[cfg(tokio_unstable)]
fn a_full_pool_of_an_idle_runtime_is_found() {
    let watchdog = builder().start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(1).enable_all().max_blocking_threads(1).build().unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let occupied = runtime.spawn_blocking(move || key.pass());
    let metrics = runtime.handle().metrics();
    wait_until("the thread is busy", || metrics.num_blocking_threads() == 1);
    // The watchdog sleeps until a poll, once it has found none for a second.
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    let mut before = wakeups();
    wait_until("the watchdog sleeps", || {
        std::thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut before, wakeups()) == before
    });
    let waiting = runtime.spawn_blocking(|| ());
    wait_for("the pool is full", || full(&watchdog));
    gate.open();
    runtime.block_on(async { (occupied.await.unwrap(), waiting.await.unwrap()) });
    wait_until("it is over", || full(&watchdog).is_none());
}

/// Busy threads alone, and a pool that takes its calls, are no condition.
#[test]
#[cfg(tokio_unstable)]
fn a_busy_pool_that_takes_its_calls_is_not_full() {
    let watchdog = builder().start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().max_blocking_threads(4).build().unwrap();
    let gate = Gate::new();
    let blocked: Vec<_> = (0..3)
        .map(|_| {
            let key = gate.key();
            runtime.spawn_blocking(move || key.pass())
        })
        .collect();
    let start = std::time::Instant::now();
    let mut calls = 0;
    while start.elapsed() < 5 * AFTER {
        runtime.block_on(runtime.spawn_blocking(|| std::thread::sleep(Duration::from_millis(2)))).unwrap();
        calls += 1;
    }
    assert!(calls > 0);
    let snapshot = runtime_of(&watchdog.snapshot(), "main");
    assert_eq!((snapshot.blocking_pool_is_full, snapshot.blocking_pool_full.count), (Some(false), 0));
    gate.open();
    blocked.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap()));
}

#[test]
fn the_coverage_says_whether_the_load_is_known() {
    let watchdog = builder().start().unwrap();
    let _runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let coverage = watchdog.coverage();
    assert_eq!(coverage.runtimes[0].blocking_pool, cfg!(tokio_unstable));
    let text = coverage.to_string();
    assert_eq!(text.contains("whether its blocking pool is full is unknown"), !cfg!(tokio_unstable), "{text}");
}

#[test]
fn the_time_has_a_lower_limit() {
    for bad in [Duration::ZERO, Duration::from_millis(9)] {
        let error = Watchdog::builder().log(false).blocking_pool_full_after(bad).start().unwrap_err();
        assert!(error.to_string().contains("blocking_pool_full_after must be at least 10ms"), "{error}");
    }
    let off = Watchdog::builder().log(false).blocking_pool_full_after(Duration::MAX).start().unwrap();
    assert!(off.conditions().is_empty());
}
