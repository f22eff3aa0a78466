use pollwatch_stack::Frame;

use super::*;
use crate::model::cause::Purpose;
use crate::model::cause::Syscall;
use crate::model::event::CpuVerdict;
use crate::report::findings::innermost;

fn findings(cause: Cause) -> Findings {
    Findings {
        cause,
        syscall: None,
        stack: None,
        reason: cause.as_str(),
        advice: None,
        lock: None,
        pool: None,
        usage: Default::default(),
    }
}

fn call(cause: Cause, name: &'static str) -> Findings {
    let syscall = Some(Syscall { name: name.into(), target: None, purpose: Purpose::Unknown });
    Findings { syscall, ..findings(cause) }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stack_at(function: &str, line: u32) -> Option<Stack> {
    let mut frame = Frame::default();
    (frame.function, frame.file, frame.line) = (Some(function.into()), Some("main.rs".into()), Some(line));
    Some(Stack::new(vec![frame], true, |_| false))
}

fn stack(function: &str) -> Option<Stack> {
    stack_at(function, 1)
}

fn set(history: &mut SegmentHistory, number: u32, stack: Option<Stack>) {
    history.set_stack(SampleNumber(number), stack, |findings| findings.reason = "explained");
}

/// The segments as cause, function and bounds in milliseconds.
fn shown(history: &SegmentHistory) -> Vec<String> {
    let shown = |segment: Segment| {
        let location = segment.location.as_deref().unwrap_or("-").split(' ').next().unwrap().to_owned();
        format!("{} {location} {}..{}", segment.cause, segment.from.as_millis(), segment.to.as_millis())
    };
    history.segments().into_iter().map(shown).collect()
}

/// The times in the profile as cause, function and milliseconds.
fn profiled(history: &mut SegmentHistory) -> Vec<String> {
    let shown = |sample: ProfileSample| {
        let function = sample.stack.as_ref().and_then(innermost).map(Frame::name);
        format!("{} {} {}", sample.cause, function.as_deref().unwrap_or("-"), sample.amount.time.0 / 1_000_000)
    };
    history.take_profiled().into_iter().map(shown).collect()
}

#[test]
fn segments_follow_the_cause_and_the_system_call() {
    let mut history = SegmentHistory::new(call(Cause::Syscall, "nanosleep"), ms(10), false);
    history.examine(call(Cause::Syscall, "nanosleep"), ms(20), ms(20), false);
    history.examine(call(Cause::Lock, "futex"), ms(100), ms(103), false);
    history.examine(call(Cause::Lock, "futex"), ms(200), ms(200), false);
    assert_eq!(shown(&history), ["syscall - 0..100", "lock - 100..200"]);
    history.examine(call(Cause::Syscall, "read"), ms(200), ms(210), false);
    history.examine(call(Cause::Syscall, "write"), ms(210), ms(220), false);
    history.extend(ms(230));
    assert_eq!(shown(&history)[2..], ["syscall - 200..210", "syscall - 210..230"]);
    assert_eq!(profiled(&mut history), ["syscall - 100", "lock - 100", "syscall - 10", "syscall - 20"]);
}

/// The cause and the stack beside it are of one examination: a stack goes with its cause.
#[test]
fn a_new_cause_does_not_keep_the_stack() {
    let mut history = SegmentHistory::new(findings(Cause::Lock), ms(10), true);
    set(&mut history, 1, stack("wait"));
    assert!(history.current().stack.is_some());
    history.examine(findings(Cause::Cpu), ms(15), ms(20), true);
    assert!(history.current().stack.is_none() && history.current().cause == Cause::Cpu);
    // The stack of a cause that stays is shown until the next one is known.
    history.examine(findings(Cause::Cpu), ms(40), ms(40), true);
    set(&mut history, 2, stack("compress"));
    assert_eq!(history.current().reason, "explained");
    assert_eq!(shown(&history), ["lock wait 0..15", "cpu compress 15..40"]);
    set(&mut history, 3, stack_at("compress", 9));
    assert_eq!(shown(&history), ["lock wait 0..15", "cpu compress 15..40"], "another line of the same function");
    assert_eq!(history.location_changed(), Some(true));
}

/// A location that changes while the cause stays splits the segment, also when symbols come late.
#[test]
fn a_new_location_is_a_new_segment() {
    let mut history = SegmentHistory::new(findings(Cause::Lock), ms(10), true);
    history.examine(findings(Cause::Lock), ms(20), ms(20), true);
    history.examine(findings(Cause::Lock), ms(40), ms(40), true);
    history.examine(findings(Cause::Cpu), ms(50), ms(60), true);
    assert_eq!(profiled(&mut history), [""; 0], "nothing is known yet");
    set(&mut history, 1, stack("a"));
    set(&mut history, 2, stack("b"));
    set(&mut history, 3, stack("a"));
    set(&mut history, 4, stack("c"));
    history.extend(ms(65));
    assert_eq!(shown(&history), ["lock a 0..20", "lock b 20..40", "lock a 40..50", "cpu c 50..65"]);
    let mut all = profiled(&mut history);
    all.sort();
    assert_eq!(all, ["cpu c 15", "lock a 10", "lock a 20", "lock b 20"]);
    assert_eq!(history.main_findings(Cause::Lock).stack, stack("a"));
}

#[test]
fn a_stack_that_failed_leaves_the_time_without_one() {
    let mut history = SegmentHistory::new(findings(Cause::Cpu), ms(10), true);
    set(&mut history, 1, None);
    history.examine(findings(Cause::Cpu), ms(20), ms(20), true);
    set(&mut history, 2, stack("a"));
    set(&mut history, 2, stack("b"));
    set(&mut history, 99, stack("b"));
    assert_eq!(shown(&history), ["cpu a 0..20"]);
    history.extend(ms(30));
    assert_eq!(profiled(&mut history), ["cpu - 20", "cpu a 10"]);
}

/// However often the activity changes, the segments are bounded, and nothing is lost from the sums.
#[test]
fn many_segments_are_summed_up() {
    let mut history = SegmentHistory::new(findings(Cause::Syscall), ms(1), false);
    let causes = [Cause::Cpu, Cause::Lock, Cause::Syscall];
    for i in 1..3_000 {
        history.examine(findings(causes[i as usize % 3]), ms(i), ms(i + 1), true);
        set(&mut history, i as u32, stack(&format!("f{}", i % 100)));
    }
    assert_eq!(history.segments().len(), MAX_SEGMENTS + 1);
    assert!(history.older.len() <= MAX_LOCATIONS && history.merged().count > 2_900);
    let kept: Duration = history.segments().iter().map(Segment::duration).sum();
    assert_eq!(kept + history.merged().time, ms(3_000));
    let sums = causes.map(|cause| history.times().of(cause));
    assert_eq!(sums.iter().sum::<Duration>(), ms(3_000));
    let profiled = history.take_profiled();
    assert_eq!(profiled.iter().map(|sample| sample.amount.time.to_duration()).sum::<Duration>(), ms(3_000));
}

#[test]
fn the_main_cause_is_that_with_the_most_time() {
    let of = |parts: &[(Cause, u64)], verdict| {
        let mut history = SegmentHistory::new(findings(parts[0].0), ms(parts[0].1), false);
        let mut elapsed = parts[0].1;
        for &(cause, time) in &parts[1..] {
            history.examine(findings(cause), ms(elapsed), ms(elapsed + time), false);
            elapsed += time;
        }
        history.times().main_cause(verdict)
    };
    let (computed, other) = (CpuVerdict::Computed, CpuVerdict::Other);
    assert_eq!(of(&[(Cause::Syscall, 100), (Cause::Lock, 1_200)], other), Cause::Lock);
    assert_eq!(of(&[(Cause::Lock, 30), (Cause::Cpu, 20), (Cause::Lock, 1), (Cause::Cpu, 20)], other), Cause::Cpu);
    assert_eq!(of(&[(Cause::Starved, 100), (Cause::Cpu, 10)], computed), Cause::Cpu);
    assert_eq!(of(&[(Cause::Starved, 100)], CpuVerdict::Starved), Cause::Starved);
    assert_eq!(of(&[(Cause::Starved, 100)], computed), Cause::Cpu);
    assert_eq!(of(&[(Cause::Starved, 100), (Cause::Unknown, 1)], computed), Cause::Cpu);
    assert_eq!(of(&[(Cause::Starved, 100), (Cause::Lock, 11)], computed), Cause::Lock);
    assert_eq!(of(&[(Cause::Starved, 100)], other), Cause::Unknown, "the run delay does not account for it");
    assert_eq!(of(&[(Cause::Unknown, 100), (Cause::Lock, 1)], other), Cause::Unknown);
}

/// A stack that is taken after the examination that requested it.
#[test]
fn a_late_stack_belongs_to_the_latest_examination() {
    let mut history = SegmentHistory::new(findings(Cause::Cpu), ms(10), false);
    history.await_late_stack();
    history.extend(ms(40));
    history.set_stack(history.latest_sample(), stack("munmap"), |_| ());
    assert_eq!(shown(&history), ["cpu munmap 0..40"], "the first stack of the segment");
    assert_eq!(profiled(&mut history), ["cpu munmap 40"]);
    history.examine(findings(Cause::Cpu), ms(50), ms(60), false);
    history.await_late_stack();
    history.extend(ms(90));
    history.set_stack(history.latest_sample(), stack("fork"), |_| ());
    assert_eq!(shown(&history), ["cpu munmap 0..60", "cpu fork 60..90"], "the call before was another");
}

/// A segment without length, and a first examination that the next one contradicts.
#[test]
fn time_before_an_examination_may_belong_to_its_segment() {
    let mut history = SegmentHistory::new(findings(Cause::Unknown), ms(10), false);
    history.examine(findings(Cause::Lock), ms(0), ms(20), false);
    assert_eq!(shown(&history), ["lock - 0..20"]);
    assert_eq!(profiled(&mut history), ["lock - 20"]);
    history.examine(findings(Cause::Cpu), ms(15), ms(30), false);
    assert_eq!(shown(&history), ["lock - 0..15", "cpu - 15..30"]);
    assert_eq!(profiled(&mut history), ["cpu - 10"], "the profile has the rest already");
}
