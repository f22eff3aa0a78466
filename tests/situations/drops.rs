//! Situations of tasks that drop large values.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Stall};

use test_support::*;

/// Enough strings that their drop lasts for several thresholds.
fn strings() -> Vec<String> {
    (0..2_000_000u32).map(|number| number.to_string()).collect()
}

/// Runs `drop_in_task` on a worker until one of its stalls has a stack, and returns that stall.
fn stall_of(drop_in_task: impl Fn(&tokio::runtime::Runtime, &pollwatch::Watchdog)) -> Stall {
    undisturbed(|| {
        let (watchdog, collected) = start(Duration::from_millis(5));
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        // Symbols are loaded at the first stall. They would take longer than the drop.
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(50) {
                black_box(started);
            }
        });
        let first = task.id();
        runtime.block_on(task).unwrap();
        drop_in_task(&runtime, &watchdog);
        let all = reported_so_far(&watchdog, &collected);
        let found =
            all.iter().find(|s| s.task.is_some_and(|task| task != first) && s.stack.is_some() && s.cause == Cause::Cpu);
        found.cloned().ok_or_else(|| format!("{all:#?}"))
    })
}

/// Waits until the runtime's worker has finished what it does now.
fn settle(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(runtime.spawn(async {})).unwrap();
}

#[track_caller]
fn assert_drop(stall: &Stall, reason: &str) {
    let all = format!("{stall}\n{:#}", stall.stack.as_ref().unwrap());
    assert_eq!(stall.reason, reason, "{all}");
    assert!(stall.advice.unwrap().contains("spawn_blocking(move || drop(value))"), "{all}");
}

#[inline(never)]
fn drops(value: Vec<String>) {
    drop(value);
}

#[test]
fn a_large_value_that_is_dropped_is_diagnosed() {
    let stall = stall_of(|runtime, watchdog| {
        let value = strings();
        let (task, _) = spawn_measured(watchdog, runtime.handle(), async move { drops(value) });
        runtime.block_on(task).unwrap();
    });
    assert_drop(&stall, "dropping a large value");
}

/// The drop is a poll of the task, in which tokio drops its future.
#[test]
fn a_large_value_of_an_aborted_task_is_diagnosed() {
    if !HOOKS {
        return skipped("only tokio's hooks measure the poll in which tokio drops an aborted task");
    }
    let stall = stall_of(|runtime, watchdog| {
        let value = strings();
        let (task, _) = spawn_measured(watchdog, runtime.handle(), async move {
            std::future::pending::<()>().await;
            black_box(value);
        });
        settle(runtime);
        task.abort();
        assert!(runtime.block_on(task).unwrap_err().is_cancelled());
        settle(runtime);
    });
    assert_drop(&stall, "dropping what an aborted or finished task owned");
    assert!(stall.to_string().contains("spawned at tests/"), "{stall}");
}
