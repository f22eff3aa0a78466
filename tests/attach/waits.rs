//! Threads that wait within a task.

use pollwatch::{Cause, Certainty, Stall};

use crate::fixture::{Target, assert_no_others, is_in, wait_for};
use crate::target::BLOCK;

/// Watches a child of this kind, and returns a stall in this function.
fn observe(kind: &str, function: &str) -> Stall {
    let target = Target::start(kind);
    let attached = target.attach().start().unwrap();
    let stall = wait_for(&attached, |stall| is_in(stall, function));
    println!("{stall}");
    assert_no_others(&attached, function);
    assert_eq!(stall.certainty, Certainty::Observed);
    assert!(stall.elapsed <= 3 * BLOCK && stall.elapsed_is_lower_bound, "{stall}");
    let location = stall.stack.as_ref().and_then(|stack| stack.location()).unwrap();
    assert!(location.name().ends_with(function) && location.line.is_some(), "{location}");
    assert!(location.file.as_deref().is_some_and(|file| file.ends_with("tests/attach/target.rs")), "{location}");
    stall
}

#[test]
fn a_sleep() {
    let stall = observe("sleep", "sleeps_in_a_task");
    assert_eq!(stall.cause, Cause::Syscall);
    assert_eq!(stall.reason, "a sleep");
    assert!(stall.advice.is_some_and(|advice| advice.contains("tokio::time::sleep")), "{stall}");
    assert_eq!(&*stall.runtime, "multi-thread");
}

#[test]
fn a_mutex() {
    let stall = observe("mutex", "waits_for_a_mutex");
    assert_eq!(stall.cause, Cause::Lock);
    assert!(stall.reason.contains("Mutex"), "{stall}");
}

#[test]
fn a_pipe_is_named_by_its_descriptor() {
    let target = Target::start("pipe");
    let attached = target.attach().start().unwrap();
    // On a busy machine, the start and the end of the writer's thread are waits as well.
    let stall = wait_for(&attached, |stall| {
        let target = stall.syscall.as_ref().and_then(|syscall| syscall.target.as_deref());
        is_in(stall, "reads_a_pipe") && target.is_some_and(|target| target.contains("socket"))
    });
    assert_eq!((stall.certainty, stall.cause), (Certainty::Observed, Cause::Syscall));
    assert_no_others(&attached, "reads_a_pipe");
}

#[test]
fn a_socket() {
    let stall = observe("socket", "connects_to_a_server");
    assert_eq!(stall.cause, Cause::Syscall);
}

#[test]
fn a_channel() {
    let stall = observe("channel", "receives_from_a_channel");
    assert_eq!(stall.cause, Cause::Lock);
}

#[test]
fn a_condvar() {
    let stall = observe("condvar", "waits_for_a_condvar");
    assert_eq!(stall.cause, Cause::Lock);
}

#[test]
fn the_root_of_a_current_thread_runtime() {
    let stall = observe("root", "sleeps_in_a_root");
    assert_eq!(&*stall.runtime, "current-thread");
}

#[test]
fn a_task_of_a_local_set() {
    let stall = observe("local_set", "sleeps_in_a_local_task");
    assert_eq!(&*stall.runtime, "current-thread");
}

#[test]
fn two_runtimes_are_told_apart() {
    let target = Target::start("two_runtimes");
    let attached = target.attach().start().unwrap();
    let api = wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    let jobs = wait_for(&attached, |stall| is_in(stall, "receives_from_a_channel"));
    assert_eq!((&*api.runtime, &*jobs.runtime), ("api", "jobs"));
}
