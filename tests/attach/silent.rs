//! Threads that wait, and block nothing.

use std::time::{Duration, Instant};

use pollwatch::Certainty;

use crate::fixture::Target;

/// The scans after which a child is taken to be silent.
const SCANS: u64 = 200;

/// Watches a child of this kind for some of its waits: no stall may be observed.
fn assert_silent(kind: &str) {
    let target = Target::start(kind);
    let attached = target.attach().start().unwrap();
    let start = Instant::now();
    // Scans of a machine without a free CPU take longer.
    while start.elapsed() < Duration::from_secs(2) || attached.scans() < SCANS {
        assert!(start.elapsed() < Duration::from_secs(120), "{} scans", attached.scans());
        std::thread::sleep(Duration::from_millis(50));
    }
    let stalls = attached.stalls();
    let observed: Vec<_> = stalls.iter().filter(|stall| stall.certainty == Certainty::Observed).collect();
    assert!(observed.is_empty(), "{observed:#?}");
    assert!(!attached.snapshot().runtimes.is_empty());
}

#[test]
fn a_worker_in_block_in_place() {
    assert_silent("block_in_place");
}

#[test]
fn a_closure_of_the_pool() {
    assert_silent("spawn_blocking");
}

#[test]
fn an_idle_runtime() {
    assert_silent("idle");
}
