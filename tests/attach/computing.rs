//! Threads that compute within a task.

use std::time::Duration;

use pollwatch::{Cause, Certainty, Phase, Stall};

use crate::fixture::{Target, is_in, wait_for};

#[test]
fn a_computation_is_suspected_and_the_stops_are_short_and_rare() {
    let target = Target::start("compute");
    let attached = target.attach().start().unwrap();
    // On a machine without a free CPU, others have waited for one instead.
    let computed = |stall: &Stall| stall.on_cpu.is_some_and(|on_cpu| on_cpu >= Duration::from_millis(10));
    let stall = wait_for(&attached, |stall| is_in(stall, "computes_in_a_task") && computed(stall));
    println!("{stall}");
    assert_eq!(stall.certainty, Certainty::Suspected);
    assert!(matches!(stall.cause, Cause::Cpu | Cause::Starved), "{stall}");
    let stops = attached.stops();
    println!("{stops:?} in {} scans", attached.scans());
    assert!(stops.count > 0 && stops.total >= stops.longest, "{stops:?}");
}

#[test]
fn a_poll_that_waits_and_computes_is_observed_as_far_as_it_waits() {
    let target = Target::start("mixed");
    let attached = target.attach().start().unwrap();
    let is_over = |stall: &Stall| stall.phase == Phase::Resolved && is_in(stall, "sleeps_and_computes");
    let wait = wait_for(&attached, |stall| stall.certainty == Certainty::Observed && is_over(stall));
    println!("{wait}");
    assert_eq!(wait.cause, Cause::Syscall);
    assert!(wait.segments.iter().all(|segment| segment.cause == Cause::Syscall), "{wait}");
    let computation = wait_for(&attached, |stall| stall.certainty == Certainty::Suspected && is_over(stall));
    println!("{computation}");
    let observed = attached.stalls().into_iter().filter(|stall| stall.certainty == Certainty::Observed);
    assert!(observed.into_iter().all(|stall| stall.cause == Cause::Syscall));
}

#[test]
fn short_polls_of_one_busy_task_are_no_stall() {
    let target = Target::start("yields");
    let attached = target.attach().start().unwrap();
    assert_eq!(attached.wait(Some(Duration::from_secs(5))), None);
    let stalls = attached.stalls();
    let observed: Vec<_> = stalls.iter().filter(|stall| stall.certainty == Certainty::Observed).collect();
    assert!(observed.is_empty(), "{observed:#?}");
    println!("{} suspected, {:?}", stalls.len(), attached.stops());
}

#[test]
fn a_worker_that_parks_between_short_polls_is_not_suspected() {
    let target = Target::start("parks_between");
    let attached = target.attach().start().unwrap();
    assert_eq!(attached.wait(Some(Duration::from_secs(4))), None);
    // A poll may wait for a CPU for long, and then does not compute for longer than it is to.
    let computed = |stall: &Stall| stall.on_cpu.is_some_and(|on_cpu| on_cpu >= Duration::from_millis(10));
    let is_wrong = |stall: &Stall| stall.certainty == Certainty::Observed || computed(stall);
    let stalls: Vec<_> = attached.stalls().into_iter().filter(is_wrong).collect();
    assert!(stalls.is_empty(), "{stalls:#?}");
    println!("{:?} in {} scans", attached.stops(), attached.scans());
}

#[test]
fn short_waits_in_one_poll_are_suspected() {
    let target = Target::start("waits_shortly");
    let attached = target.attach().start().unwrap();
    let stall = wait_for(&attached, |stall| stall.certainty == Certainty::Suspected);
    println!("{stall}");
    assert_eq!(stall.cause, Cause::Syscall, "{stall}");
}

#[test]
fn nothing_is_stopped_without_permission() {
    let target = Target::start("compute");
    let attached = target.attach().stop(false).start().unwrap();
    assert_eq!(attached.wait(Some(Duration::from_secs(2))), None);
    assert_eq!(attached.stops().count, 0);
    let stalls = attached.stalls();
    assert!(stalls.iter().all(|stall| stall.cause != Cause::Cpu), "{stalls:#?}");
}
