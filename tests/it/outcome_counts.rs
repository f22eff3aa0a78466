//! Tests of the outcomes of futures and tasks: each is counted, and leaves no frame behind.

use std::future::pending;
use std::time::Duration;

use pollwatch::snapshot::RuntimeSnapshot;
use pollwatch::{Phase, Watchdog};

use test_support::*;

/// Asserts that exactly `polled` polls were counted, that no frame is left in a slot, and that the
/// next polls are measured correctly.
#[track_caller]
fn assert_clean(
    watchdog: &Watchdog,
    collected: &CollectedStalls,
    runtime: &tokio::runtime::Runtime,
    name: &str,
    polled: u64,
) {
    wait_until("all polls are counted", || polls(watchdog, name) >= polled);
    assert_eq!(polls(watchdog, name), polled, "{name}");
    // A frame left behind would exceed the threshold and never end.
    block(THRESHOLD * 3);
    let is_blocked = |now: RuntimeSnapshot| (now.blocked_workers, now.oldest_stall) != (0, Duration::ZERO);
    wait_until("no frame is left behind", || !is_blocked(runtime_of(&watchdog.snapshot(), name)));
    wait_until("what took long has ended", || watchdog.stalls().iter().all(|s| s.phase == Phase::Resolved));
    let earlier = reported_so_far(watchdog, collected).len();
    let (task, location) = spawn_measured(watchdog, runtime.handle(), yields(6));
    runtime.block_on(task).unwrap();
    wait_until("the next polls are counted", || polls(watchdog, name) >= polled + 7);
    assert_eq!(polls(watchdog, name), polled + 7, "{name}");
    assert_eq!(site_of(watchdog, name, &location).polls, 7, "{name}");
    let others = reported_so_far(watchdog, collected).split_off(earlier);
    let long: Vec<_> = others.iter().filter(|s| is_undisturbed(s).is_ok() && s.elapsed >= THRESHOLD * 3).collect();
    assert!(long.is_empty(), "{name}: {long:#?}");
}

#[test]
fn a_panic_in_a_task_is_counted() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async {
            yields(3).await;
            panic!("on purpose");
        });
        assert!(runtime.block_on(task).unwrap_err().is_panic());
        wait_until("the last poll is counted", || site_of(&watchdog, name, &location).polls >= 4);
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.polls, site.spawned, site.terminated), (4, 1, 1), "{name}");
        assert_eq!((site.completed, site.panicked, site.cancelled), (0, u64::from(!HOOKS), 0), "{name}");
        assert_clean(&watchdog, &collected, &runtime, name, 4);
    }
}

/// Unwinding pops every frame, in a task and in a root.
#[test]
fn a_panic_in_a_watched_future_is_counted() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (inner, location) = watch_at(&watchdog, async {
            yield_once().await;
            panic!("on purpose");
        });
        let (middle, outside) = watch_at(&watchdog, inner);
        let (task, _) = spawn_on(runtime.handle(), middle);
        assert!(runtime.block_on(task).unwrap_err().is_panic());
        for location in [&location, &outside] {
            let count = || site_of(&watchdog, name, location);
            wait_until("the outcome is counted", || count().panicked > 0);
            assert_eq!((count().panicked, count().completed, count().cancelled), (1, 0, 0), "{name}");
        }
        let (root, location) = watch_at(&watchdog, async { panic!("on purpose") });
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(root)));
        assert!(unwound.is_err());
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.polls, site.panicked, site.completed), (1, 1, 0), "{name}");
        assert_clean(&watchdog, &collected, &runtime, name, 3);
    }
}

/// A panic that is caught within a poll does not end the poll.
#[test]
fn a_panic_caught_inside_a_poll_does_not_end_the_poll() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let (root, location) = watch_at(&watchdog, async {
        for _ in 0..3 {
            let mut inner = Box::pin(watchdog.watch(async { panic!("on purpose") }));
            let polled = std::future::poll_fn(|cx| {
                let poll = std::panic::AssertUnwindSafe(|| inner.as_mut().poll(cx).is_ready());
                std::task::Poll::Ready(std::panic::catch_unwind(poll))
            });
            assert!(polled.await.is_err());
            yield_once().await;
        }
    });
    runtime.block_on(root);
    let site = site_of(&watchdog, "main", &location);
    assert_eq!((site.polls, site.completed), (4, 1));
    assert_eq!(watchdog.snapshot().sites.iter().map(|s| s.panicked).sum::<u64>(), 3);
    assert_clean(&watchdog, &collected, &runtime, "main", 4);
}

#[test]
fn an_abort_while_pending_is_a_cancellation() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let task = {
            let _guard = runtime.enter();
            watchdog.spawn(pending::<()>())
        };
        let count = || watchdog.snapshot().sites.first().cloned().expect("one site");
        wait_until("the future was polled", || {
            runtime.block_on(yields(1));
            count().polls == 1
        });
        assert_eq!((count().spawned, count().alive()), (1, Some(1)), "{name}");
        task.abort();
        assert!(runtime.block_on(task).unwrap_err().is_cancelled());
        wait_until("its end is counted", || count().terminated == 1 && count().cancelled == 1);
        assert_eq!((count().alive(), count().completed, count().panicked), (Some(0), 0, 0), "{name}");
        // tokio runs its hooks around a cancellation too.
        assert_clean(&watchdog, &collected, &runtime, name, if HOOKS { 2 } else { 1 });
    }
}

#[test]
fn a_drop_before_the_end_is_a_cancellation() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (mut polled, location) = watch_at(&watchdog, Box::pin(pending::<()>()));
        let (never, nowhere) = watch_at(&watchdog, pending::<()>());
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = &mut polled => unreachable!("the future is pending"),
                () = yields(2) => {}
            }
        });
        drop((polled, never));
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.cancelled, site.completed, site.panicked), (1, 0, 0), "{name}");
        assert!(find_site(&watchdog.snapshot(), name, &nowhere).is_none(), "{name}: never polled, never counted");
        assert_clean(&watchdog, &collected, &runtime, name, 3);
    }
}

#[test]
fn tasks_dropped_at_shutdown_are_terminated() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let mut location = String::new();
        for _ in 0..5 {
            location = spawn_measured(&watchdog, runtime.handle(), pending::<()>()).1;
        }
        // One task is never polled, since nothing drives its runtime any more.
        assert_eq!(site_of(&watchdog, name, &location).alive(), Some(5), "{name}");
        drop(runtime);
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.spawned, site.terminated, site.alive()), (5, 5, Some(0)), "{name}");
        if !HOOKS {
            assert_eq!((site.cancelled, site.completed), (5, 0), "{name}");
        }
    }
}

/// A task spawned on a runtime that has ended is counted as terminated.
#[test]
fn a_spawn_after_shutdown_is_terminated() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let (task, location) = spawn_on(&handle, pending::<()>());
        assert!(current_thread().build().unwrap().block_on(task).unwrap_err().is_cancelled());
        if let Some(site) = find_site(&watchdog.snapshot(), name, &location) {
            assert_eq!(site.spawned, site.terminated, "{name}");
        }
    }
}
