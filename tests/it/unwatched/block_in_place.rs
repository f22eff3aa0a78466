//! Workers whose threads hand them on to others of the pool, and threads of it that are no workers.

use std::time::Instant;

use pollwatch::Certainty;
use tokio::task::block_in_place;

use super::{build, certain, settle, silent};
use test_support::*;

/// The thread that blocks is a worker no more, and waits in the pool when it is through.
#[test]
fn a_worker_that_is_handed_on() {
    silent(THRESHOLD, 1, |runtime| {
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

/// So is it where whoever took it over never comes to rest.
#[test]
fn a_worker_that_is_handed_on_and_busy() {
    silent(THRESHOLD, 1, |runtime| {
        let gate = Gate::new();
        let key = gate.key();
        let blocked = runtime.spawn(async move { block_in_place(move || key.pass()) });
        let busy = runtime.spawn(async {
            let begin = Instant::now();
            while begin.elapsed() < THRESHOLD * 20 {
                yield_once().await;
            }
        });
        runtime.block_on(busy).unwrap();
        gate.open();
        assert!(runtime.block_on(blocked).unwrap());
    });
}

/// Whoever took it over may block itself: then it is not known whose worker it is.
#[test]
fn a_worker_that_is_handed_on_and_blocked_is_never_certain() {
    let (watchdog, told) = start(THRESHOLD);
    let runtime = build(&watchdog, 1);
    let gate = Gate::new();
    let (key, other) = (gate.key(), gate.key());
    let in_place = runtime.spawn(async move {
        // In the queue before the worker goes.
        tokio::spawn(async move { other.pass() });
        block_in_place(move || key.pass())
    });
    wait_for("it is suspected", || told.all().into_iter().find(|s| s.certainty == Certainty::Suspected));
    gate.open();
    assert!(runtime.block_on(in_place).unwrap());
    told.wait_resolved("main");
    assert!(certain(&told.all()).is_empty(), "{:?}", told.all());
}

/// With nobody to take it over, it is blocked.
#[test]
fn block_in_place_with_a_full_pool_is_certain() {
    let (watchdog, told) = start(THRESHOLD);
    let mut builder = multi_thread(1);
    let runtime = watchdog.build_runtime("main", builder.max_blocking_threads(1)).unwrap();
    let gate = Gate::new();
    let (key, other) = (gate.key(), gate.key());
    runtime.spawn_blocking(move || other.pass());
    settle(&runtime);
    // Since before the worker was unparked, it has not run.
    let rests = THRESHOLD * 5;
    runtime.block_on(async move { tokio::time::sleep(rests).await });
    let in_place = runtime.spawn(async move { block_in_place(move || key.pass()) });
    let stall = told.wait_ongoing("main").expect("it is told");
    assert_eq!(stall.certainty, Certainty::Observed, "{stall}");
    gate.open();
    assert!(runtime.block_on(in_place).unwrap());
}

/// The threads of `spawn_blocking` do not hide a worker that is blocked, as long as they rest.
#[test]
fn beside_threads_that_rest() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let gate = Gate::new();
        let key = gate.key();
        let waits = runtime.spawn_blocking(move || key.pass());
        runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        runtime.block_on(async { tokio::time::sleep(THRESHOLD * 5).await });
        runtime.block_on(runtime.spawn(async { block(THRESHOLD * 5) })).unwrap();
        let stalls = reported_so_far(&watchdog, &told);
        gate.open();
        assert!(runtime.block_on(waits).unwrap());
        if certain(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}
