//! Reports of runtimes that are late although no stall blocks them.
#![cfg(all(target_os = "linux", not(pollwatch_loom)))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::{LateReason, LateRuntime, Watchdog};
use test_support::*;

/// The threshold of these tests. The polls of the scenario have to stay below it on a busy machine.
const LONG_THRESHOLD: Duration = Duration::from_millis(50);
/// The wait from which on a runtime is late.
const LATE: Duration = Duration::from_millis(200);
/// The duration of the short polls, and their number.
const SHORT: Duration = Duration::from_millis(6);
const TASKS: usize = 300;

fn start_watchdog() -> (Watchdog, CollectedStalls) {
    start_with(Watchdog::builder().threshold(LONG_THRESHOLD).log(false))
}

/// Wakes many tasks at once, each with one short poll, and returns the site where they were spawned
/// and how late a ticker was meanwhile. Blocks the polls in a sleep, so that other processes do not
/// make them longer.
fn flood(watchdog: &Watchdog, runtime: &tokio::runtime::Runtime) -> (String, Duration) {
    let handle = runtime.handle().clone();
    let ticks = Arc::new(AtomicBool::new(true));
    let ticking = ticks.clone();
    let ticker = runtime.spawn(async move {
        let (mut interval, mut latest) = (tokio::time::interval(Duration::from_millis(5)), Instant::now());
        let mut late = Duration::ZERO;
        while ticking.load(Ordering::Relaxed) {
            interval.tick().await;
            late = late.max(latest.elapsed());
            latest = Instant::now();
        }
        late
    });
    let (wake, woken) = tokio::sync::watch::channel(false);
    let mut site = String::new();
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let mut woken = woken.clone();
        let poll_shortly = async move {
            woken.wait_for(|is_woken| *is_woken).await.unwrap();
            std::thread::sleep(SHORT);
        };
        let (task, location) = spawn_measured(watchdog, &handle, poll_shortly);
        site = location;
        tasks.push(task);
    }
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        wake.send(true).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        ticks.store(false, Ordering::Relaxed);
        (site, ticker.await.unwrap())
    })
}

#[test]
fn many_short_polls_are_reported_with_their_site() {
    undisturbed(|| {
        let (watchdog, stalls) = start_watchdog();
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        let (site, ticker_was_late) = flood(&watchdog, &runtime);
        if let Some(stall) = reported_so_far(&watchdog, &stalls).first() {
            return Err(format!("a poll was long: {stall}"));
        }
        let Some(late) = watchdog.late_runtimes().into_iter().next() else {
            return Err(format!("not late: the ticker was {ticker_was_late:?} late"));
        };
        let LateRuntime { runtime: name, delay, reason, workers, polling, sites, .. } = &late;
        assert_eq!((&**name, *workers), ("main", 2));
        if *reason == LateReason::NoCpu {
            return Err(late.to_string());
        }
        assert_eq!(*reason, LateReason::BusyWorkers, "{late:?}");
        assert!(*polling >= 0.8 && *delay >= LATE, "{late:?}");
        assert_eq!(sites[0].site.to_string(), site, "{late:?}");
        assert!(sites[0].share >= 0.8 && sites[0].share <= 1.0, "{late:?}");
        assert!(late.observed <= *delay + 4 * LONG_THRESHOLD, "{late:?}");
        // The polls of this site have at least the length of the sleep.
        assert!(sites[0].busy >= SHORT * sites[0].polls as u32, "{late:?}");
        let text = late.to_string();
        assert!(text.contains("no stall explains it; its 2 workers were busy"), "{text}");
        assert!(text.contains(&format!("most for tasks spawned at {site} (")), "{text}");
        let reports = runtime_of(&watchdog.snapshot(), "main").late_reports;
        assert!(reports.iter().any(|of| of.reason == LateReason::BusyWorkers && of.count >= 1), "{reports:?}");
        Ok(())
    });
}

/// The polls of a current-thread runtime show that a thread drives it.
#[test]
fn a_late_current_thread_runtime_is_reported() {
    undisturbed(|| {
        let (watchdog, stalls) = start_watchdog();
        let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
        let (site, ticker_was_late) = flood(&watchdog, &runtime);
        if let Some(stall) = reported_so_far(&watchdog, &stalls).first() {
            return Err(format!("a poll was long: {stall}"));
        }
        let Some(late) = watchdog.late_runtimes().into_iter().next() else {
            return Err(format!("not late: the ticker was {ticker_was_late:?} late"));
        };
        assert_eq!((&*late.runtime, late.workers), ("main", 1));
        assert_eq!(late.sites[0].site.to_string(), site, "{late:?}");
        if late.reason == LateReason::NoCpu {
            return Err(late.to_string());
        }
        let text = late.to_string();
        assert!(text.contains("no stall explains it; its worker was busy"), "{text}");
        Ok(())
    });
}

#[test]
fn a_stall_explains_the_delay_by_itself() {
    let (watchdog, stalls) = start_watchdog();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        for _ in 0..3 {
            spawn_measured(&watchdog, &handle, async { block(2 * LATE) }).0.await.unwrap();
        }
    });
    assert!(stalls.of("main").iter().any(|stall| stall.elapsed >= LATE));
    reported_so_far(&watchdog, &stalls);
    assert!(watchdog.late_runtimes().iter().all(|late| &*late.runtime != "main"), "{:?}", watchdog.late_runtimes());
}

#[test]
fn allowed_blocking_explains_the_delay_as_well() {
    let (watchdog, stalls) = start_watchdog();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        for length in [2 * LATE, 8 * LATE] {
            let blocks = async move { pollwatch::allow_blocking("on purpose", || block(length)) };
            spawn_measured(&watchdog, &handle, blocks).0.await.unwrap();
        }
    });
    reported_so_far(&watchdog, &stalls);
    let late = watchdog.late_runtimes();
    assert!(late.iter().all(|late| late.reason == LateReason::NoCpu), "{late:?}");
}

/// Neither an idle runtime nor one with little work is late, also while its probe is sent.
#[test]
fn a_runtime_with_little_work_is_not_late() {
    undisturbed(|| {
        let (watchdog, stalls) = start_watchdog();
        let runtimes = flavours().map(|(name, builder)| watchdog.build_runtime(name, builder).unwrap());
        let end = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            for runtime in &runtimes {
                let watchdog = &watchdog;
                scope.spawn(move || {
                    runtime.block_on(async {
                        while Instant::now() < end {
                            let handle = runtime.handle();
                            spawn_measured(watchdog, handle, async { tokio::time::sleep(SHORT).await })
                                .0
                                .await
                                .unwrap();
                        }
                    });
                });
            }
        });
        reported_so_far(&watchdog, &stalls);
        match watchdog.late_runtimes().into_iter().find(|late| late.reason != LateReason::NoCpu) {
            None => Ok(()),
            // The threads of an idle runtime get no CPU on a busy machine, and the share of that
            // may be below the limit.
            Some(late) if late.waiting_for_cpu.is_some_and(|share| share > 0.05) => Err(late.to_string()),
            Some(late) => panic!("{late}"),
        }
    });
}

/// A current-thread runtime is not late while its thread is in another runtime.
#[test]
fn a_runtime_that_nobody_drives_is_not_late() {
    undisturbed(|| {
        let (watchdog, stalls) = start_watchdog();
        let [left, driven] = ["left", "driven"].map(|name| watchdog.build_runtime(name, current_thread()).unwrap());
        // This polls the probe for the first time. Then the root's poll is the last one of each
        // call, so that the probe which is woken in one of them is not polled.
        left.block_on(async { tokio::time::sleep(SHORT).await });
        for _ in 0..10 {
            left.block_on(watchdog.watch(async { std::thread::sleep(LONG_THRESHOLD / 2) }));
        }
        let end = Instant::now() + Duration::from_millis(1_500);
        driven.block_on(watchdog.watch(async {
            while Instant::now() < end {
                std::thread::sleep(SHORT);
                tokio::task::yield_now().await;
            }
        }));
        // This answers a probe that still waits.
        left.block_on(async { tokio::time::sleep(SHORT).await });
        if let Some(stall) = reported_so_far(&watchdog, &stalls).first() {
            return Err(format!("a poll was long: {stall}"));
        }
        let late = watchdog.late_runtimes();
        assert!(late.iter().all(|late| &*late.runtime != "left"), "{late:?}");
        Ok(())
    });
}
