//! Tests of a stopped process: that blocks no worker, and nothing is suspected.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Certainty, Stall};

use super::settle;
use test_support::sigstop::*;
use test_support::*;

const TIME_STOPPED: Duration = Duration::from_secs(1);
const STOPS: usize = 20;

/// Asserts that nothing is reported of a child that was stopped for a while. Whatever the machine
/// does, nothing may be observed falsely.
fn assert_nothing_reported(stop: impl Fn(&StoppableChild), name: &str, child: impl Fn()) {
    if is_child() {
        return child();
    }
    undisturbed(|| {
        let (child, lines) = StoppableChild::start(name);
        stop(&child);
        let lines = child.finish(lines);
        assert_ne!(line_with(&lines, "oversleeps"), "0", "the watchdog overslept: {lines:?}");
        let reported = lines_with(&lines, "reported");
        assert_eq!(line_with(&lines, "counted"), reported.len().to_string(), "{lines:?}");
        let certain = |reported: &&&str| reported.starts_with("Observed ") && !reported.starts_with("Observed Paused");
        assert_eq!(reported.iter().find(certain), None, "{lines:?}");
        // A busy machine stops the process at other times too.
        if reported.is_empty() { Ok(()) } else { Err(format!("{reported:#?}")) }
    });
}

/// Stops the child while the watchdog sleeps. If it is at work, such as reading the unwind tables
/// at its first capture, it may take the stop for a part of that. On a busy machine this work lasts
/// long.
fn stop_once(child: &StoppableChild) {
    child.stop_while_parked("pollwatch");
    std::thread::sleep(TIME_STOPPED);
}

/// Stops the child repeatedly for a few thresholds, at every moment of the watchdog's interval.
fn stop_often(child: &StoppableChild) {
    for i in 0..STOPS {
        std::thread::sleep(THRESHOLD + THRESHOLD / 7 * (i % 7) as u32);
        child.stop();
        std::thread::sleep(THRESHOLD * 4);
        child.signal(libc::SIGCONT);
    }
}

/// Workers in every state: parked, in short calls, in short computations, between polls.
fn workers() {
    let (watchdog, collected) = start(THRESHOLD);
    let busy = watchdog.build_runtime("main", multi_thread(3)).unwrap();
    let idle = watchdog.build_runtime("idle", multi_thread(2)).unwrap();
    settle(&busy);
    settle(&idle);
    let may_end = continue_flag();
    let tasks: Vec<_> = (0..3)
        .map(|i| {
            let may_end = may_end.clone();
            busy.spawn(async move {
                while !may_end.load(Ordering::Acquire) {
                    match i {
                        0 => _ = block(THRESHOLD / 20),
                        1 => tokio::time::sleep(THRESHOLD / 20).await,
                        _ => spin(THRESHOLD / 40),
                    }
                    yield_once().await;
                }
            })
        })
        .collect();
    println!("\nready");
    busy.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    let stalls = reported_so_far(&watchdog, &collected);
    let last: BTreeMap<u64, Stall> = stalls.into_iter().map(|stall| (stall.id, stall)).collect();
    let snapshot = watchdog.snapshot();
    let of = |name: &str| {
        let runtime = runtime_of(&snapshot, name);
        runtime.suspected.count + runtime.stalls.iter().map(|c| c.stalls.count).sum::<u64>()
    };
    println!("\noversleeps {}", snapshot.watchdog.oversleeps);
    println!("\ncounted {}", of("main") + of("idle"));
    last.values().for_each(|stall| println!("\nreported {:?} {:?} {}", stall.certainty, stall.cause, one_line(stall)));
}

fn spin(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn one_line(stall: &Stall) -> String {
    stall.to_string().replace('\n', " ")
}

#[test]
fn a_stopped_process_blocks_no_worker() {
    assert_nothing_reported(stop_once, "unwatched::paused::a_stopped_process_blocks_no_worker", workers);
}

#[test]
fn stops_at_any_moment_block_no_worker() {
    assert_nothing_reported(stop_often, "unwatched::paused::stops_at_any_moment_block_no_worker", workers);
}

/// A blocked worker is blocked for as long as it was, minus the time stopped.
#[test]
fn time_stopped_is_no_part_of_a_stall() {
    const NAME: &str = "unwatched::paused::time_stopped_is_no_part_of_a_stall";
    if is_child() {
        return blocked();
    }
    undisturbed(|| {
        let (child, lines) = StoppableChild::start(NAME);
        let started = Instant::now();
        stop_once(&child);
        let stopped = started.elapsed();
        let lines = child.finish(lines);
        let seconds = |what: &str| Duration::from_secs_f64(line_with(&lines, what).parse().expect("a number"));
        let (inner, elapsed) = (seconds("inner"), seconds("elapsed"));
        assert!(elapsed <= inner, "{lines:?}");
        let left_out = inner - elapsed;
        if left_out >= stopped.mul_f64(0.9) { Ok(()) } else { Err(format!("{stopped:?} stopped: {lines:?}")) }
    });
}

fn blocked() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = super::build(&watchdog, 2);
    let may_end = continue_flag();
    let gate = Gate::new();
    let key = gate.key();
    let task = runtime.spawn(async move {
        let started = Instant::now();
        assert!(key.pass());
        started.elapsed()
    });
    let stall = collected.wait_ongoing("main").expect("the stall is found");
    assert_eq!((stall.certainty, stall.cause), (Certainty::Observed, Cause::Lock), "{stall}");
    println!("\nready");
    wait_until("the parent lets it end", || may_end.load(Ordering::Acquire));
    gate.open();
    let inner = runtime.block_on(task).unwrap();
    println!("\ninner {}", inner.as_secs_f64());
    println!("\nelapsed {}", collected.wait_resolved("main").elapsed.as_secs_f64());
}
