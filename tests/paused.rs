//! The whole process stands still: nobody is blamed. Signals are process-global, so the test runs itself as a child and
//! stops that.

#![cfg(target_os = "linux")]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Phase, Watchdog};
use test_support::sigstop::*;
use test_support::*;

const LONG: Duration = Duration::from_millis(200);
const STANDSTILL: Duration = Duration::from_secs(2);
/// The threshold where many follow on each other, and how many.
const SHORT: Duration = Duration::from_millis(20);
const STANDSTILLS: usize = 80;

/// Runs the test `name` of this binary as a child, stops it for a while once it says so, and returns what it prints then.
fn stop_for_a_while(name: &str) -> (Vec<String>, Duration) {
    let (child, lines) = StoppableChild::start(name);
    child.stop();
    let begin = Instant::now();
    std::thread::sleep(STANDSTILL);
    let stopped = begin.elapsed();
    (child.finish(lines), stopped)
}

/// Short polls, one of which spans the standstill.
#[test]
fn a_standstill_is_nobodys_stall() {
    if is_child() {
        return short_polls();
    }
    undisturbed(|| {
        let (lines, _) = stop_for_a_while("a_standstill_is_nobodys_stall");
        nobody_is_blamed(&lines)?;
        let paused = lines_with(&lines, "paused");
        assert!(paused.len() <= 1, "{lines:?}");
        if paused.len() == 1 { Ok(()) } else { Err(format!("{lines:?}")) }
    });
}

/// The watchdog was late, as it says itself, and nobody is to blame for that; nor for what a busy machine did, else it is `Err`.
fn nobody_is_blamed(lines: &[String]) -> Result<(), String> {
    assert_ne!(line_with(lines, "oversleeps"), "0", "the watchdog tells that it was late: {lines:?}");
    let blamed = lines_with(lines, "blamed");
    assert_eq!(blamed.is_empty(), line_with(lines, "site stalls") == "0", "{lines:?}");
    if blamed.is_empty() && lines_with(lines, "starved").is_empty() { Ok(()) } else { Err(format!("{lines:?}")) }
}

fn short_polls() {
    let (watchdog, told) = start(LONG);
    short_polls_of(&watchdog, LONG / 20);
    tell_all(&watchdog, &told);
}

/// Until the parent lets it go on.
fn short_polls_of(watchdog: &Watchdog, time: Duration) {
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    let go_on = continue_flag();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    runtime.block_on(watchdog.watch(async {
        // A watchdog that has not yet begun cannot be late.
        while wakeups() < 3 {
            yield_once().await;
        }
        println!("\nready");
        while !go_on.load(Ordering::Acquire) {
            block(time);
            yield_once().await;
        }
    }));
}

/// As short as it may be, many times: the watchdog is caught in whatever it does between two sleeps, too.
#[test]
fn standstills_at_any_moment_are_nobodys_stall() {
    if is_child() {
        return often_stopped();
    }
    undisturbed(|| {
        let lines = stop_often("standstills_at_any_moment_are_nobodys_stall");
        let oversleeps: usize = line_with(&lines, "oversleeps").parse().expect("a number");
        let blamed = lines_with(&lines, "blamed");
        // One that falls into the look at a stall of a busy machine's is not noticed.
        let examined = blamed.iter().any(|stall| stall.contains("ongoing"));
        let noticed = blamed.is_empty() || oversleeps >= STANDSTILLS || examined;
        assert!(noticed, "one went unnoticed, {oversleeps} did not: {blamed:?}");
        nobody_is_blamed(&lines)
    });
}

/// Runs the test `name` of this binary as a child, stops it again and again, and returns what it prints then.
fn stop_often(name: &str) -> Vec<String> {
    let (child, lines) = StoppableChild::start(name);
    for i in 0..STANDSTILLS {
        // At another place in what the watchdog does each time.
        std::thread::sleep(SHORT + SHORT / 7 * (i % 7) as u32);
        child.stop();
        std::thread::sleep(SHORT * 3);
        child.signal(libc::SIGCONT);
    }
    child.finish(lines)
}

fn often_stopped() {
    let (watchdog, told) = start(SHORT);
    short_polls_of(&watchdog, SHORT / 20);
    tell_all(&watchdog, &told);
}

/// A breakpoint in a handler, as the first thing that a service does after it was idle: the watchdog is still waking up.
#[test]
fn a_standstill_in_the_first_poll_after_a_rest_is_nobodys_stall() {
    const NAME: &str = "a_standstill_in_the_first_poll_after_a_rest_is_nobodys_stall";
    if is_child() {
        return stops_itself();
    }
    undisturbed(|| {
        let (child, lines) = StoppableChild::start(NAME);
        wait_until("it has stopped itself", || child.state() == "T");
        std::thread::sleep(STANDSTILL / 2);
        nobody_is_blamed(&child.finish(lines))
    });
}

fn stops_itself() {
    let (watchdog, told) = start(LONG);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    let go_on = continue_flag();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    wait_until("the watchdog runs", || wakeups() >= 1);
    println!("\nready");
    runtime.block_on(watchdog.watch(async {
        // As long as it takes to fall asleep, and longer.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // SAFETY: takes and returns an integer. It is this thread that is stopped, and the others with it, before it returns.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    }));
    wait_until("it may go on", || go_on.load(Ordering::Acquire));
    tell_all(&watchdog, &told);
}

/// What the parent asks about.
fn tell_all(watchdog: &Watchdog, told: &CollectedStalls) {
    let stalls = reported_so_far(watchdog, told);
    println!("\noversleeps {}", watchdog.snapshot().watchdog.oversleeps);
    for stall in stalls {
        let what = match stall.cause {
            Cause::Paused => "paused",
            Cause::Starved => "starved",
            _ => "blamed",
        };
        println!("\n{what} {stall}");
    }
    let sites = watchdog.snapshot().sites;
    println!(
        "\nsite stalls {}",
        sites.iter().filter(|s| !s.runtime.starts_with("fence ")).map(|s| s.stalls.count).sum::<u64>()
    );
}

/// A service with workers that are busy, with one that sleeps within a short poll, and with nothing to do at all.
#[test]
fn a_standstill_of_many_workers_is_nobodys_stall() {
    if is_child() {
        return many_workers();
    }
    undisturbed(|| {
        let (lines, _) = stop_for_a_while("a_standstill_of_many_workers_is_nobodys_stall");
        nobody_is_blamed(&lines)
    });
}

fn many_workers() {
    let (watchdog, told) = start(LONG);
    let busy = watchdog.build_runtime("main", &mut multi_thread(3)).unwrap();
    let idle = watchdog.build_runtime("idle", &mut multi_thread(2)).unwrap();
    let go_on = continue_flag();
    let tasks: Vec<_> = (0..3)
        .map(|i| {
            let go_on = go_on.clone();
            let short = async move {
                while !go_on.load(Ordering::Acquire) {
                    // One of them is between polls most of the time.
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
    wait_until("it watches", || watchdog.snapshot().watchdog.wakeups >= 3);
    println!("\nready");
    busy.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    parked.abort();
    tell_all(&watchdog, &told);
}

/// A real stall with a standstill in its middle is told without that.
#[test]
fn a_standstill_is_no_part_of_a_stall() {
    if is_child() {
        return one_long_poll();
    }
    undisturbed(|| {
        let (lines, stopped) = stop_for_a_while("a_standstill_is_no_part_of_a_stall");
        let seconds = |what: &str| Duration::from_secs_f64(line_with(&lines, what).parse().expect("a number"));
        let (elapsed, inner) = (seconds("elapsed"), seconds("inner"));
        assert!(inner >= stopped, "the poll's own clock went on");
        assert!(elapsed >= LONG);
        // What was left out is the standstill, and not much more.
        let left_out = inner.saturating_sub(elapsed);
        if left_out >= stopped.mul_f64(0.9) && left_out <= stopped.mul_f64(1.5) {
            Ok(())
        } else {
            Err(format!("{inner:?} in all, {stopped:?} of it stopped, told as {elapsed:?}"))
        }
    });
}

fn one_long_poll() {
    let (watchdog, told) = start(LONG);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    let go_on = continue_flag();
    let heard = told.clone();
    let inner = runtime.block_on(watchdog.watch(async {
        let begin = Instant::now();
        heard.wait_ongoing("main").expect("it is found");
        println!("\nready");
        while !go_on.load(Ordering::Acquire) {
            block(LONG / 20);
        }
        begin.elapsed()
    }));
    let stall = told.wait(|s| s.phase == Phase::Resolved).expect("it is resolved");
    println!("\nelapsed {}", stall.elapsed.as_secs_f64());
    println!("\ninner {}", inner.as_secs_f64());
}
