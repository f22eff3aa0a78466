//! Workers that block before their first park.

use std::time::Duration;

use pollwatch::{Cause, Certainty};

use super::observed;
use test_support::*;

/// The time for which the first task blocks.
const FIRST: Duration = Duration::from_millis(800);

/// Blocks in the very first task of a runtime, and returns the worker of the report.
fn block_at_once(workers: usize) -> Option<usize> {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(workers)).unwrap();
        let first = runtime.spawn(async { std::thread::sleep(FIRST) });
        runtime.block_on(first).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        assert!(stalls.iter().all(|stall| stall.id == stalls[0].id), "one stall: {stalls:#?}");
        let Some(stall) = observed(&stalls).last().copied().cloned() else { return Err(format!("{stalls:?}")) };
        assert_eq!((stall.certainty, stall.cause), (Certainty::Observed, Cause::Syscall));
        assert!(stall.elapsed <= FIRST * 2 && stall.elapsed_is_lower_bound, "{stall}");
        let main = runtime_of(&watchdog.snapshot(), "main");
        let counted: u64 = main.stalls.iter().map(|of_cause| of_cause.stalls.count).sum();
        assert_eq!((counted, main.suspected.count, main.root_stalls.count), (1, 0, 0));
        if stall.elapsed + FIRST / 4 >= FIRST { Ok(stall.worker) } else { Err(stall.to_string()) }
    })
}

#[test]
fn the_first_task_of_a_runtime_with_one_worker_is_observed() {
    assert_eq!(block_at_once(1), Some(0));
}

/// The index is unknown where several workers have not parked, and otherwise follows.
#[test]
fn the_first_task_of_a_runtime_with_several_workers_is_observed() {
    let worker = block_at_once(4);
    assert!(worker.is_none_or(|worker| worker < 4), "{worker:?}");
}
