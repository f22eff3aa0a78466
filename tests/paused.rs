//! Tests of a stopped process: no stall is attributed to a task. SIGSTOP stops a whole process, so
//! each test runs itself as a child and stops that.

#![cfg(target_os = "linux")]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Phase, Snapshot, Watchdog};
use test_support::sigstop::*;
use test_support::*;

const LONG: Duration = Duration::from_millis(200);
const TIME_STOPPED: Duration = Duration::from_secs(2);
/// The threshold and the number of stops where many follow each other.
const SHORT: Duration = Duration::from_millis(20);
const STOPS: usize = 80;

/// Runs the test `name` of this binary as a child, stops it for a while once it is ready, and
/// returns the lines that it prints then and the time stopped.
fn stop_for_a_while(name: &str) -> (Vec<String>, Duration) {
    let (child, lines) = StoppableChild::start(name);
    child.stop();
    let started = Instant::now();
    std::thread::sleep(TIME_STOPPED);
    let stopped = started.elapsed();
    (child.finish(lines), stopped)
}

/// Short polls, of which one spans the time stopped.
#[test]
fn a_stopped_process_has_no_stall() {
    if is_child() {
        return short_polls();
    }
    undisturbed(|| {
        let (lines, _) = stop_for_a_while("a_stopped_process_has_no_stall");
        assert_no_blame(&lines)?;
        let paused = lines_with(&lines, "paused");
        assert!(paused.len() <= 1, "{lines:?}");
        if paused.len() == 1 { Ok(()) } else { Err(format!("{lines:?}")) }
    });
}

/// Asserts that the watchdog overslept and that no stall is attributed to a site. `Err` if the
/// machine disturbed the attempt.
fn assert_no_blame(lines: &[String]) -> Result<(), String> {
    assert_ne!(line_with(lines, "oversleeps"), "0", "the watchdog overslept: {lines:?}");
    assert_eq!(line_with(lines, "conditions"), "0", "the drivers were attended: {lines:?}");
    let blamed = lines_with(lines, "blamed");
    assert_eq!(blamed.is_empty(), line_with(lines, "site stalls") == "0", "{lines:?}");
    if blamed.is_empty() && lines_with(lines, "starved").is_empty() { Ok(()) } else { Err(format!("{lines:?}")) }
}

fn short_polls() {
    let (watchdog, collected) = start(LONG);
    short_polls_of(&watchdog, LONG / 20);
    print_reports(&watchdog, &collected);
}

/// Polls until the parent continues the child.
fn short_polls_of(watchdog: &Watchdog, time: Duration) {
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let may_end = continue_flag();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    runtime.block_on(watchdog.watch(async {
        // A watchdog that has not started yet cannot oversleep.
        while wakeups() < 3 {
            yield_once().await;
        }
        println!("\nready");
        while !may_end.load(Ordering::Acquire) {
            block(time);
            yield_once().await;
        }
    }));
}

/// Many short stops meet the watchdog at every moment between two sleeps.
#[test]
fn stops_at_any_moment_cause_no_stall() {
    if is_child() {
        return often_stopped();
    }
    undisturbed(|| {
        let lines = stop_often("stops_at_any_moment_cause_no_stall");
        let oversleeps: usize = line_with(&lines, "oversleeps").parse().expect("a number");
        let blamed = lines_with(&lines, "blamed");
        // A stop during the examination of a stall of a busy machine may go unnoticed.
        let examined = blamed.iter().any(|stall| stall.contains("ongoing"));
        let noticed = blamed.is_empty() || oversleeps >= STOPS || examined;
        assert!(noticed, "one went unnoticed, {oversleeps} did not: {blamed:?}");
        assert_no_blame(&lines)
    });
}

/// Runs the test `name` of this binary as a child, stops it repeatedly, and returns the lines that
/// it prints then.
fn stop_often(name: &str) -> Vec<String> {
    let (child, lines) = StoppableChild::start(name);
    for i in 0..STOPS {
        // Each stop comes at another moment of the watchdog's interval.
        std::thread::sleep(SHORT + SHORT / 7 * (i % 7) as u32);
        child.stop();
        std::thread::sleep(SHORT * 3);
        child.signal(libc::SIGCONT);
    }
    child.finish(lines)
}

fn often_stopped() {
    let (watchdog, collected) = start(SHORT);
    short_polls_of(&watchdog, SHORT / 20);
    print_reports(&watchdog, &collected);
}

/// A breakpoint in a handler, as the first thing that a service does after it was idle: the
/// watchdog is just waking up.
#[test]
fn a_stop_in_the_first_poll_after_an_idle_time_causes_no_stall() {
    const NAME: &str = "a_stop_in_the_first_poll_after_an_idle_time_causes_no_stall";
    if is_child() {
        return stops_itself();
    }
    undisturbed(|| {
        let (child, lines) = StoppableChild::start(NAME);
        wait_until("the child has stopped itself", || child.state() == "T");
        std::thread::sleep(TIME_STOPPED / 2);
        assert_no_blame(&child.finish(lines))
    });
}

fn stops_itself() {
    let (watchdog, collected) = start(LONG);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let may_end = continue_flag();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    wait_until("the watchdog runs", || wakeups() >= 1);
    println!("\nready");
    runtime.block_on(watchdog.watch(async {
        // Longer than the watchdog needs to fall asleep.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // SAFETY: `raise` takes and returns an integer. It stops this thread, and the others with
        // it, before it returns.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    }));
    wait_until("the parent lets it end", || may_end.load(Ordering::Acquire));
    print_reports(&watchdog, &collected);
}

/// Prints what the parent checks.
fn print_reports(watchdog: &Watchdog, collected: &CollectedStalls) {
    let stalls = reported_so_far(watchdog, collected);
    println!("\noversleeps {}", watchdog.snapshot().watchdog.oversleeps);
    for stall in stalls {
        let what = match stall.cause {
            Cause::Paused => "paused",
            Cause::Starved => "starved",
            _ => "blamed",
        };
        println!("\n{what} {stall}");
    }
    let Snapshot { sites, runtimes, .. } = watchdog.snapshot();
    println!("\nconditions {}", runtimes.iter().map(|r| r.driver_unattended.count + r.hung.count).sum::<u64>());
    println!(
        "\nsite stalls {}",
        sites.iter().filter(|s| !s.runtime.starts_with("fence ")).map(|s| s.stalls.count).sum::<u64>()
    );
}

/// A service with busy workers, with one that sleeps within short polls, and with an idle runtime.
#[test]
fn a_stop_of_many_workers_causes_no_stall() {
    if is_child() {
        return many_workers();
    }
    undisturbed(|| {
        let (lines, _) = stop_for_a_while("a_stop_of_many_workers_causes_no_stall");
        assert_no_blame(&lines)
    });
}

fn many_workers() {
    let (watchdog, collected) = start(LONG);
    let busy = watchdog.build_runtime("main", multi_thread(3)).unwrap();
    let idle = watchdog.build_runtime("idle", multi_thread(2)).unwrap();
    let may_end = continue_flag();
    let tasks: Vec<_> = (0..3)
        .map(|i| {
            let may_end = may_end.clone();
            let short = async move {
                while !may_end.load(Ordering::Acquire) {
                    // One task is between polls most of the time.
                    block(LONG / 40);
                    if i == 0 {
                        tokio::time::sleep(LONG / 20).await;
                    }
                    yield_once().await;
                }
            };
            spawn_measured(&watchdog, busy.handle(), short).0
        })
        .collect();
    let (parked, _) = spawn_measured(&watchdog, idle.handle(), std::future::pending::<()>());
    wait_until("the watchdog scans", || watchdog.snapshot().watchdog.wakeups >= 3);
    println!("\nready");
    busy.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    parked.abort();
    print_reports(&watchdog, &collected);
}

/// The time stopped is no part of the stall that it lies in.
#[test]
fn time_stopped_is_no_part_of_a_stall() {
    if is_child() {
        return one_long_poll();
    }
    undisturbed(|| {
        let (lines, stopped) = stop_for_a_while("time_stopped_is_no_part_of_a_stall");
        let seconds = |what: &str| Duration::from_secs_f64(line_with(&lines, what).parse().expect("a number"));
        let (elapsed, inner) = (seconds("elapsed"), seconds("inner"));
        assert!(inner >= stopped, "the poll's own clock went on");
        assert!(elapsed >= LONG);
        // The time that is subtracted is the time stopped, and not much more.
        let left_out = inner.saturating_sub(elapsed);
        if left_out >= stopped.mul_f64(0.9) && left_out <= stopped.mul_f64(1.5) {
            Ok(())
        } else {
            Err(format!("{inner:?} in all, {stopped:?} of it stopped, reported as {elapsed:?}"))
        }
    });
}

fn one_long_poll() {
    let (watchdog, collected) = start(LONG);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let may_end = continue_flag();
    let observer = collected.clone();
    let inner = runtime.block_on(watchdog.watch(async {
        let started = Instant::now();
        observer.wait_ongoing("main").expect("the stall is found");
        println!("\nready");
        while !may_end.load(Ordering::Acquire) {
            block(LONG / 20);
        }
        started.elapsed()
    }));
    let stall = collected.wait(|s| s.phase == Phase::Resolved).expect("the stall is resolved");
    println!("\nelapsed {}", stall.elapsed.as_secs_f64());
    println!("\ninner {}", inner.as_secs_f64());
}
