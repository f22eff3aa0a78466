use super::*;
use crate::model::cause::{Cause, Purpose, Syscall};
use crate::model::labels::CaptureOutcome;
use crate::model::no_stack::NoStack;
use crate::model::segment::Segment;
use crate::model::stall::{Phase, Stall};
use crate::report::samples;

#[test]
fn a_text_becomes_one_line() {
    assert_eq!(one_line("assertion `left == right` failed\n  left: 1\n right: 2"), {
        "assertion `left == right` failed left: 1 right: 2"
    });
    assert_eq!(one_line("a\r\nb\u{1b}[31mc\t"), "a b [31mc");
    assert_eq!(one_line(""), "");
}

fn segment(cause: Cause, reason: &'static str, from: u64, to: u64) -> Segment {
    let [from, to] = [from, to].map(Duration::from_millis);
    Segment { cause, reason, location: None, syscall: None, from, to }
}

/// Returns the first line of a stall with these segments, after the name of the runtime.
fn reason(phase: Phase, millis: u64, shown: &Segment, segments: &[Segment]) -> String {
    let mut stall = Stall { phase, cause: shown.cause, reason: shown.reason, ..samples::stall(1, millis) };
    (stall.syscall, stall.segments) = (shown.syscall.clone(), segments.to_vec());
    stall.summary().to_string().split_once("\"main\"").unwrap().1.to_owned()
}

fn ongoing(millis: u64, segments: &[Segment]) -> String {
    reason(Phase::Ongoing, millis, segments.last().unwrap(), segments)
}

#[test]
fn a_line_says_what_the_thread_does_now_and_what_it_did_before() {
    let sleep = segment(Cause::Syscall, "a sleep", 0, 100);
    let mut lock = segment(Cause::Lock, "a Mutex", 100, 1_200);
    assert_eq!(ongoing(100, std::slice::from_ref(&sleep)), ": blocked in a sleep (off-CPU)");
    let both = [sleep.clone(), lock.clone()];
    assert_eq!(ongoing(1_300, &both), ": blocked in a Mutex for 1200 ms (off-CPU; before: 100 ms in a sleep)");
    let mut call = Syscall { name: "futex".into(), target: None, purpose: Purpose::Futex };
    lock.syscall = Some(call.clone());
    let end = reason(Phase::Resolved, 1_300, &lock, &both);
    assert_eq!(end, ": blocked in a Mutex for 1100 ms (off-CPU, syscall futex; besides: 100 ms in a sleep)");
    call.target = Some("/data".into());
    lock.syscall = Some(call);
    let text = ongoing(1_200, &[sleep, lock]);
    assert!(text.ends_with("(off-CPU, syscall futex) on /data (before: 100 ms in a sleep)"), "{text}");
}

#[test]
fn a_stall_without_a_reason_says_why_it_has_no_stack() {
    let reason = |stall: &Stall| stall.summary().to_string().split_once("\"main\"").unwrap().1.to_owned();
    let stall = |no_stack| Stall { no_stack: Some(no_stack), ..samples::stall(1, 10) };
    for (why, text) in [
        (NoStack::EndedFirst, "it ended before its thread could be read"),
        (NoStack::Failed(CaptureOutcome::Limited), "too many stalls were examined at once"),
        (NoStack::Failed(CaptureOutcome::Timeout), "its thread did not answer in time"),
    ] {
        assert_eq!(reason(&stall(why)), format!(": reason not known: no stack was captured: {text}"));
    }
    let sleeps = Stall { cause: Cause::Syscall, reason: "a sleep", ..stall(NoStack::EndedFirst) };
    assert_eq!(reason(&sleeps), ": blocked in a sleep (off-CPU)");
    let stack = Some(Stack::new(vec![samples::frame("app::work")], true, |_| false));
    assert_eq!(reason(&Stall { stack, ..stall(NoStack::EndedFirst) }), "", "its location follows");
}

#[test]
fn only_the_longest_other_activities_are_named() {
    let segments = [
        segment(Cause::Cpu, "computing", 0, 30),
        segment(Cause::Starved, "ready to run, but was given no CPU", 30, 80),
        segment(Cause::Unknown, "", 80, 81),
        segment(Cause::Cpu, "computing", 81, 101),
        segment(Cause::Lock, "a Mutex", 101, 111),
        segment(Cause::Cpu, "computing", 111, 211),
    ];
    let text = ": computing for 100 ms (cpu; before: 50 ms computing, 50 ms without a CPU)";
    assert_eq!(ongoing(211, &segments), text);
    let text = ": computing for 150 ms (cpu; besides: 50 ms without a CPU, 10 ms in a Mutex)";
    assert_eq!(reason(Phase::Resolved, 211, &segments[5], &segments), text);
    // A task that was on a CPU, though each examination found it without one.
    let computed = segment(Cause::Cpu, "computing", 0, 0);
    let text = reason(Phase::Resolved, 80, &computed, &segments[1..2]);
    assert_eq!(text, ": computing (cpu; besides: 50 ms without a CPU)");
}

/// A thread that waits for one lock after another.
#[test]
fn another_lock_is_another_activity() {
    let at = |function: &str, from, to| Segment {
        location: Some(function.into()),
        ..segment(Cause::Lock, "a Mutex", from, to)
    };
    let text = ongoing(90, &[at("app::first", 0, 40), segment(Cause::Lock, "a Mutex", 40, 90)]);
    assert_eq!(text, ": blocked in a Mutex for 50 ms (off-CPU; before: 40 ms in a Mutex at app::first)");
}
