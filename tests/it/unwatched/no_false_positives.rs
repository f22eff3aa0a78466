//! Tests of loads that block no worker, and of threads that are not scanned.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use tokio::runtime::Runtime;

use super::{assert_not_reported, build, no_reports, observed, settle};
use test_support::*;

#[test]
fn idle_workers_are_not_reported() {
    assert_not_reported(THRESHOLD, 2, |runtime| runtime.block_on(async { tokio::time::sleep(THRESHOLD * 20).await }));
}

#[test]
fn waits_in_the_driver_are_not_reported() {
    assert_not_reported(THRESHOLD, 1, |runtime| {
        let task = runtime.spawn(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let answers = std::thread::spawn(move || {
                let mut there = TcpStream::connect(address).unwrap();
                for _ in 0..3 {
                    block(THRESHOLD * 4);
                    there.write_all(b"x").unwrap();
                }
            });
            let (mut here, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut here, &mut text).await.unwrap();
            answers.join().unwrap();
            text.len()
        });
        assert_eq!(runtime.block_on(task).unwrap(), 3);
    });
}

/// A worker that is always busy, and never for long.
#[test]
fn busy_workers_that_yield_are_not_reported() {
    assert_not_reported(THRESHOLD, 2, |runtime| {
        let task = || async {
            let started = Instant::now();
            while started.elapsed() < THRESHOLD * 30 {
                let poll = Instant::now();
                while poll.elapsed() < THRESHOLD / 100 {
                    std::hint::spin_loop();
                }
                yield_once().await;
            }
        };
        let tasks: Vec<_> = (0..4).map(|_| runtime.spawn(task())).collect();
        tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    });
}

/// Many blocking calls, each shorter than the threshold and in a poll of its own.
#[test]
fn short_blocking_calls_are_not_reported() {
    assert_not_reported(THRESHOLD, 2, |runtime| {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                runtime.spawn(async {
                    for _ in 0..40 {
                        block(THRESHOLD / 10);
                        yield_once().await;
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    });
}

#[test]
fn parks_and_unparks_are_not_reported() {
    assert_not_reported(THRESHOLD, 2, |runtime| {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let task = runtime.spawn(async move {
            let mut count = 0;
            while receive.recv().await.is_some() {
                count += 1;
            }
            count
        });
        let started = Instant::now();
        let mut sent = 0;
        while started.elapsed() < THRESHOLD * 20 {
            send.send(()).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_micros(50));
        }
        drop(send);
        assert_eq!(runtime.block_on(task).unwrap(), sent);
    });
}

/// Pool threads that run no worker may block.
#[test]
fn blocking_pool_threads_are_not_reported() {
    assert_not_reported(THRESHOLD, 1, |runtime| {
        let tasks: Vec<_> = (0..3).map(|_| runtime.spawn_blocking(|| block(THRESHOLD * 5))).collect();
        tasks.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap() >= THRESHOLD));
        // The runtime is idle from here on.
        runtime.block_on(async { tokio::time::sleep(THRESHOLD * 10).await });
    });
}

/// Allowed blocking is not reported, and is counted under its reason.
#[test]
fn allowed_blocking_is_not_reported() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let task = runtime.spawn(async { pollwatch::allow_blocking("on purpose", || block(THRESHOLD * 5)) });
        let blocked = runtime.block_on(task).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        assert!(observed(&stalls).is_empty(), "{}", observed(&stalls)[0]);
        let allowed = watchdog.snapshot().watchdog.allowed_blocking;
        assert!(allowed.len() == 1 && allowed[0].reason == "on purpose", "{allowed:?}");
        assert!(allowed[0].time >= blocked, "{allowed:?} of {blocked:?}");
        no_reports(&stalls)
    });
}

/// A runtime that ends, with and without blocked workers.
#[test]
fn a_shutdown_is_not_reported() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        for i in 0..20 {
            let name = format!("main {i}");
            let runtime = watchdog.build_runtime(&name, multi_thread(2)).unwrap();
            settle(&runtime);
            runtime.spawn(async { block(THRESHOLD / 4) });
            runtime.spawn_blocking(|| block(THRESHOLD / 2));
            if i % 2 == 0 { drop(runtime) } else { runtime.shutdown_background() }
        }
        let stalls = reported_so_far(&watchdog, &collected);
        assert!(observed(&stalls).is_empty(), "{}", observed(&stalls)[0]);
        no_reports(&stalls)
    });
}

/// The thread of a current-thread runtime may block after `block_on` has returned.
#[test]
fn the_thread_of_a_current_thread_runtime_is_not_reported() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
        settle(&runtime);
        block(THRESHOLD * 5);
        // The same holds for a pool thread that drives one.
        let (outer, inner) =
            (build_named(&watchdog, "outer"), watchdog.build_runtime("inner", current_thread()).unwrap());
        let drives = outer.spawn_blocking(move || {
            settle(&inner);
            block(THRESHOLD * 5)
        });
        outer.block_on(drives).unwrap();
        assert!(!watchdog.coverage().runtimes.iter().any(|r| r.workers && &*r.name != "outer"));
        no_reports(&reported_so_far(&watchdog, &collected))
    });
}

#[test]
fn an_attached_runtime_is_not_scanned() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = multi_thread(1).build().unwrap();
    watchdog.attach("main", runtime.handle()).unwrap();
    settle(&runtime);
    runtime.block_on(runtime.spawn(async { block(THRESHOLD * 5) })).unwrap();
    assert!(reported_so_far(&watchdog, &collected).is_empty());
    let coverage = watchdog.coverage();
    assert!(coverage.runtimes.iter().all(|r| !r.workers && !r.every_task));
    assert!(coverage.to_string().contains("runtime \"main\": watched futures only"), "{coverage}");
}

fn build_named(watchdog: &Watchdog, name: &str) -> Runtime {
    let runtime = watchdog.build_runtime(name, multi_thread(1)).unwrap();
    settle(&runtime);
    runtime
}
