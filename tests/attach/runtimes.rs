//! Several runtimes in one process.

use std::collections::HashSet;

use pollwatch::{Certainty, Phase};
use test_support::wait_until;

use crate::fixture::{Target, assert_no_others, is_in, wait_for};

#[test]
fn arbiters_are_runtimes_of_their_own() {
    let target = Target::start("arbiters");
    let attached = target.attach().start().unwrap();
    let stall = wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_local_task"));
    println!("{stall}");
    assert_eq!(stall.certainty, Certainty::Observed);
    assert!(stall.thread.starts_with("actix-rt"), "{stall}");
    assert_no_others(&attached, "sleeps_in_a_local_task");
    wait_until("three runtimes", || attached.snapshot().runtimes.len() == 3);
    let snapshot = attached.snapshot();
    let names: HashSet<_> = snapshot.runtimes.iter().map(|runtime| &*runtime.name).collect();
    assert_eq!(names, HashSet::from(["current-thread", "current-thread-2", "current-thread-3"]));
    // The stalls of one thread are all of one runtime.
    let stalls = attached.stalls();
    let blocked: HashSet<_> =
        stalls.iter().filter(|stall| stall.phase == Phase::Resolved).map(|s| &*s.runtime).collect();
    assert_eq!(blocked.len(), 1, "{stalls:#?}");
}

#[test]
fn runtimes_whose_threads_have_the_same_name_are_one() {
    let target = Target::start("same_names");
    let attached = target.attach().start().unwrap();
    let stall = wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    assert_eq!((&*stall.runtime, stall.certainty), ("multi-thread", Certainty::Observed));
    assert_no_others(&attached, "sleeps_in_a_task");
    wait_until("both runtimes", || {
        let snapshot = attached.snapshot();
        snapshot.runtimes.len() == 1 && snapshot.runtimes[0].tokio.worker_threads == 4
    });
    // At most the two workers of one of them are blocked.
    assert!(attached.snapshot().runtimes[0].blocked_workers <= 2);
}
