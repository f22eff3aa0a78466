//! Tests that a blocked worker is reported once, for as long as it is blocked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Certainty, Phase};

use super::{build, observed};
use test_support::*;

/// Blocks a worker in a system call by an unwatched task, and checks the report.
fn assert_detected(cause: Cause, reason: &str, blocks: impl Fn() + Clone + Send + 'static) {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let blocks = blocks.clone();
        let task = runtime.spawn(async move {
            let started = Instant::now();
            blocks();
            started.elapsed()
        });
        let inner = runtime.block_on(task).unwrap();
        let Some(stall) = collected.all().into_iter().find(|s| s.phase == Phase::Ongoing) else {
            return Err(format!("nothing in {inner:?}: {}", watchdog.coverage()));
        };
        let resolved = collected.wait_resolved("main");
        assert_eq!(stall.id, resolved.id);
        assert!(stall.worker.is_some_and(|w| w < 2) && stall.task.is_none(), "{stall:?}");
        assert!(stall.to_string().contains("an unwatched task"), "{stall}");
        assert!(resolved.elapsed >= THRESHOLD && resolved.elapsed <= inner, "{inner:?}: {resolved}");
        is_undisturbed(&resolved)?;
        if resolved.certainty != Certainty::Observed {
            return Err(format!("the stall is suspected only: {resolved}"));
        }
        assert_eq!(resolved.cause, cause, "{resolved}");
        if cfg!(feature = "capture") {
            assert_eq!(resolved.reason, reason, "{resolved}");
        }
        let main = runtime_of(&watchdog.snapshot(), "main");
        let of_cause = main.stalls.iter().find(|c| c.cause == cause).unwrap().stalls;
        assert_eq!((of_cause.count, main.suspected.count), (1, 0));
        assert!(of_cause.time >= THRESHOLD);
        assert!(watchdog.snapshot().sites.iter().all(|s| s.stalls.count == 0), "its site is unknown");
        // The duration is known from scan to scan: the shorter the interval, the closer.
        if resolved.elapsed + THRESHOLD >= inner { Ok(()) } else { Err(format!("{inner:?}: {resolved}")) }
    });
}

#[test]
fn a_sleep_is_detected() {
    assert_detected(Cause::Syscall, "a sleep", || std::thread::sleep(THRESHOLD * 5));
}

#[test]
fn a_socket_read_is_detected() {
    assert_detected(Cause::Syscall, "a sync socket call", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        let answers = std::thread::spawn(move || {
            block(THRESHOLD * 5);
            there.write_all(b"x").unwrap();
        });
        here.read_exact(&mut [0]).unwrap();
        answers.join().unwrap();
    });
}

#[test]
fn a_lock_is_detected() {
    assert_detected(Cause::Lock, "a Mutex", || {
        let mutex = std::sync::Mutex::new(());
        let (locked, is_locked) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = lock(&mutex);
                locked.send(()).unwrap();
                block(THRESHOLD * 5);
                drop(guard);
            });
            is_locked.recv().unwrap();
            drop(lock(&mutex));
        });
    });
}

/// A computing worker is suspected and never observed.
#[test]
fn computing_is_suspected() {
    undisturbed(|| {
        let threshold = Duration::from_millis(2);
        let (watchdog, collected) = start(threshold);
        let runtime = build(&watchdog, 2);
        let started = Instant::now();
        let observer = collected.clone();
        let task = runtime.spawn(async move {
            while started.elapsed() < TIMEOUT / 20 && observer.all().is_empty() {
                std::hint::black_box((0..1_000_000u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
            }
        });
        runtime.block_on(task).unwrap();
        let all = collected.all();
        let Some(stall) = all.first() else { return Err(format!("nothing in {:?}", started.elapsed())) };
        assert_eq!(stall.certainty, Certainty::Suspected, "{stall}");
        assert!(stall.to_string().starts_with("suspected stall #1 ongoing"), "{stall}");
        collected.wait_resolved("main");
        let main = runtime_of(&watchdog.snapshot(), "main");
        assert_eq!(main.suspected.count, 1);
        assert!(main.suspected.time > threshold, "{main:?}");
        assert!(main.stalls.iter().all(|c| c.stalls.count == 0), "the stall is in no other count");
        if stall.cause == Cause::Cpu { Ok(()) } else { Err(stall.to_string()) }
    });
}

/// Workers blocked at once are counted while they are blocked, and not afterwards.
#[test]
fn blocked_workers_are_counted_while_they_are_blocked() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let gate = Gate::new();
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let key = gate.key();
                runtime.spawn(async move { key.pass() })
            })
            .collect();
        let blocked = || runtime_of(&watchdog.snapshot(), "main").blocked_workers;
        let started = Instant::now();
        while blocked() < 2 {
            if started.elapsed() > TIMEOUT / 6 {
                return Err(format!("{:?}", collected.all()));
            }
            std::thread::sleep(THRESHOLD / 10);
        }
        let text = Metrics::parse(&watchdog.metrics_text());
        assert_eq!(text.get("pollwatch_blocked_workers", &[("runtime", "main")]), 2.0);
        let oldest = || runtime_of(&watchdog.snapshot(), "main").oldest_stall;
        let first = oldest();
        assert!(first >= THRESHOLD, "{first:?}");
        wait_until("the duration grows", || oldest() > first + THRESHOLD);
        gate.open();
        tasks.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap()));
        wait_until("the end of both stalls", || blocked() == 0);
        Ok(())
    });
}

/// A worker whose poll is measured is not reported twice.
#[test]
fn a_measured_stall_is_reported_once() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 5) });
        runtime.block_on(task).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        let mut ids: Vec<_> = stalls.iter().map(|s| s.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{stalls:?}");
        assert!(stalls.iter().all(|s| s.certainty == Certainty::Measured && s.site.to_string() == location));
        is_undisturbed(&stalls[0])
    });
}

/// An idle watchdog sleeps although it has workers to scan; the first unpark wakes it.
#[test]
fn an_idle_watchdog_sleeps_and_is_woken() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        if !watchdog.coverage().exact_wakeup {
            return Ok(());
        }
        let wakeups = || watchdog.snapshot().watchdog.wakeups;
        let mut before = wakeups();
        wait_until("the watchdog sleeps", || {
            std::thread::sleep(THRESHOLD * 20);
            std::mem::replace(&mut before, wakeups()) == wakeups()
        });
        runtime.block_on(runtime.spawn(async { block(THRESHOLD * 3) })).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        if observed(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}
