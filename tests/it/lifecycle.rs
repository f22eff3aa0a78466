//! Tests that handles and runtimes may be dropped in any order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use pollwatch::{Phase, Stall, Watchdog};

use test_support::*;

#[test]
fn the_watchdog_may_be_dropped_first() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let watched = watchdog.watch(async { (yields(3).await, block(THRESHOLD * 2)) });
        let collector = watchdog.collector();
        within_timeout("a drop", move || drop(watchdog));
        // All futures still run, watched or not, but are not scanned.
        runtime.block_on(watched);
        let (task, _) = spawn_on(runtime.handle(), async { (yields(3).await, block(THRESHOLD * 2)) });
        runtime.block_on(task).unwrap();
        drop(runtime);
        drop(collector);
        assert!(collected.all().is_empty(), "{name}");
    }
}

#[test]
fn the_runtime_may_be_dropped_first() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        assert!(watchdog.coverage().runtimes[0].alive);
        within_timeout("a drop", move || drop(runtime));
        assert!(!watchdog.coverage().runtimes[0].alive, "{name}");
        assert_eq!(reported_so_far(&watchdog, &collected).len(), 0, "the watchdog continues");
    }
}

/// Drops either of the two in the middle of a block.
#[test]
fn either_may_be_dropped_during_a_stall() {
    for background in [false, true] {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        let gate = Gate::new();
        let key = gate.key();
        let (_task, _) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
        collected.wait_ongoing("main").expect("the stall is found");
        if background {
            runtime.shutdown_background();
            gate.open();
            collected.wait_resolved("main");
            within_timeout("a drop", move || drop(watchdog));
        } else {
            within_timeout("a drop", move || drop(watchdog));
            gate.open();
            within_timeout("a drop", move || drop(runtime));
        }
    }
}

/// A handler that blocks may be the reason why a service does not stop.
#[test]
fn a_stall_continues_while_its_runtime_shuts_down() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let started = Instant::now();
    let (_task, _) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
    let found = collected.wait_ongoing("main").expect("the stall is found");
    let dropped = std::thread::spawn(move || drop(runtime));
    // The idle worker drops the tasks.
    wait_until("the shutdown", || !watchdog.coverage().runtimes[0].alive);
    let ongoing = || watchdog.stalls().into_iter().find(|stall| stall.phase == Phase::Ongoing);
    let at_shutdown = ongoing().expect("the stall is ongoing").elapsed;
    wait_until("a longer stall", || ongoing().expect("the stall is ongoing").elapsed > at_shutdown + 8 * THRESHOLD);
    assert!(!dropped.is_finished(), "the shutdown waits for the handler");
    gate.open();
    within_timeout("the shutdown", move || dropped.join().unwrap());
    let stall = collected.wait_resolved("main");
    assert_eq!((stall.id, stall.worker), (found.id, found.worker));
    assert!(!stall.elapsed_is_lower_bound, "{stall:?}");
    assert!(stall.elapsed > at_shutdown + 8 * THRESHOLD && stall.elapsed <= started.elapsed(), "{stall:?}");
    assert_eq!(watchdog.stalls().len(), 1);
}

#[test]
fn a_stall_that_starts_during_a_shutdown_is_reported() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let (allowed, forbidden) = (Gate::new(), Gate::new());
    let keys = [allowed.key(), forbidden.key()];
    let (entered, has_entered) = mpsc::channel();
    let (_task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
        // Until the shutdown has begun, the poll has taken no time of its own.
        pollwatch::allow_blocking("waits for the shutdown", || {
            entered.send(()).unwrap();
            keys[0].pass()
        });
        keys[1].pass()
    });
    has_entered.recv_timeout(TIMEOUT).expect("the task is polled");
    let dropped = std::thread::spawn(move || drop(runtime));
    wait_until("the shutdown", || !watchdog.coverage().runtimes[0].alive);
    assert!(watchdog.stalls().is_empty());
    allowed.open();
    let found = collected.wait_ongoing("main").expect("the stall is found");
    assert!(found.worker.is_some(), "{found:?}");
    forbidden.open();
    within_timeout("the shutdown", move || dropped.join().unwrap());
    let stall = collected.wait_resolved("main");
    assert_eq!((stall.id, stall.elapsed_is_lower_bound), (found.id, false), "{stall:?}");
}

/// The last scan still finds the worker of the stall.
#[test]
fn a_stall_does_not_end_because_the_watchdog_stops() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
    collected.wait_ongoing("main").expect("the stall is found");
    watchdog.shutdown();
    assert!(collected.all().iter().all(|stall| stall.phase == Phase::Ongoing), "{:?}", collected.all());
    assert!(!watchdog.coverage().runtimes[0].alive);
    gate.open();
    assert!(runtime.block_on(task).unwrap());
}

#[test]
fn clones_share_one_watchdog() {
    let (watchdog, collected) = start(THRESHOLD);
    let clone = watchdog.clone();
    drop(watchdog);
    let runtime = clone.build_runtime("main", current_thread()).unwrap();
    let observer = collected.clone();
    assert!(runtime.block_on(clone.watch(async move { observer.wait_ongoing("main").is_some() })));
    clone.shutdown();
    clone.shutdown();
    assert_eq!(clone.stalls().len(), 1, "what was found stays readable");
    assert!(clone.metrics_text().contains("pollwatch_stalls_total"));
}

/// The shutdown waits for a hanging callback only for a limited time.
#[test]
fn a_hanging_callback_does_not_hang_the_shutdown() {
    let (gate, left) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (key, has_left) = (gate.key(), left.clone());
    let (entered, is_entered) = mpsc::channel();
    let hang = move |_: &Stall| {
        let _ = entered.send(());
        key.pass();
        has_left.store(true, Ordering::Release);
    };
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).on_stall(hang).start().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { is_entered.recv_timeout(TIMEOUT).expect("the callback hangs") }));
    let started = Instant::now();
    watchdog.shutdown();
    let took = started.elapsed();
    assert!(!left.load(Ordering::Acquire), "the callback still hangs");
    assert!(took < Duration::from_secs(10), "{took:?}");
    gate.open();
    wait_until("the end of the callback", || left.load(Ordering::Acquire));
}

/// A stall that is ongoing when the watchdog stops keeps its time, and gets no more.
#[test]
fn a_shutdown_during_a_stall_keeps_its_time() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let gate = Gate::new();
        let key = gate.key();
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
        let stall = collected.wait_ongoing("main").expect("the stall is found");
        let before = site_of(&watchdog, "main", &location).stalls;
        watchdog.shutdown();
        gate.open();
        assert!(runtime.block_on(task).unwrap());
        drop(runtime);
        let after = site_of(&watchdog, "main", &location).stalls;
        assert!(after.time >= before.time);
        is_undisturbed(&stall)?;
        assert_eq!(after.count, 1);
        Ok(())
    });
}

/// A runtime without a name is registered by its first watched future. It is registered once, also
/// when `attach` races with that future.
#[test]
fn a_runtime_is_registered_once_when_attach_races_with_a_watched_future() {
    let (watchdog, _told) = start(THRESHOLD);
    for _ in 0..300 {
        let runtime = current_thread().build().unwrap();
        // Both threads spin, since a sleeping barrier would not release them at the same moment.
        let arrived = AtomicU64::new(0);
        let meet = || {
            arrived.fetch_add(1, Ordering::Relaxed);
            while arrived.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _entered = runtime.enter();
                // Watching a future registers the thread, which takes long, so it is done before.
                let watched = watchdog.watch(async {});
                meet();
                assert!(
                    std::pin::pin!(watched)
                        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
                        .is_ready()
                );
            });
            meet();
            let _ = watchdog.attach("named", runtime.handle());
        });
        let coverage = watchdog.coverage();
        let alive: Vec<_> = coverage.runtimes.iter().filter(|r| r.alive).map(|r| r.name.to_string()).collect();
        assert_eq!(alive.len(), 1, "{alive:?}");
        drop(runtime);
    }
}
