//! Current-thread runtimes that are blocked by what is not measured: an unwatched root, a task of a
//! `LocalSet`. They are observed from outside, and nothing else is.

use std::time::Duration;

use pollwatch::{Cause, Certainty, Stall};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use test_support::*;

/// The time for which a test blocks. It is long, since a stack is not read before the unwind tables
/// are.
const BLOCKED: Duration = Duration::from_millis(800);

/// Runs a load on a current-thread runtime, and returns the reports.
fn reports_of(load: impl Fn(&Runtime)) -> (Vec<Stall>, u64) {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    load(&runtime);
    let stalls = reported_so_far(&watchdog, &collected);
    let main = runtime_of(&watchdog.snapshot(), "main");
    (stalls, main.stalls.iter().map(|of_cause| of_cause.stalls.count).sum())
}

fn assert_observed(load: impl Fn(&Runtime)) {
    undisturbed(|| {
        let (stalls, counted) = reports_of(&load);
        let Some(stall) = stalls.last() else { return Err("no report".into()) };
        assert!(stalls.iter().all(|other| other.id == stall.id), "one stall: {stalls:#?}");
        assert_eq!((stall.certainty, stall.worker, counted), (Certainty::Observed, Some(0), 1), "{stall}");
        assert_eq!((stall.cause, stall.reason), (Cause::Syscall, "a sleep"), "{stall}");
        assert!(stall.elapsed_is_lower_bound && stall.elapsed < BLOCKED * 2, "{stall}");
        if stall.elapsed >= BLOCKED * 3 / 4 { Ok(()) } else { Err(stall.to_string()) }
    });
}

fn assert_not_reported(load: impl Fn(&Runtime)) {
    let (stalls, _) = reports_of(load);
    assert!(stalls.is_empty(), "{}", stalls[0]);
}

#[test]
fn an_unwatched_root_is_observed() {
    assert_observed(|runtime| runtime.block_on(async { std::thread::sleep(BLOCKED) }));
}

#[test]
fn a_task_of_a_local_set_is_observed() {
    assert_observed(|runtime| {
        let local = LocalSet::new();
        let blocks = || async { std::thread::sleep(BLOCKED) };
        runtime.block_on(local.run_until(async { tokio::task::spawn_local(blocks()).await.unwrap() }));
    });
}

#[test]
fn a_root_that_awaits_is_not_reported() {
    assert_not_reported(|runtime| {
        let (send, receive) = tokio::sync::oneshot::channel();
        let sends = std::thread::spawn(move || {
            std::thread::sleep(BLOCKED / 2);
            send.send(()).unwrap();
        });
        runtime.block_on(async {
            tokio::time::sleep(BLOCKED / 4).await;
            receive.await.unwrap();
        });
        sends.join().unwrap();
    });
}

/// Without I/O and timers, a park waits for a lock.
#[test]
fn a_root_that_awaits_without_drivers_is_not_reported() {
    let (watchdog, collected) = start(THRESHOLD);
    let builder = tokio::runtime::Builder::new_current_thread();
    let runtime = watchdog.build_runtime("main", builder).unwrap();
    let (send, receive) = tokio::sync::oneshot::channel();
    let sends = std::thread::spawn(move || {
        std::thread::sleep(BLOCKED);
        send.send(()).unwrap();
    });
    runtime.block_on(receive).unwrap();
    sends.join().unwrap();
    let stalls = reported_so_far(&watchdog, &collected);
    assert!(stalls.is_empty(), "{}", stalls[0]);
}

/// The thread that built the runtime may do anything else, and drive another runtime.
#[test]
fn other_blocks_of_the_same_thread_are_not_reported() {
    assert_not_reported(|runtime| {
        runtime.block_on(async { tokio::time::sleep(THRESHOLD).await });
        std::thread::sleep(BLOCKED / 2);
        let other = current_thread().build().unwrap();
        other.block_on(async { std::thread::sleep(BLOCKED / 2) });
        // The runtime is entered, but not driven.
        let _entered = runtime.enter();
        std::thread::sleep(BLOCKED / 2);
    });
}
