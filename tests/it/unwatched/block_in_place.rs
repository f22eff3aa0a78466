//! Workers that are handed over to another thread of the pool, and pool threads that are no
//! workers.

use std::time::Instant;

use pollwatch::Certainty;
use tokio::task::block_in_place;

use super::{assert_not_reported, build, observed, settle};
use test_support::*;

/// The thread that blocks is no longer a worker, and waits in the pool afterwards.
#[test]
fn a_worker_handed_over_is_not_reported() {
    assert_not_reported(THRESHOLD, 1, |runtime| {
        for _ in 0..3 {
            let task = runtime.spawn(async {
                block_in_place(|| block(THRESHOLD * 5));
            });
            runtime.block_on(task).unwrap();
            settle(runtime);
        }
        runtime.block_on(async { tokio::time::sleep(THRESHOLD * 10).await });
    });
}

/// A handed-over worker is not reported either while its new thread is always busy.
#[test]
fn a_busy_worker_handed_over_is_not_reported() {
    assert_not_reported(THRESHOLD, 1, |runtime| {
        let gate = Gate::new();
        let key = gate.key();
        let blocked = runtime.spawn(async move { block_in_place(move || key.pass()) });
        let busy = runtime.spawn(async {
            let started = Instant::now();
            while started.elapsed() < THRESHOLD * 20 {
                yield_once().await;
            }
        });
        runtime.block_on(busy).unwrap();
        gate.open();
        assert!(runtime.block_on(blocked).unwrap());
    });
}

/// The new worker thread may block as well. Then it is unknown which thread has the worker.
#[test]
fn a_blocked_worker_handed_over_is_never_observed() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = build(&watchdog, 1);
    let gate = Gate::new();
    let (key, other) = (gate.key(), gate.key());
    let in_place = runtime.spawn(async move {
        // The task is queued before the worker is handed over.
        tokio::spawn(async move { other.pass() });
        block_in_place(move || key.pass())
    });
    wait_for("the stall is suspected", || collected.all().into_iter().find(|s| s.certainty == Certainty::Suspected));
    gate.open();
    assert!(runtime.block_on(in_place).unwrap());
    collected.wait_resolved("main");
    assert!(observed(&collected.all()).is_empty(), "{:?}", collected.all());
}

/// If no thread can take the worker over, it is blocked.
#[test]
fn block_in_place_with_a_full_pool_is_observed() {
    let (watchdog, collected) = start(THRESHOLD);
    let mut builder = multi_thread(1);
    let runtime = watchdog.build_runtime("main", builder.max_blocking_threads(1)).unwrap();
    let gate = Gate::new();
    let (key, other) = (gate.key(), gate.key());
    runtime.spawn_blocking(move || other.pass());
    settle(&runtime);
    // The worker has not run since it was unparked.
    let rests = THRESHOLD * 5;
    runtime.block_on(async move { tokio::time::sleep(rests).await });
    let in_place = runtime.spawn(async move { block_in_place(move || key.pass()) });
    let stall = collected.wait_ongoing("main").expect("the stall is reported");
    assert_eq!(stall.certainty, Certainty::Observed, "{stall}");
    gate.open();
    assert!(runtime.block_on(in_place).unwrap());
}

/// Idle pool threads do not hide a blocked worker.
#[test]
fn a_blocked_worker_is_observed_beside_idle_pool_threads() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let gate = Gate::new();
        let key = gate.key();
        let waits = runtime.spawn_blocking(move || key.pass());
        runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        runtime.block_on(async { tokio::time::sleep(THRESHOLD * 5).await });
        runtime.block_on(runtime.spawn(async { block(THRESHOLD * 5) })).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        gate.open();
        assert!(runtime.block_on(waits).unwrap());
        if observed(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}
