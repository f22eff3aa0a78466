//! Tests of polls within polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::block_in_place;

use test_support::*;

/// `block_in_place` and `Handle::block_on` of the same runtime, twice, are parts of the one poll.
#[test]
fn block_on_within_block_in_place_is_part_of_the_poll() {
    let (watchdog, collected) = start(THRESHOLD * 10);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let inner = watchdog.clone();
    let polled = Arc::new(AtomicU64::new(0));
    let count = polled.clone();
    let (task, location) = spawn_measured(
        &watchdog,
        runtime.handle(),
        counted(polled.clone(), async move {
            for _ in 0..3 {
                yield_once().await;
                let innermost = inner.clone();
                block_in_place(|| {
                    Handle::current().block_on(inner.watch(async {
                        yields(4).await;
                        block_in_place(|| Handle::current().block_on(innermost.watch(yields(2))));
                    }));
                });
            }
        }),
    );
    runtime.block_on(task).unwrap();
    drop(runtime);
    assert_eq!(count.load(Ordering::Relaxed), 4);
    assert_eq!(site_of(&watchdog, "main", &location).polls, 4);
    assert_eq!(polls(&watchdog, "main"), 4, "no poll twice");
    let completed: u64 = watchdog.snapshot().sites.iter().map(|s| s.completed).sum();
    assert_eq!(completed, if HOOKS { 6 } else { 7 }, "each part has an outcome of its own");
    drop(collected);
}

/// A runtime inside another one's `block_in_place` on one thread has its own polls.
#[test]
fn a_nested_runtime_gets_its_own_polls() {
    let (watchdog, collected) = start(THRESHOLD);
    let outer = watchdog.build_runtime("outer", multi_thread(1)).unwrap();
    let inner = Arc::new(watchdog.build_runtime("inner", current_thread()).unwrap());
    let (nested_runtime, inner) = (inner.clone(), inner);
    let nested = watchdog.clone();
    let (in_task, in_root) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (task_polls, root_polls) = (in_task.clone(), in_root.clone());
    let observer = collected.clone();
    let (task, location) = spawn_measured(&watchdog, outer.handle(), async move {
        yields(2).await;
        let collected = block_in_place(|| {
            nested_runtime.block_on(nested.watch(counted(root_polls, async {
                let (task, _) = spawn_measured(&nested, nested_runtime.handle(), counted(task_polls, yields(5)));
                task.await.unwrap();
                // The nested event loop is blocked now, and is reported while it is.
                observer.wait_ongoing("inner").is_some()
            })))
        });
        yields(2).await;
        collected
    });
    assert!(outer.block_on(task).unwrap(), "reported while it blocks");
    drop((outer, inner));
    assert_eq!(in_task.load(Ordering::Relaxed), 6);
    assert_eq!(polls(&watchdog, "inner"), 6 + in_root.load(Ordering::Relaxed));
    assert_eq!(site_of(&watchdog, "outer", &location).polls, 5);
    assert_eq!(polls(&watchdog, "outer"), 5);
    assert_eq!(collected.wait_resolved("inner").worker, Some(0));
}

/// Frames deeper than the slot publishes are balanced, and later polls are measured correctly.
#[test]
fn deep_nesting_leaves_nothing_behind() {
    let (watchdog, collected) = start(THRESHOLD);
    let outer = watchdog.build_runtime("outer", multi_thread(1)).unwrap();
    let inner = Arc::new(watchdog.build_runtime("inner", current_thread()).unwrap());
    let nested = watchdog.clone();
    let deep = inner.clone();
    let mut future: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        yield_once().await;
        block_in_place(|| {
            let (task, _) = spawn_measured(&nested, deep.handle(), yields(3));
            deep.block_on(nested.watch(async { task.await.unwrap() }));
        });
        yield_once().await;
    });
    for _ in 0..40 {
        future = Box::pin(watchdog.watch(future));
    }
    let (task, _) = spawn_measured(&watchdog, outer.handle(), future);
    outer.block_on(task).unwrap();
    wait_until("all three polls are counted", || polls(&watchdog, "outer") == 3);
    // A frame left behind would never be popped.
    block(THRESHOLD * 3);
    for name in ["outer", "inner"] {
        wait_until(name, || runtime_of(&watchdog.snapshot(), name).blocked_workers == 0);
    }
    // The same thread is used afterwards.
    let started = Instant::now();
    let (task, location) = spawn_measured(&watchdog, outer.handle(), async { block(THRESHOLD * 3) });
    outer.block_on(task).unwrap();
    let stall = collected.wait(|s| s.site.to_string() == location).expect("the next stall is found");
    assert!(stall.elapsed <= started.elapsed().mul_f64(1.01), "the stall started no earlier: {stall:?}");
    wait_until("the poll is counted", || polls(&watchdog, "outer") == 4);
    assert_eq!(site_of(&watchdog, "outer", &location).polls, 1);
}

/// A stall names the innermost watched future that blocks.
#[test]
fn a_stall_names_the_innermost_watched_future() {
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let (watchdog, collected) = start(THRESHOLD);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            let observer = collected.clone();
            let runtime_name = name.to_owned();
            let (part, inside) = watch_at(&watchdog, async move { observer.wait_ongoing(&runtime_name).is_some() });
            let (task, outside) = spawn_measured(&watchdog, runtime.handle(), part);
            assert!(runtime.block_on(task).unwrap());
            let stall = collected.wait_ongoing(name).expect("the stall was reported");
            assert_eq!(stall.site.to_string(), outside, "{name}");
            // A scan may have found the stall before it reached that future.
            is_undisturbed(&stall)?;
            let text = stall.to_string();
            assert!(text.contains(&inside) && text.contains(&outside), "{text}");
            assert_eq!(stall.watched.map(|s| s.to_string()), Some(inside), "{name}");
            Ok(())
        });
    }
}

/// Two watchdogs may watch the same future; each counts for itself.
#[test]
fn two_watchdogs_count_separately() {
    let (first, told_first) = start(THRESHOLD);
    let (second, told_second) = start(THRESHOLD);
    let runtime = first.build_runtime("main", current_thread()).unwrap();
    second.attach("the same", runtime.handle()).unwrap();
    let (one, place_one) = watch_at(&first, async {
        yields(9).await;
        block(THRESHOLD * 3);
    });
    let (two, place_two) = watch_at(&second, one);
    runtime.block_on(two);
    assert_eq!(site_of(&first, "main", &place_one).polls, 10);
    assert_eq!(site_of(&second, "the same", &place_two).polls, 10);
    assert_eq!((polls(&first, "main"), polls(&second, "the same")), (10, 10));
    assert_eq!(told_first.wait_resolved("main").site.to_string(), place_one);
    assert_eq!(told_second.wait_resolved("the same").site.to_string(), place_two);
}

/// `Handle::block_on` polls on a thread that drives nothing, also on the one that built the
/// runtime.
#[test]
fn a_guest_of_a_current_thread_runtime_blocks_no_worker() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("single", current_thread()).unwrap();
    let blocks = || watchdog.watch(async { block(THRESHOLD * 3) });
    runtime.handle().block_on(blocks());
    assert_eq!(polls(&watchdog, "single"), 1);
    let stalls: Vec<_> =
        reported_so_far(&watchdog, &collected).into_iter().filter(|s| &*s.runtime == "single").collect();
    assert!(stalls.is_empty(), "{stalls:#?}");
    runtime.block_on(blocks());
    assert_eq!(collected.wait_resolved("single").worker, Some(0));
}

/// A future polled once on one runtime and then spawned on another counts for the second from then
/// on.
#[test]
fn a_watched_future_may_move_to_another_runtime() {
    let (watchdog, _told) = start(THRESHOLD * 10);
    let [first, second] = ["first", "second"].map(|name| watchdog.build_runtime(name, current_thread()).unwrap());
    let (future, inside) = watch_at(&watchdog, yields(3));
    let mut future = Box::pin(future);
    first.block_on(std::future::poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    }));
    assert_eq!((polls(&watchdog, "first"), polls(&watchdog, "second")), (1, 0));
    // An outer watched future makes this poll visible to stable mode.
    let (task, outside) = spawn_measured(&watchdog, second.handle(), future);
    second.block_on(task).unwrap();
    assert_eq!((polls(&watchdog, "first"), polls(&watchdog, "second")), (1, 3), "no poll twice");
    assert_eq!(site_of(&watchdog, "second", &outside).polls, 3);
    assert_eq!(site_of(&watchdog, "second", &inside).completed, 1);
}
