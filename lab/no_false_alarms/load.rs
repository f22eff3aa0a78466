//! Runtimes under load, each kind built and attached.

use std::time::{Duration, Instant};

use super::fixture::*;
use super::report::Report;
use test_support::*;

/// Runs a program on a runtime of each kind, one after the other.
fn on_each(kinds: Vec<(&'static str, tokio::runtime::Builder)>, program: impl Fn(&Watched)) {
    let observer = Observer::start();
    for kind in kinds {
        for watched in observer.runtimes(vec![kind]) {
            observer.run_healthy(|| program(&watched));
        }
    }
    observer.finish();
}

/// All workers are busy with short polls.
#[test]
fn full_load_is_silent() {
    if is_child() {
        return on_each(all_kinds(), |watched| {
            let start = Instant::now();
            watched.run(16, || async move {
                while start.elapsed() < TIME {
                    spin_shortly();
                    tokio::task::yield_now().await;
                }
            });
        });
    }
    undisturbed(|| Report::of_child("load::full_load_is_silent").assert_silent());
}

/// One task is always busy with short polls, and another one has timers.
#[test]
fn one_busy_worker_is_silent() {
    if is_child() {
        return on_each(all_kinds(), |watched| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    watched.run(1, || async move {
                        while start.elapsed() < TIME {
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                    });
                });
                watched.run(1, || async move {
                    while start.elapsed() < TIME {
                        spin_shortly();
                        tokio::task::yield_now().await;
                    }
                });
            });
        });
    }
    undisturbed(|| Report::of_child("load::one_busy_worker_is_silent").assert_silent());
}

/// Every task blocks, for a short or a long time, and hands its worker over before.
#[test]
fn block_in_place_everywhere_is_silent() {
    if is_child() {
        return on_each(multi_thread_kinds(), |watched| {
            let start = Instant::now();
            watched.run(6, || async move {
                for time in [2 * LONG_THRESHOLD, 10 * LONG_THRESHOLD].into_iter().cycle() {
                    tokio::task::block_in_place(|| std::thread::sleep(time));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if start.elapsed() >= TIME {
                        break;
                    }
                }
            });
        });
    }
    undisturbed(|| Report::of_child("load::block_in_place_everywhere_is_silent").assert_silent());
}

/// A current-thread runtime whose tasks are in a `LocalSet`, and one whose root does all the work.
#[test]
fn local_tasks_and_roots_are_silent() {
    if is_child() {
        return on_each(vec![("current-thread", current_thread())], |watched| {
            let start = Instant::now();
            let work = move || async move {
                while start.elapsed() < TIME {
                    spin_shortly();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&watched.runtime, async {
                let local = tokio::task::spawn_local(work());
                tokio::join!(work(), watched.watchdog.watch(work()));
                local.await.unwrap();
            });
        });
    }
    undisturbed(|| Report::of_child("load::local_tasks_and_roots_are_silent").assert_silent());
}
