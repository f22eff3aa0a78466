//! Tests of the segments of a stall: what its thread did one after the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch::{Cause, Phase, Segment, Stall};

use test_support::*;

/// The presence of causes, which need the kernel's files.
const HAS_CAUSE: bool = cfg!(target_os = "linux");

/// A mutex that another thread holds until the gate is opened.
fn held_mutex(gate: &Gate) -> Arc<Mutex<()>> {
    let (mutex, key) = (Arc::new(Mutex::new(())), gate.key());
    let held = mutex.clone();
    let (locked, is_locked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _guard = lock(&held);
        locked.send(()).unwrap();
        key.pass();
    });
    is_locked.recv().unwrap();
    mutex
}

/// The time of the segments with a cause.
fn time_of(stall: &Stall, cause: Cause) -> Duration {
    stall.segments.iter().filter(|segment| segment.cause == cause).map(Segment::duration).sum()
}

/// Segments follow each other without a gap, and the last one ends no later than the stall.
fn assert_consistent(stall: &Stall) {
    let segments = &stall.segments;
    assert!(segments.windows(2).all(|pair| pair[0].to == pair[1].from), "{segments:#?}");
    assert!(segments.first().is_none_or(|first| first.from == stall.merged_segments.time), "{segments:#?}");
    assert!(segments.last().is_none_or(|last| last.to <= stall.elapsed), "{stall} {segments:#?}");
    if stall.phase == Phase::Ongoing {
        let last = segments.last().expect("the running segment");
        assert_eq!((last.cause, last.reason), (stall.cause, stall.reason), "{stall}");
    }
}

/// A task that sleeps and then waits for a lock for long: the deadlock that starts with a sleep. As
/// soon as a report is due, it is about the lock.
#[test]
fn a_stall_is_about_what_the_thread_does_now() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let gate = Gate::new();
        let mutex = held_mutex(&gate);
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
            block(3 * THRESHOLD);
            drop(lock(&mutex));
        });
        let in_lock = collected.wait(|stall| stall.elapsed > 12 * THRESHOLD).expect("the stall is reported again");
        let seconds = |cause| {
            let snapshot = watchdog.snapshot();
            let causes = snapshot.runtimes.iter().find(|runtime| &*runtime.name == "main").unwrap().stalls.clone();
            causes.iter().find(|of_cause| of_cause.cause == cause).unwrap().stalls
        };
        let in_sleep = seconds(Cause::Syscall);
        wait_until("the seconds of the lock grow", || seconds(Cause::Lock).time > 5 * THRESHOLD);
        gate.open();
        runtime.block_on(task).unwrap();
        let end = collected.wait_resolved("main");
        if !HAS_CAUSE {
            return Ok(());
        }
        // The watchdog may have been late, and have found no sleep.
        if in_lock.segments.len() < 2 {
            return Err(format!("{end} {:#?}", end.segments));
        }
        collected.of("main").iter().for_each(assert_consistent);
        collected.of("main").iter().try_for_each(is_undisturbed)?;
        assert_eq!((in_lock.cause, end.cause), (Cause::Lock, Cause::Lock), "{in_lock}\n{end}");
        for stall in [&in_lock, &end] {
            let text = stall.summary().to_string();
            let (reason, besides) = text.split_once(" (off-CPU, syscall futex; ").expect(&text);
            assert!(
                reason.contains("blocked in a ") && reason.contains(" for ") && besides.contains(" in a sleep"),
                "{text}"
            );
            assert!(!stall.advice.unwrap().contains("sleep"), "{stall}");
            if let Some(stack) = &stall.stack {
                assert!(format!("{stack:#}").contains("Mutex"), "{stack:#}");
            }
            let [first, last] = &stall.segments[..] else { panic!("{:#?}", stall.segments) };
            assert_eq!((first.cause, first.reason, last.cause), (Cause::Syscall, "a sleep", Cause::Lock));
            assert!(first.to >= 2 * THRESHOLD && first.to <= 8 * THRESHOLD, "within one report: {first:?}");
        }
        // The seconds are those of each segment, and the stall counts once.
        let after = [Cause::Syscall, Cause::Lock].map(seconds);
        assert_eq!((in_sleep.count, after[0].count, after[1].count), (0, 0, 1));
        assert_eq!(in_sleep.time, after[0].time, "it no longer sleeps");
        assert!(after[0].time >= time_of(&end, Cause::Syscall) - THRESHOLD / 20);
        assert!(after[0].time + after[1].time >= end.elapsed - THRESHOLD / 20);
        Ok(())
    });
}

/// A task that waits for a lock and then computes: the cause, the advice and the stack of a line
/// are of one examination.
#[test]
fn cause_advice_and_stack_are_of_one_examination() {
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let gate = Arc::new(Gate::new());
        let (mutex, observer) = (held_mutex(&gate), collected.clone());
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
            drop(lock(&mutex));
            compute_until(|| {
                observer.all().iter().any(|stall| stall.cause == Cause::Cpu && stall.elapsed > 20 * THRESHOLD)
            });
        });
        collected.wait_ongoing("main").expect("the stall is found");
        gate.open();
        runtime.block_on(task).unwrap();
        let end = collected.wait_resolved("main");
        if !HAS_CAUSE {
            return Ok(());
        }
        let all = collected.of("main");
        all.iter().for_each(assert_consistent);
        all.iter().try_for_each(is_undisturbed)?;
        for stall in &all {
            let stack = stall.stack.as_ref().map(|stack| format!("{stack:#}")).unwrap_or_default();
            match stall.cause {
                Cause::Cpu => assert!(!stack.contains("lock_contended") && stall.reason == "computing", "{stall}"),
                Cause::Lock => assert!(!stack.contains("compute_until"), "{stall}\n{stack}"),
                // At the moment of an examination the thread may be at neither.
                _ => {}
            }
        }
        assert_eq!(end.cause, Cause::Cpu, "{end}");
        assert!(end.segments.iter().any(|segment| segment.cause == Cause::Lock), "{:#?}", end.segments);
        Ok(())
    });
}

/// Computes without a system call for most of the time.
#[inline(never)]
fn compute_until(is_done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while start.elapsed() < TIMEOUT && !is_done() {
        let mut sum = 0_u64;
        (0..200_000_u64).for_each(|i| sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i)));
    }
}
