//! Workers that are blocked by tasks which nobody wrapped (stable mode): it fires, and it stays silent.

mod block_in_place;
mod detects;
mod no_false_positives;
mod paused;

use std::time::Duration;

use pollwatch::{Certainty, Stall, Watchdog};
use tokio::runtime::Runtime;

use test_support::*;

fn none(stalls: &[Stall]) -> Result<(), String> {
    if stalls.is_empty() { Ok(()) } else { Err(format!("{} reports, the first: {}", stalls.len(), stalls[0])) }
}

fn certain(stalls: &[Stall]) -> Vec<&Stall> {
    stalls.iter().filter(|s| s.certainty == Certainty::Observed).collect()
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

/// Runs a load that blocks nobody, for some time; what was told of it meanwhile must be nothing.
fn silent(threshold: Duration, workers: usize, load: impl Fn(&Runtime) + Clone) {
    undisturbed(|| {
        let (watchdog, told) = start(threshold);
        let runtime = build(&watchdog, workers);
        load(&runtime);
        let stalls = reported_so_far(&watchdog, &told);
        // Whatever the machine does: what is certain must be so.
        assert!(certain(&stalls).is_empty(), "{}", certain(&stalls)[0]);
        none(&stalls)
    });
}
