//! Workers that are handed over to another thread of the pool, and pool threads that are no
//! workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The new worker thread may block as well. Its stack shows that it has the worker, and that of the
/// other thread shows `block_in_place`.
#[test]
#[cfg(feature = "capture")]
fn the_thread_that_took_a_worker_over_is_observed_and_the_other_is_not() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 1);
        let (gate, other_gate) = (Gate::new(), Gate::new());
        let (key, other) = (gate.key(), other_gate.key());
        let in_place = runtime.spawn(async move {
            // The task is queued before the worker is handed over.
            tokio::spawn(async move { other.pass() });
            block_in_place(move || key.pass())
        });
        let stall = collected.wait_ongoing("main").expect("the stall is reported");
        std::thread::sleep(THRESHOLD * 5);
        other_gate.open();
        let resolved = collected.wait_resolved("main");
        gate.open();
        assert!(runtime.block_on(in_place).unwrap());
        let stalls = reported_so_far(&watchdog, &collected);
        assert!(stalls.iter().all(|other| other.id == stall.id), "one stall: {stalls:#?}");
        assert_eq!((resolved.id, resolved.worker), (stall.id, Some(0)));
        is_undisturbed(&resolved)?;
        if stall.certainty == Certainty::Observed { Ok(()) } else { Err(stall.to_string()) }
    });
}

/// Threads of the pool that wait in closures, and run now and then, do not hide a blocked worker.
#[test]
#[cfg(feature = "capture")]
fn a_blocked_worker_is_observed_beside_busy_pool_threads() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let stop = Arc::new(AtomicBool::new(false));
        let busy: Vec<_> = (0..3)
            .map(|_| {
                let stop = stop.clone();
                runtime.spawn_blocking(move || {
                    while !stop.load(Ordering::Relaxed) {
                        deep(20, &|| std::thread::sleep(THRESHOLD / 2));
                    }
                })
            })
            .collect();
        settle(&runtime);
        runtime.block_on(runtime.spawn(async { block(THRESHOLD * 8) })).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        stop.store(true, Ordering::Relaxed);
        busy.into_iter().for_each(|busy| runtime.block_on(busy).unwrap());
        assert!(stalls.iter().all(|stall| stall.id == stalls[0].id), "one stall: {stalls:#?}");
        if observed(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}

/// Calls a function below some calls that use the stack, as deep as a worker that polls.
#[inline(never)]
fn deep(calls: u32, f: &dyn Fn()) {
    let used = std::hint::black_box([0u8; 512]);
    if calls == 0 {
        f()
    } else {
        deep(calls - 1, f)
    }
    std::hint::black_box(&used);
}

/// If no thread can take the worker over, it is blocked.
#[test]
fn block_in_place_with_a_full_pool_is_observed() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.runtime("main").worker_threads(1).enable_all().max_blocking_threads(1).build().unwrap();
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
