//! Tests of what blocks a worker: blocking calls, `block_in_place`, `block_on`, and roots.

use std::collections::BTreeSet;
use std::sync::mpsc;

use pollwatch::{Phase, Stall};
use tokio::task::block_in_place;

use test_support::*;

fn no_stalls(stalls: &[Stall]) -> Result<(), String> {
    if stalls.is_empty() { Ok(()) } else { Err(format!("{} reports, the first: {}", stalls.len(), stalls[0])) }
}

#[test]
fn spawn_blocking_is_neither_a_stall_nor_a_task() {
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let (watchdog, collected) = start(THRESHOLD);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            runtime.block_on(watchdog.watch(async {
                tokio::task::spawn_blocking(|| block(THRESHOLD * 10)).await.unwrap();
            }));
            let stalls = reported_so_far(&watchdog, &collected);
            drop(runtime);
            let snapshot = watchdog.snapshot();
            let of_it = snapshot.sites.iter().filter(|s| &*s.runtime == name);
            let tasks: Vec<_> = of_it.map(|s| (s.spawned, s.terminated)).collect();
            assert_eq!(tasks, [(0, 0)], "{name}: the root's site alone");
            no_stalls(&stalls)
        });
    }
}

/// The counterpart of the test above: the same block on the worker is a stall.
#[test]
fn a_task_that_blocks_is_a_stall() {
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let (watchdog, collected) = start(THRESHOLD);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            let (task, location) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 3) });
            let id = task.id();
            runtime.block_on(task).unwrap();
            let stall = collected.wait_resolved(name);
            assert_eq!((stall.site.to_string(), stall.task, &*stall.runtime), (location.clone(), Some(id), name));
            assert!(stall.worker.is_some_and(|w| w < 2), "{stall:?}");
            holds_unless_overslept(&watchdog, stall.elapsed >= THRESHOLD * 3 - THRESHOLD / 20, &stall)?;
            is_undisturbed(&stall)?;
            assert_eq!(site_of(&watchdog, name, &location).stalls.count, 1, "the stall is counted at its site");
            Ok(())
        });
    }
}

#[test]
fn block_in_place_hands_the_worker_over() {
    undisturbed(|| {
        let threshold = THRESHOLD * 5;
        let (watchdog, collected) = start(threshold);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move {
            block_in_place(|| block(threshold * 10));
        });
        runtime.block_on(task).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        drop(runtime);
        let site = site_of(&watchdog, "main", &location);
        assert_eq!((site.polls, site.spawned, site.terminated), (1, 1, 1), "the hand-off is no task");
        assert!(site.poll_max >= threshold * 9, "the poll is still measured");
        no_stalls(&stalls)
    });
}

/// `block_in_place(|| handle.block_on(..))` on what never completes holds a thread for ever.
#[test]
fn a_poll_that_left_its_worker_is_shown_with_its_age_until_it_ends() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let handle = runtime.handle().clone();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
        block_in_place(|| handle.block_on(ended)).unwrap();
    });
    let main = || runtime_of(&watchdog.snapshot(), "main");
    let mut first = Default::default();
    wait_until("the poll has left its worker", || {
        // Stable mode notices the hand-off once the new thread has parked as the worker.
        runtime.block_on(runtime.spawn(yields(1))).unwrap();
        let main = main();
        first = main.oldest_offworker_poll;
        main.offworker_polls == 1 && main.blocked_workers == 0
    });
    assert!(first >= THRESHOLD, "{first:?}");
    wait_until("its age grows", || main().oldest_offworker_poll >= first + THRESHOLD);
    assert_eq!((main().root_stalls.count, main().blocked_workers), (0, 0));
    end.send(()).unwrap();
    runtime.block_on(task).unwrap();
    // With hooks, tokio reports the end of a poll after it has woken who joins the task.
    wait_until("the poll is over", || {
        let after = main();
        (after.offworker_polls, after.oldest_offworker_poll) == (0, std::time::Duration::ZERO)
    });
    // Before the hand-off was noticed, it may have been a stall.
    let stalls = reported_so_far(&watchdog, &collected);
    assert!(stalls.iter().all(|stall| stall.elapsed < first), "{stalls:#?}");
}

/// A thread that never was a worker is no poll that left one.
#[test]
fn block_on_inside_spawn_blocking_has_left_no_worker() {
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let (handle, inner) = (runtime.handle().clone(), watchdog.clone());
    let blocking = runtime.spawn_blocking(move || {
        let during = inner.clone();
        handle.block_on(inner.watch(async move {
            block(THRESHOLD * 3);
            runtime_of(&during.snapshot(), "main")
        }))
    });
    let during = runtime.block_on(blocking).unwrap();
    assert_eq!((during.offworker_polls, during.root_stalls.count), (0, 0), "{during:?}");
}

/// A new worker thread that is busy does not make the poll that left the worker a stall.
#[test]
fn block_in_place_beside_a_busy_worker() {
    undisturbed(|| {
        let threshold = THRESHOLD * 5;
        let (watchdog, collected) = start(threshold);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let gate = Gate::new();
        let key = gate.key();
        let (in_place, _) = spawn_measured(&watchdog, runtime.handle(), async move {
            block_in_place(move || key.pass());
        });
        let (busy, _) = spawn_measured(&watchdog, runtime.handle(), async move {
            let started = std::time::Instant::now();
            while started.elapsed() < threshold * 10 {
                yield_once().await;
            }
        });
        runtime.block_on(busy).unwrap();
        gate.open();
        runtime.block_on(in_place).unwrap();
        no_stalls(&reported_so_far(&watchdog, &collected))
    });
}

/// No thread is free to take the worker over, so the worker is blocked, and is reported meanwhile.
#[test]
fn block_in_place_with_a_full_pool_is_a_stall() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.runtime("main").worker_threads(1).enable_all().max_blocking_threads(1).build().unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let (occupied, is_occupied) = mpsc::channel();
    runtime.spawn_blocking(move || {
        occupied.send(()).unwrap();
        key.pass()
    });
    is_occupied.recv_timeout(TIMEOUT).expect("the pool's one thread is taken");
    let observer = collected.clone();
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move {
        block_in_place(move || observer.wait_ongoing("main").is_some())
    });
    assert!(runtime.block_on(task).unwrap(), "reported while it blocks");
    assert_eq!(collected.wait_resolved("main").site.to_string(), location);
    assert_eq!(collected.of("main")[0].worker, Some(0));
}

/// A stall before the hand-off belongs to the worker and ends with the hand-off.
#[test]
fn a_stall_ends_at_the_hand_off() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let observer = collected.clone();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
        let before = observer.wait_ongoing("main").is_some();
        let ended = || observer.wait(|s| &*s.runtime == "main" && s.phase == Phase::Resolved).is_some();
        // Stable mode notices a hand-off when the new thread parks or is asked to, so it must be
        // idle.
        (before, block_in_place(ended))
    });
    assert_eq!(runtime.block_on(task).unwrap(), (true, true), "found, and resolved, before the poll returned");
    let stalls = reported_so_far(&watchdog, &collected);
    assert!(stalls.iter().all(|s| s.id == stalls[0].id), "one stall: {stalls:#?}");
    assert_eq!(stalls.iter().filter(|s| s.phase == Phase::Resolved).count(), 1);
}

#[test]
fn the_root_of_a_current_thread_runtime_is_a_stall() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let observer = collected.clone();
    let (root, location) = watch_at(&watchdog, async move { observer.wait_ongoing("main").is_some() });
    assert!(runtime.block_on(root), "reported while it blocks");
    let stall = collected.wait_resolved("main");
    assert_eq!((stall.worker, stall.task, stall.site.to_string()), (Some(0), None, location));
}

#[test]
fn the_root_of_a_multi_thread_runtime_is_a_root_stall_on_no_worker() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let observer = collected.clone();
    let during = watchdog.clone();
    let (root, location) = watch_at(&watchdog, async move {
        let reported = observer.wait_ongoing("main").is_some();
        (reported, runtime_of(&during.snapshot(), "main"))
    });
    let (reported, during) = runtime.block_on(root);
    assert!(reported, "while it blocks");
    assert_eq!(during.blocked_workers, 0, "no worker is blocked meanwhile");
    assert!(during.root_stalls.time >= THRESHOLD, "{during:?}");
    let stall = collected.wait_resolved("main");
    assert_eq!((stall.worker, stall.task, stall.site.to_string()), (None, None, location.clone()));
    assert!(stall.to_string().contains(": the root task of \"main\" was blocked"), "{stall}");
    let main = runtime_of(&watchdog.snapshot(), "main");
    assert_eq!(main.root_stalls.count, 1);
    assert!(main.root_stalls.time >= during.root_stalls.time, "{main:?}");
    assert!(main.stalls.iter().all(|of_cause| of_cause.stalls.count == 0), "in no figure of the workers: {main:?}");
    assert_eq!(site_of(&watchdog, "main", &location).stalls.count, 0);
}

/// A root that is over before a scan finds it comes from the ring of slow polls.
#[test]
fn every_stall_of_a_root_is_counted_once() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        for _ in 0..5 {
            runtime.block_on(watchdog.watch(async { block(THRESHOLD + THRESHOLD / 10) }));
        }
        let stalls = reported_so_far(&watchdog, &collected);
        let ids: BTreeSet<_> = stalls.iter().map(|stall| stall.id).collect();
        assert!(stalls.iter().all(|stall| stall.worker.is_none()), "{stalls:#?}");
        let counted = runtime_of(&watchdog.snapshot(), "main").root_stalls.count;
        assert_eq!(counted, ids.len() as u64);
        holds_unless_overslept(&watchdog, counted == 5, &stalls)
    });
}

#[test]
fn block_on_inside_spawn_blocking_is_no_stall() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let handle = runtime.handle().clone();
        let inner = watchdog.clone();
        let (send, location) = std::sync::mpsc::channel();
        let blocking = runtime.spawn_blocking(move || {
            let (root, location) = watch_at(&inner, async { block(THRESHOLD * 10) });
            send.send(location).unwrap();
            handle.block_on(root);
        });
        runtime.block_on(blocking).unwrap();
        no_stalls(&reported_so_far(&watchdog, &collected)).unwrap();
        let site = site_of(&watchdog, name, &location.recv().unwrap());
        assert!(site.polls == 1 && site.poll_max >= THRESHOLD * 9, "{name}: {site:?}");
    }
}

/// One thread drives a current-thread runtime; a second thread that calls `block_on` polls only its
/// own root.
#[test]
fn a_guest_of_a_current_thread_runtime_is_no_stall() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (here, driven) = mpsc::channel();
    let location = std::thread::scope(|scope| {
        scope.spawn(|| {
            runtime.block_on(watchdog.watch(async {
                here.send(()).unwrap();
                stopped.await.unwrap();
            }));
        });
        driven.recv_timeout(TIMEOUT).expect("the owner drives it");
        // The owner parks within the runtime and keeps it.
        let (guest, location) = watch_at(&watchdog, async {
            block(THRESHOLD * 10);
            // The owner's own poll may be delayed at its end, while the guest's poll is still
            // running.
            wait_until("no worker is blocked", || runtime_of(&watchdog.snapshot(), "main").blocked_workers == 0);
        });
        runtime.block_on(guest);
        stop.send(()).unwrap();
        location
    });
    let of_guest: Vec<_> = reported_so_far(&watchdog, &collected);
    let of_guest: Vec<_> = of_guest.into_iter().filter(|s| s.site.to_string() == location).collect();
    no_stalls(&of_guest).unwrap();
    let site = site_of(&watchdog, "main", &location);
    assert!(site.polls == 1 && site.poll_max >= THRESHOLD * 9, "{site:?}");
}

/// A thread that calls `block_on` on a current-thread runtime drives it, unless another thread
/// does.
#[test]
fn any_thread_may_drive_a_current_thread_runtime() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for _ in 0..2 {
        let before = collected.of("main").len();
        std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(watchdog.watch(async { block(THRESHOLD * 3) })));
        });
        wait_until("a stall of this thread", || collected.of("main").len() > before);
    }
}

/// Each of two blocked workers is reported with its own index.
#[test]
fn every_blocked_worker_is_reported() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let gate = Gate::new();
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let key = gate.key();
            spawn_measured(&watchdog, runtime.handle(), async move { key.pass() }).0
        })
        .collect();
    let blocked = || runtime_of(&watchdog.snapshot(), "main").blocked_workers;
    wait_until("both are blocked", || blocked() == 2);
    let workers = || collected.of("main").iter().filter_map(|s| s.worker).collect::<BTreeSet<_>>();
    wait_until("both are reported", || workers().len() == 2);
    assert_eq!(Vec::from_iter(workers()), [0, 1]);
    gate.open();
    for task in tasks {
        assert!(runtime.block_on(task).unwrap());
    }
    wait_until("no worker is blocked", || blocked() == 0);
}

/// A watched future outside of every runtime counts under `other` and blocks no worker.
#[test]
fn polls_outside_of_a_runtime_count_under_other() {
    let (watchdog, collected) = start(THRESHOLD);
    let (future, location) = watch_at(&watchdog, async { block(THRESHOLD * 3) });
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_ready());
    no_stalls(&reported_so_far(&watchdog, &collected)).unwrap();
    assert_eq!(site_of(&watchdog, "other", &location).polls, 1);
}

#[test]
fn after_shutdown_polls_are_counted_and_no_stall_is_reported() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(yields(1)));
    watchdog.shutdown();
    let (root, blocking) = watch_at(&watchdog, async { block(THRESHOLD * 3) });
    runtime.block_on(root);
    assert_eq!(site_of(&watchdog, "main", &blocking).polls, 1, "under the same name");
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), yields(3));
    runtime.block_on(task).unwrap();
    drop(runtime);
    assert_eq!(site_of(&watchdog, "main", &location).polls, 4);
    assert_eq!(polls(&watchdog, "main"), 2 + 1 + 4);
    assert!(collected.all().iter().all(|s| s.site.to_string() != blocking), "{:#?}", collected.all());
}
