//! The kinds of incidents, each by a program that dies of it. An action ends it, as a supervisor
//! would not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch::{Action, Watchdog, WatchdogBuilder};

use super::fixture::*;
use test_support::*;

/// Prints the kind of each incident and exits.
fn reporting() -> WatchdogBuilder {
    Watchdog::builder()
        .log(false)
        .rescue_driver(false)
        .on_incident(AFTER, Action::call(|incident| println!("{} of {}: {incident}", incident.kind, incident.runtime)))
        .on_incident(2 * AFTER, Action::exit(70))
}

#[track_caller]
fn assert_exits(name: &str, expected: &[&str]) {
    let remains = run_child(name);
    assert_eq!(remains.status.code(), Some(70), "{remains:?}");
    for text in expected {
        assert!(remains.stdout.contains(text), "{text}: {remains:?}");
    }
}

/// A task and a thread of the blocking pool use one lock, and the thread holds it while it waits
/// for a timer. Sooner or later the worker that attends the timers waits for the lock.
#[cfg(target_os = "linux")]
#[test]
fn a_driver_that_nobody_attends() {
    if is_child() {
        let watchdog = reporting().threshold(THRESHOLD).start().unwrap();
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        let mutex = Arc::new(Mutex::new(()));
        let (locked, handle) = (mutex.clone(), runtime.handle().clone());
        spawn_measured(&watchdog, runtime.handle(), async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(lock(&locked));
            }
        });
        runtime.spawn_blocking(move || {
            loop {
                let _guard = lock(&mutex);
                handle.block_on(tokio::time::sleep(Duration::from_millis(5)));
            }
        });
        std::thread::sleep(TIMEOUT);
        panic!("no action has ended the process");
    }
    assert_exits("kinds::a_driver_that_nobody_attends", &["driver_unattended of main: incident #1: ", "stall #"]);
}

/// A waker blocks the worker that has called it from the driver. No other worker can enter it.
#[cfg(target_os = "linux")]
#[test]
fn a_runtime_that_hangs() {
    if is_child() {
        let watchdog = reporting().threshold(THRESHOLD).start().unwrap();
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        let _release = keep_driver(runtime.handle(), Duration::from_millis(50));
        std::thread::sleep(TIMEOUT);
        panic!("no action has ended the process");
    }
    let expected = ["runtime_hung of main: incident #1: ", "the runtime \"main\" hangs, for "];
    assert_exits("kinds::a_runtime_that_hangs", &expected);
}

/// Two requests wait for a third one that never gets a thread of the pool.
#[cfg(tokio_unstable)]
#[test]
fn a_blocking_pool_that_waits_for_itself() {
    if is_child() {
        let watchdog = reporting().threshold(THRESHOLD).blocking_pool_full_after(AFTER).start().unwrap();
        let runtime = watchdog.runtime("main").worker_threads(2).enable_all().max_blocking_threads(2).build().unwrap();
        let both = Arc::new(std::sync::Barrier::new(2));
        for _ in 0..2 {
            let (handle, both) = (runtime.handle().clone(), both.clone());
            runtime.spawn_blocking(move || load_with_both_threads(&handle, &both));
        }
        std::thread::sleep(TIMEOUT);
        panic!("no action has ended the process");
    }
    let expected = ["blocking_pool_full of main: incident #1: ", "all 2 threads are busy, and 2 calls wait for one"];
    assert_exits("kinds::a_blocking_pool_that_waits_for_itself", &expected);
}

/// A call of the pool that waits for another one, which comes too late to get a thread.
#[cfg(tokio_unstable)]
#[inline(never)]
fn load_with_both_threads(handle: &tokio::runtime::Handle, both: &std::sync::Barrier) {
    both.wait();
    handle.block_on(handle.spawn_blocking(|| {})).unwrap();
}

/// Two of four workers lock two mutexes in opposite order. The others are free.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]
#[test]
fn a_deadlock_of_two_workers() {
    if is_child() {
        let watchdog = reporting().threshold(THRESHOLD).start().unwrap();
        let runtime = watchdog.build_runtime("main", multi_thread(4)).unwrap();
        let mutexes = Arc::new([Mutex::new(1), Mutex::new(2)]);
        let both = Arc::new(std::sync::Barrier::new(2));
        for first in [0, 1] {
            let (mutexes, both) = (mutexes.clone(), both.clone());
            spawn_measured(&watchdog, runtime.handle(), async move { transfer(&mutexes, first, &both) });
        }
        std::thread::sleep(TIMEOUT);
        panic!("no action has ended the process");
    }
    let expected = ["deadlock of main: incident #1: threads ", "wait, it seems, for locks of each other"];
    assert_exits("kinds::a_deadlock_of_two_workers", &expected);
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]
#[inline(never)]
fn transfer(mutexes: &[Mutex<u64>; 2], first: usize, both: &std::sync::Barrier) {
    let mut from = mutexes[first].lock().unwrap();
    both.wait();
    *mutexes[1 - first].lock().unwrap() += 1;
    *from -= 1;
}
