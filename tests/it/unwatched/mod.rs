//! Tests of workers blocked by unwatched tasks (stable mode). They are detected, and nothing else
//! is.

mod block_in_place;
mod detects;
#[cfg(feature = "capture")]
mod first_park;
mod no_false_positives;
mod paused;
#[cfg(feature = "capture")]
mod short_waits;

use std::time::{Duration, Instant};

use pollwatch::{Certainty, Stall, Watchdog};
use tokio::runtime::Runtime;

use test_support::*;

fn no_reports(stalls: &[Stall]) -> Result<(), String> {
    if stalls.is_empty() { Ok(()) } else { Err(format!("{} reports, the first: {}", stalls.len(), stalls[0])) }
}

fn observed(stalls: &[Stall]) -> Vec<&Stall> {
    stalls.iter().filter(|s| s.certainty == Certainty::Observed).collect()
}

/// Waits until every worker has parked. Only then does its thread count as a worker.
fn settle(runtime: &Runtime) {
    let metrics = runtime.metrics();
    let has_parked = |worker| metrics.worker_park_count(worker) > 0;
    let start = Instant::now();
    runtime.block_on(async {
        // A few turns of the event loop, since the first worker may have to park more than once.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while !(0..metrics.num_workers()).all(has_parked) {
            assert!(start.elapsed() < TIMEOUT, "every worker parks");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

fn build(watchdog: &Watchdog, workers: usize) -> Runtime {
    let runtime = watchdog.build_runtime("main", multi_thread(workers)).unwrap();
    settle(&runtime);
    runtime
}

/// Runs a load that blocks no worker, and asserts that nothing is reported.
fn assert_not_reported(threshold: Duration, workers: usize, load: impl Fn(&Runtime) + Clone) {
    undisturbed(|| {
        let (watchdog, collected) = start(threshold);
        let runtime = build(&watchdog, workers);
        load(&runtime);
        let stalls = reported_so_far(&watchdog, &collected);
        // Observed stalls must be right, whatever else the machine does.
        assert!(observed(&stalls).is_empty(), "{}", observed(&stalls)[0]);
        no_reports(&stalls)
    });
}
