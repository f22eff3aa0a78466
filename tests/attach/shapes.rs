//! Processes of unusual shape: forks, very many threads, a second observer.

use pollwatch::attach::Ended;
use pollwatch::{Certainty, Stall};
use test_support::wait_until;

use crate::fixture::{Target, assert_no_others, is_in, wait_for};
use crate::target::MANY_THREADS;

#[test]
fn a_process_that_forks() {
    let mut target = Target::start("forks");
    let attached = target.attach().start().unwrap();
    let stall = wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    assert_eq!(stall.certainty, Certainty::Observed);
    assert_no_others(&attached, "forks_and_sleeps");
    assert_eq!(attached.wait(Some(std::time::Duration::ZERO)), None);
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    // A fork of it may live on: it is another process.
    assert_eq!(attached.wait(Some(std::time::Duration::from_secs(30))), Some(Ended::Exited));
}

#[test]
fn the_workers_among_very_many_threads_are_found() {
    let target = Target::start("many_threads");
    let attached = target.attach().start().unwrap();
    // Symbols may be in use for long while so many threads are read: the first ones are suspected.
    let is_observed = |stall: &Stall| stall.certainty == Certainty::Observed;
    wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task") && is_observed(stall));
    assert_no_others(&attached, "sleeps_in_a_task");
    let coverage = || attached.snapshot().watchdog.coverage.to_string();
    println!("{}\n{} scans, oversleeps {}", coverage(), attached.scans(), attached.snapshot().watchdog.oversleeps);
    let unread = attached.unread_threads();
    assert!(unread == 0 || coverage().contains("not read so far"), "{}", coverage());
    // All are read in the end, or the coverage says how many are missing.
    wait_until("all threads are read", || attached.unread_threads() < MANY_THREADS as u64 / 2);
    // The process is still scanned.
    let scans = attached.scans();
    wait_until("further scans", || attached.scans() > scans + 10);
}

#[test]
fn two_observers_of_one_process() {
    let target = Target::start("sleep");
    let first = target.attach().start().unwrap();
    let second = target.attach().start().unwrap();
    for attached in [&first, &second] {
        let stall = wait_for(attached, |stall| is_in(stall, "sleeps_in_a_task"));
        assert_eq!(stall.certainty, Certainty::Observed);
    }
    first.detach();
    let known = second.stalls().len();
    wait_until("a stall after the first observer has left", || second.stalls().len() > known);
    assert_no_others(&second, "sleeps_in_a_task");
}
