//! A minute in which nothing happens, or nearly nothing.

use std::time::{Duration, Instant};

use super::fixture::*;
use super::report::Report;
use test_support::*;

const MINUTE: Duration = Duration::from_secs(60);
/// `/healthz` is asked rarely: each request wakes the watchdog.
const BETWEEN_CHECKS: Duration = Duration::from_secs(20);

/// Runtimes without a task, and runtimes whose tasks only sleep, each kind built and attached. Two
/// watchdogs observe them, of which one sleeps and the other is kept awake.
fn minute() {
    let (idle, sleepy) = (Observer::start(), Observer::start());
    let idle_runtimes = idle.runtimes(all_kinds());
    let sleepy_runtimes = sleepy.runtimes(vec![("2 workers", multi_thread(2)), ("current-thread", current_thread())]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        // A current-thread runtime is driven by whoever waits for its root.
        for driven in idle_runtimes.iter().filter(|watched| watched.is_current_thread()) {
            scope.spawn(|| driven.runtime.block_on(driven.watchdog.watch(async { tokio::time::sleep(MINUTE).await })));
        }
        for watched in &sleepy_runtimes {
            scope.spawn(|| {
                watched.run(8, || async move {
                    for millis in [1, 3, 10, 30, 100, 300].into_iter().cycle() {
                        tokio::time::sleep(Duration::from_millis(millis)).await;
                        if start.elapsed() >= MINUTE {
                            break;
                        }
                    }
                });
            });
        }
        while start.elapsed() < MINUTE {
            std::thread::sleep(BETWEEN_CHECKS.min(MINUTE.saturating_sub(start.elapsed())));
            [&idle, &sleepy].into_iter().for_each(Observer::check_health);
        }
    });
    [idle, sleepy].into_iter().for_each(Observer::finish);
}

#[test]
fn an_idle_minute_is_silent() {
    if is_child() {
        return minute();
    }
    undisturbed(|| Report::of_child("idle::an_idle_minute_is_silent").assert_silent());
}
