//! Tests that changes of the wall clock cause no stall and do not change its duration. They replace
//! the clock of the whole process, so they are a test binary of their own.

#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use test_support::*;

/// The seconds by which the wall clock is ahead.
static STEP: AtomicI64 = AtomicI64::new(0);
/// Serializes the tests, which share the one clock.
static ALONE: Mutex<()> = Mutex::new(());

/// Replaces the C library's function for this binary, so that `SystemTime::now` and all others see
/// the changed clock.
///
/// # Safety
///
/// `time` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller guarantees that `time` is valid for writes; the kernel checks `clock`.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int;
    if result == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the system call has just written to `time`.
        unsafe { (*time).tv_sec += STEP.load(Ordering::Relaxed) };
    }
    result
}

/// Sets the clock back and forth by hours and days while `run` runs.
fn while_the_clock_changes(run: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let setter = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for step in [3_600, -3_600, 86_400, -86_400 * 30, 1, 0] {
                STEP.store(step, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        STEP.store(0, Ordering::Relaxed);
    });
    run();
    stop.store(true, Ordering::Relaxed);
    setter.join().unwrap();
}

/// Asserts that `SystemTime::now` reads the replaced clock.
fn assert_replaced() {
    let before = SystemTime::now();
    STEP.store(3_600, Ordering::Relaxed);
    let hour = SystemTime::now().duration_since(before).expect("forward");
    STEP.store(0, Ordering::Relaxed);
    assert!(hour >= Duration::from_secs(3_600), "{hour:?}");
}

#[test]
fn changing_the_wall_clock_causes_no_stall() {
    let _alone = lock(&ALONE);
    assert_replaced();
    const LONG: Duration = Duration::from_millis(200);
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let (watchdog, collected) = start(LONG);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            while_the_clock_changes(|| {
                let (task, _) = spawn_measured(&watchdog, runtime.handle(), async {
                    let started = Instant::now();
                    while started.elapsed() < LONG * 3 {
                        block(Duration::from_millis(2));
                        yield_once().await;
                    }
                });
                runtime.block_on(task).unwrap();
            });
            let stalls = reported_so_far(&watchdog, &collected);
            if stalls.is_empty() { Ok(()) } else { Err(format!("{stalls:#?}")) }
        });
    }
}

#[test]
fn changing_the_wall_clock_does_not_change_durations() {
    let _alone = lock(&ALONE);
    assert_replaced();
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| {
            let (watchdog, collected) = start(THRESHOLD);
            let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
            let mut times = None;
            while_the_clock_changes(|| {
                let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 5) });
                let outer = Instant::now();
                let inner = runtime.block_on(task).unwrap();
                let stall = collected.wait_resolved(name);
                times = Some((stall, inner, outer.elapsed()));
            });
            let (stall, inner, outer) = times.expect("the poll ended");
            is_undisturbed(&stall)?;
            let counted: Duration =
                runtime_of(&watchdog.snapshot(), name).stalls.iter().map(|of_cause| of_cause.stalls.time).sum();
            for elapsed in [stall.elapsed, counted] {
                assert!(elapsed <= outer.mul_f64(1.01), "{name}: {elapsed:?} of {outer:?} {stall}");
                holds_unless_overslept(&watchdog, elapsed >= inner.mul_f64(0.99), (name, elapsed, inner))?;
            }
            Ok(())
        });
    }
}
