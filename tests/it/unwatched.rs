//! Workers that are blocked by tasks which nobody wrapped (stable mode): it fires, and it stays silent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Certainty, Phase, Stall, Watchdog};
use tokio::runtime::Runtime;
use tokio::task::block_in_place;

use crate::support::*;

fn none(stalls: &[Stall]) -> Result<(), String> {
    if stalls.is_empty() { Ok(()) } else { Err(format!("{} reports, the first: {}", stalls.len(), stalls[0])) }
}

fn certain(stalls: &[Stall]) -> Vec<&Stall> {
    stalls.iter().filter(|s| s.certainty == Certainty::Certain).collect()
}

/// A worker counts as one from its first park on.
fn settle(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

fn build(watchdog: &Watchdog, workers: usize) -> Runtime {
    let runtime = watchdog.build_runtime("main", &mut multi_thread(workers)).unwrap();
    settle(&runtime);
    runtime
}

/// A task that nobody wrapped blocks its worker in a system call.
fn fires(cause: Cause, reason: &str, blocks: impl Fn() + Clone + Send + 'static) {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let blocks = blocks.clone();
        let task = runtime.spawn(async move {
            let begin = Instant::now();
            blocks();
            begin.elapsed()
        });
        let inner = runtime.block_on(task).unwrap();
        let Some(stall) = told.all().into_iter().find(|s| s.phase == Phase::Ongoing) else {
            return Err(format!("nothing in {inner:?}: {}", watchdog.coverage()));
        };
        let resolved = told.wait_resolved("main");
        assert_eq!(stall.id, resolved.id);
        assert!(stall.worker.is_some_and(|w| w < 2) && stall.task.is_none(), "{stall:?}");
        assert!(stall.to_string().contains("an unwatched task"), "{stall}");
        assert!(resolved.elapsed >= THRESHOLD && resolved.elapsed <= inner, "{inner:?}: {resolved}");
        is_undisturbed(&resolved)?;
        if resolved.certainty != Certainty::Certain {
            return Err(format!("it is suspected only: {resolved}"));
        }
        assert_eq!(resolved.cause, cause, "{resolved}");
        if cfg!(feature = "capture") {
            assert_eq!(resolved.reason, reason, "{resolved}");
        }
        let main = runtime_of(&watchdog.snapshot(), "main");
        let of_cause = main.stalls.iter().find(|c| c.cause == cause).unwrap().stalls;
        assert_eq!((of_cause.count, main.suspected.count), (1, 0));
        assert!(of_cause.time >= THRESHOLD);
        assert!(watchdog.snapshot().sites.iter().all(|s| s.stalls.count == 0), "nobody knows its place");
        // From a look to a look: the less time between those, the nearer.
        if resolved.elapsed + THRESHOLD >= inner { Ok(()) } else { Err(format!("{inner:?}: {resolved}")) }
    });
}

#[test]
fn a_sleep() {
    fires(Cause::Syscall, "a sleep", || std::thread::sleep(THRESHOLD * 5));
}

#[test]
fn a_socket() {
    fires(Cause::Syscall, "a sync socket call", || {
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
fn a_lock() {
    fires(Cause::Lock, "a Mutex", || {
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

/// What computes is never certain, and told as suspected.
#[test]
fn computing_is_suspected() {
    undisturbed(|| {
        let threshold = Duration::from_millis(2);
        let (watchdog, told) = start(threshold);
        let runtime = build(&watchdog, 2);
        let begin = Instant::now();
        let heard = told.clone();
        let task = runtime.spawn(async move {
            while begin.elapsed() < PATIENCE / 20 && heard.all().is_empty() {
                std::hint::black_box((0..1_000_000u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
            }
        });
        runtime.block_on(task).unwrap();
        let all = told.all();
        let Some(stall) = all.first() else { return Err(format!("nothing in {:?}", begin.elapsed())) };
        assert_eq!(stall.certainty, Certainty::Suspected, "{stall}");
        assert!(stall.to_string().starts_with("suspected stall #1 ongoing"), "{stall}");
        told.wait_resolved("main");
        let main = runtime_of(&watchdog.snapshot(), "main");
        assert_eq!(main.suspected.count, 1);
        assert!(main.suspected.time > threshold, "{main:?}");
        assert!(main.stalls.iter().all(|c| c.stalls.count == 0), "it is in no other count");
        if stall.cause == Cause::Cpu { Ok(()) } else { Err(stall.to_string()) }
    });
}

/// Runs a load that blocks nobody, for some time; what was told of it meanwhile must be nothing.
fn silent(threshold: Duration, workers: usize, load: impl Fn(&Runtime) + Clone) {
    undisturbed(|| {
        let (watchdog, told) = start(threshold);
        let runtime = build(&watchdog, workers);
        load(&runtime);
        let stalls = told_so_far(&watchdog, &told);
        // Whatever the machine does: what is certain must be so.
        assert!(certain(&stalls).is_empty(), "{}", certain(&stalls)[0]);
        none(&stalls)
    });
}

#[test]
fn idle_workers() {
    silent(THRESHOLD, 2, |runtime| runtime.block_on(async { tokio::time::sleep(THRESHOLD * 20).await }));
}

#[test]
fn slow_waits_in_the_driver() {
    silent(THRESHOLD, 1, |runtime| {
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

/// A worker that always has something to do, and never anything long.
#[test]
fn busy_workers_that_yield() {
    silent(THRESHOLD, 2, |runtime| {
        let task = || async {
            let begin = Instant::now();
            while begin.elapsed() < THRESHOLD * 30 {
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

/// Many calls that block, each shorter than the threshold and each in a poll of its own.
#[test]
fn short_calls() {
    silent(THRESHOLD, 2, |runtime| {
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
fn parks_and_unparks() {
    silent(THRESHOLD, 2, |runtime| {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let task = runtime.spawn(async move {
            let mut count = 0;
            while receive.recv().await.is_some() {
                count += 1;
            }
            count
        });
        let begin = Instant::now();
        let mut sent = 0;
        while begin.elapsed() < THRESHOLD * 20 {
            send.send(()).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_micros(50));
        }
        drop(send);
        assert_eq!(runtime.block_on(task).unwrap(), sent);
    });
}

/// Threads of the pool that run no worker may block.
#[test]
fn blocking_threads() {
    silent(THRESHOLD, 1, |runtime| {
        let tasks: Vec<_> = (0..3).map(|_| runtime.spawn_blocking(|| block(THRESHOLD * 5))).collect();
        tasks.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap() >= THRESHOLD));
        // Idle from here on.
        runtime.block_on(async { tokio::time::sleep(THRESHOLD * 10).await });
    });
}

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
    assert_eq!(stall.certainty, Certainty::Certain, "{stall}");
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
        let stalls = told_so_far(&watchdog, &told);
        gate.open();
        assert!(runtime.block_on(waits).unwrap());
        if certain(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}

/// All workers at once, while they are blocked, and nothing once they are not.
#[test]
fn blocked_workers_are_counted_while_they_are() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let gate = Gate::new();
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let key = gate.key();
                runtime.spawn(async move { key.pass() })
            })
            .collect();
        let blocked = || runtime_of(&watchdog.snapshot(), "main").blocked_workers;
        let begin = Instant::now();
        while blocked() < 2 {
            if begin.elapsed() > PATIENCE / 6 {
                return Err(format!("{:?}", told.all()));
            }
            std::thread::sleep(THRESHOLD / 10);
        }
        let text = Metrics::parse(&watchdog.metrics_text());
        assert_eq!(text.get("pollwatch_blocked_workers", &[("runtime", "main")]), 2.0);
        let oldest = || runtime_of(&watchdog.snapshot(), "main").oldest_stall;
        let first = oldest();
        assert!(first >= THRESHOLD, "{first:?}");
        wait_until("it grows", || oldest() > first + THRESHOLD);
        gate.open();
        tasks.into_iter().for_each(|task| assert!(runtime.block_on(task).unwrap()));
        wait_until("they are free", || blocked() == 0);
        Ok(())
    });
}

/// A worker whose poll is measured is not told twice.
#[test]
fn what_is_measured_is_told_once() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        let (task, place) = spawn_seen(&watchdog, runtime.handle(), async { block(THRESHOLD * 5) });
        runtime.block_on(task).unwrap();
        let stalls = told_so_far(&watchdog, &told);
        let mut ids: Vec<_> = stalls.iter().map(|s| s.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{stalls:?}");
        assert!(stalls.iter().all(|s| s.certainty == Certainty::Exact && s.site.to_string() == place));
        is_undisturbed(&stalls[0])
    });
}

/// What is meant to block is left out, and counted under its reason.
#[test]
fn what_is_allowed() {
    silent(THRESHOLD, 2, |runtime| {
        let task = runtime.spawn(async { pollwatch::allow_blocking("on purpose", || block(THRESHOLD * 5)) });
        runtime.block_on(task).unwrap();
    });
}

/// A runtime that ends, with and without workers that are blocked then.
#[test]
fn a_shutdown() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        for i in 0..20 {
            let name = format!("main {i}");
            let runtime = watchdog.build_runtime(&name, &mut multi_thread(2)).unwrap();
            settle(&runtime);
            runtime.spawn(async { block(THRESHOLD / 4) });
            runtime.spawn_blocking(|| block(THRESHOLD / 2));
            if i % 2 == 0 { drop(runtime) } else { runtime.shutdown_background() }
        }
        let stalls = told_so_far(&watchdog, &told);
        assert!(certain(&stalls).is_empty(), "{}", certain(&stalls)[0]);
        none(&stalls)
    });
}

/// The thread of a current-thread runtime goes its own way when `block_on` has returned.
#[test]
fn the_thread_of_a_current_thread_runtime() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
        settle(&runtime);
        block(THRESHOLD * 5);
        // So does a thread of the pool that drives it.
        let (outer, inner) =
            (build_named(&watchdog, "outer"), watchdog.build_runtime("inner", &mut current_thread()).unwrap());
        let drives = outer.spawn_blocking(move || {
            settle(&inner);
            block(THRESHOLD * 5)
        });
        outer.block_on(drives).unwrap();
        assert!(!watchdog.coverage().runtimes.iter().any(|r| r.workers && &*r.name != "outer"));
        none(&told_so_far(&watchdog, &told))
    });
}

fn build_named(watchdog: &Watchdog, name: &str) -> Runtime {
    let runtime = watchdog.build_runtime(name, &mut multi_thread(1)).unwrap();
    settle(&runtime);
    runtime
}

#[test]
fn an_attached_runtime_is_not_looked_at() {
    let (watchdog, told) = start(THRESHOLD);
    let runtime = multi_thread(1).build().unwrap();
    watchdog.attach("main", runtime.handle()).unwrap();
    settle(&runtime);
    runtime.block_on(runtime.spawn(async { block(THRESHOLD * 5) })).unwrap();
    assert!(told_so_far(&watchdog, &told).is_empty());
    let coverage = watchdog.coverage();
    assert!(coverage.runtimes.iter().all(|r| !r.workers && !r.every_task));
    assert!(coverage.to_string().contains("runtime \"main\": watched futures only"), "{coverage}");
}

/// An idle watchdog sleeps, though it has workers to look at; the first that is unparked wakes it.
#[test]
fn an_idle_watchdog_sleeps_and_is_woken() {
    undisturbed(|| {
        let (watchdog, told) = start(THRESHOLD);
        let runtime = build(&watchdog, 2);
        if !watchdog.coverage().exact_wakeup {
            return Ok(());
        }
        let wakeups = || watchdog.snapshot().watchdog.wakeups;
        let mut before = wakeups();
        wait_until("it sleeps", || {
            std::thread::sleep(THRESHOLD * 20);
            std::mem::replace(&mut before, wakeups()) == wakeups()
        });
        runtime.block_on(runtime.spawn(async { block(THRESHOLD * 3) })).unwrap();
        let stalls = told_so_far(&watchdog, &told);
        if certain(&stalls).is_empty() { Err(format!("{stalls:?}")) } else { Ok(()) }
    });
}
