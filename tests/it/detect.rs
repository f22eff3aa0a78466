//! Tests of when a stall is reported, and when nothing is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::{Phase, Watchdog};

use test_support::*;

/// The block ends only after it was reported, so the test passes only if it is found in flight.
#[test]
fn a_stall_is_reported_while_it_blocks_and_at_each_doubling() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (observer, runtime_name) = (collected.clone(), name.to_owned());
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move {
            observer.wait(|s| *s.runtime == *runtime_name && s.elapsed >= THRESHOLD * 8).map(|s| s.phase)
        });
        let phase = runtime.block_on(task).unwrap();
        assert_eq!(phase, Some(Phase::Ongoing), "{name}: reported while it blocked");
        let end = collected.wait_resolved(name);
        let reports = collected.of(name);
        assert!(reports.iter().all(|s| s.id == end.id && s.site.to_string() == location), "{name}: {reports:#?}");
        let (last, ongoing) = reports.split_last().unwrap();
        assert_eq!(last.phase, Phase::Resolved);
        assert!(ongoing.iter().all(|s| s.phase == Phase::Ongoing));
        assert!(ongoing[0].elapsed >= THRESHOLD);
        // Each further report follows a doubling of the elapsed time.
        let doublings = |elapsed: Duration| (elapsed.as_nanos() / THRESHOLD.as_nanos()).ilog2();
        for pair in ongoing.windows(2) {
            assert!(doublings(pair[1].elapsed) > doublings(pair[0].elapsed), "{name}: {ongoing:#?}");
        }
        assert!(last.elapsed >= ongoing[ongoing.len() - 1].elapsed);
        let kept = watchdog.stalls();
        assert_eq!(kept.len(), 1, "{name}: one entry, updated in place");
        assert_eq!((kept[0].id, kept[0].phase, kept[0].elapsed), (last.id, Phase::Resolved, last.elapsed));
    }
}

#[test]
fn the_duration_is_exact() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
        let outer = Instant::now();
        let inner = runtime.block_on(watchdog.watch(async { block(THRESHOLD * 5) }));
        let outer = outer.elapsed();
        let stall = collected.wait_resolved("main");
        // The two clocks agree to about a thousandth.
        holds_unless_overslept(&watchdog, stall.elapsed >= inner.mul_f64(0.99), (inner, &stall))?;
        assert!(stall.elapsed <= outer.mul_f64(1.01), "{outer:?} {stall:?}");
        assert!(stall.started_at.elapsed().unwrap() >= stall.elapsed.mul_f64(0.99));
        Ok(())
    });
}

/// A poll just above the threshold is always reported and one just below never, whatever their
/// position relative to the scans.
#[test]
fn the_threshold_is_exact() {
    const ROUNDS: usize = 10;
    let threshold = Duration::from_millis(10);
    let (watchdog, collected) = start(threshold);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let (mut above, mut below) = (String::new(), String::new());
    let (mut rounds, mut short) = (0, 0);
    let started = Instant::now();
    // A busy machine does not always wake a sleeper in time, so enough of the short polls have to
    // be short.
    while short < ROUNDS {
        assert!(started.elapsed() < TIMEOUT, "only {short} of {rounds} were short");
        let outer = Instant::now();
        let (root, location) = watch_at(&watchdog, async { block(threshold.mul_f64(0.8)) });
        runtime.block_on(root);
        short += usize::from(outer.elapsed() < threshold - Duration::from_micros(100));
        below = location;
        let (root, location) = watch_at(&watchdog, async { block(threshold.mul_f64(1.02)) });
        runtime.block_on(root);
        above = location;
        rounds += 1;
    }
    let collected = reported_so_far(&watchdog, &collected);
    let ends = |location: &str| -> Vec<_> {
        collected.iter().filter(|s| s.phase == Phase::Resolved && s.site.to_string() == location).collect()
    };
    assert_eq!(ends(&above).len(), rounds, "each long one once");
    assert!(ends(&below).len() <= rounds - short, "a short one is reported: {collected:#?}");
    assert!(collected.iter().all(|s| s.elapsed >= threshold), "{collected:#?}");
    for location in [&above, &below] {
        let blamed = ends(location).iter().filter(|s| is_undisturbed(s).is_ok()).count();
        let counted = find_site(&watchdog.snapshot(), "main", location).map_or(0, |site| site.stalls.count);
        assert_eq!(counted, blamed as u64, "{collected:#?}");
    }
}

#[test]
fn many_short_polls_are_not_reported() {
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let threshold = THRESHOLD * 5;
            let (watchdog, collected) = start(threshold);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let cooperative = async move {
                        let started = Instant::now();
                        while started.elapsed() < threshold * 5 {
                            block(Duration::from_micros(100));
                            yield_once().await;
                        }
                    };
                    spawn_measured(&watchdog, runtime.handle(), cooperative).0
                })
                .collect();
            runtime.block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            let stalls = reported_so_far(&watchdog, &collected);
            let now = runtime_of(&watchdog.snapshot(), name);
            let count: u64 = now.stalls.iter().map(|c| c.stalls.count).sum();
            assert_eq!(count == 0, stalls.is_empty(), "reported and counted alike");
            if stalls.is_empty() { Ok(()) } else { Err(format!("{stalls:#?}")) }
        });
    }
}

fn wakeups(watchdog: &Watchdog) -> u64 {
    watchdog.snapshot().watchdog.wakeups
}

/// Blocks for a second, in which a busy watchdog would wake about a hundred times.
fn sleeps_for_a_second(watchdog: &Watchdog) -> Option<u64> {
    let before = wakeups(watchdog);
    block(Duration::from_secs(1));
    (wakeups(watchdog) == before).then_some(before)
}

#[test]
fn an_idle_watchdog_sleeps_and_still_finds_the_next_stall() {
    for (name, builder) in flavours() {
        let (watchdog, collected) = start(Duration::from_millis(10));
        if !watchdog.coverage().exact_wakeup {
            skipped("no membarrier here, so the idle watchdog scans ten times a second");
            return;
        }
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        runtime.block_on(watchdog.watch(yields(3)));
        let asleep = wait_for("the watchdog sleeps", || sleeps_for_a_second(&watchdog));
        let (observer, runtime_name) = (collected.clone(), name.to_owned());
        let (task, _) =
            spawn_measured(&watchdog, runtime.handle(), async move { observer.wait_ongoing(&runtime_name).is_some() });
        assert!(
            runtime.block_on(task).unwrap(),
            "{name}: the first stall after an idle time is reported while it blocks"
        );
        assert!(wakeups(&watchdog) > asleep);
        wait_for("and the watchdog sleeps again", || sleeps_for_a_second(&watchdog));
    }
}

/// A pending task is no poll in progress, so an idle server costs nothing.
#[test]
fn a_parked_runtime_lets_the_watchdog_sleep() {
    let (watchdog, _) = start(Duration::from_millis(10));
    if !watchdog.coverage().exact_wakeup {
        return;
    }
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { stopped.await.is_ok() });
    wait_for("the watchdog sleeps", || sleeps_for_a_second(&watchdog));
    stop.send(()).unwrap();
    assert!(runtime.block_on(task).unwrap());
}

/// Stalls are found while a callback hangs. The callback gets all of them afterwards, each in its
/// latest state.
#[test]
fn a_hanging_callback_does_not_delay_detection() {
    let (gate, collected, first) = (Gate::new(), CollectedStalls::default(), AtomicBool::new(true));
    let (key, keep) = (gate.key(), collected.callback());
    let (in_callback, is_in_callback) = mpsc::channel();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).on_stall(move |stall| {
        if first.swap(false, Ordering::Relaxed) {
            in_callback.send(()).unwrap();
            key.pass();
        }
        keep(stall);
    });
    let watchdog = watchdog.start().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { is_in_callback.recv_timeout(TIMEOUT).expect("the first one is found") }));
    let mut blocked = Vec::new();
    for i in 2..5 {
        let finder = watchdog.clone();
        // Each task blocks until its stall is found in flight, while the callback hangs.
        let (root, location) = watch_at(&watchdog, async move {
            wait_until("the stall is found", || finder.stalls().iter().any(|s| s.id == i && s.phase == Phase::Ongoing));
        });
        runtime.block_on(root);
        blocked.push(location);
    }
    assert!(collected.of("main").is_empty());
    gate.open();
    wait_until("all are reported as resolved", || {
        let resolved: Vec<_> = collected.of("main").into_iter().filter(|s| s.phase == Phase::Resolved).collect();
        resolved.len() == blocked.len() + 1
    });
    for (i, location) in (2..).zip(&blocked) {
        let steps: Vec<_> = collected.of("main").into_iter().filter(|s| s.id == i).collect();
        let end = steps.last().unwrap();
        assert_eq!((end.phase, end.site.to_string()), (Phase::Resolved, location.clone()));
        // The end of the last one may be found while the callback continues.
        assert!(steps.len() == 1 || i == 4 && steps.len() == 2, "{steps:#?}");
    }
}

/// A worker thread that exits right after a slow poll does not lose its stall.
#[test]
fn a_stall_of_a_thread_that_has_exited_is_reported() {
    for _ in 0..5 {
        undisturbed(|| {
            let (watchdog, collected) = start(THRESHOLD);
            let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
            let inner = watchdog.clone();
            std::thread::spawn(move || {
                runtime.block_on(inner.watch(async { block(THRESHOLD * 2) }));
                runtime.shutdown_background();
            })
            .join()
            .unwrap();
            let elapsed = collected.wait_resolved("main").elapsed;
            holds_unless_overslept(&watchdog, elapsed >= THRESHOLD * 2 - THRESHOLD / 20, elapsed)
        });
    }
}
