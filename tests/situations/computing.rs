//! Situations of threads that use the CPU.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pollwatch::{Cause, Stall};

use test_support::multi_thread;

use crate::fixture::{Expected, Situation, check, check_all};

const DEEP: usize = 5_000;

fn computing(function: &'static str) -> Expected {
    Expected { cause: Cause::Cpu, syscalls: &[], reason: "computing", advice: "tokio::task::spawn_blocking", function }
}

fn until_reported(work: impl Fn(&AtomicBool) + Send + Sync + 'static) -> impl Fn() -> Situation {
    let work = Arc::new(work);
    move || {
        let stop = Arc::new(AtomicBool::new(false));
        let (work, seen) = (work.clone(), stop.clone());
        Situation::new(move || work(&seen), move || stop.store(true, Ordering::Relaxed))
    }
}

#[inline(never)]
fn computes(stop: &AtomicBool) {
    let mut sum = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
}

#[test]
fn a_loop_is_diagnosed() {
    check(computing("computing::computes"), until_reported(computes));
}

#[inline(never)]
fn calls_what_is_inlined(stop: &AtomicBool) {
    inlined(stop);
}

#[inline(always)]
fn inlined(stop: &AtomicBool) {
    let mut sum = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
}

#[test]
fn an_inlined_loop_is_diagnosed() {
    let stall = check(computing("computing::inlined"), until_reported(calls_what_is_inlined));
    let outer = &stall.stack.as_ref().unwrap().user_frames()[1];
    assert_eq!(outer.function.as_deref(), Some("situations::computing::calls_what_is_inlined"));
}

#[inline(never)]
fn recurses(depth: usize, stop: &AtomicBool) -> usize {
    if depth == 0 {
        computes(stop);
        return 0;
    }
    black_box(recurses(black_box(depth - 1), stop)) + 1
}

#[test]
fn a_deep_recursion_is_diagnosed() {
    let work = |stop: &AtomicBool| assert_eq!(recurses(DEEP, stop), DEEP);
    let stall = check(computing("computing::computes"), until_reported(work));
    let user = stall.stack.as_ref().unwrap().user_frames();
    let names = || user.iter().filter_map(|f| f.function.as_deref());
    let shown = names().filter(|name| *name == "situations::computing::recurses").count();
    // The middle of a deep stack is omitted, and its frames are counted.
    let omitted = names().find_map(|name| name.strip_prefix('[')?.split(' ').next()?.parse::<usize>().ok());
    assert_eq!(shown + omitted.expect("thousands are not listed one by one"), DEEP + 1);
}

#[inline(never)]
fn allocates(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        drop(black_box([vec![1u8; 100], vec![2; 10_000]]));
    }
}

#[test]
fn a_loop_that_allocates_is_diagnosed() {
    check(computing("computing::allocates"), until_reported(allocates));
}

#[inline(never)]
fn hashes(stop: &AtomicBool) {
    let mut map = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        *map.entry(map.len() % 1000).or_insert(0) += 1;
    }
}

#[test]
fn a_loop_over_a_map_is_diagnosed() {
    check(computing("computing::hashes"), until_reported(hashes));
}

#[inline(never)]
fn prints_a_backtrace() -> String {
    std::backtrace::Backtrace::force_capture().to_string() // blocks here
}

#[test]
fn the_backtrace_of_an_error_is_diagnosed() {
    let (reason, advice) = ("resolving the backtrace of an error", "RUST_LIB_BACKTRACE=0");
    let function = "computing::prints_a_backtrace";
    let work = |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            black_box(prints_a_backtrace());
        }
    };
    check(Expected { reason, advice, ..computing(function) }, until_reported(work));
}

/// More memory than the allocator keeps, so that it is mapped afresh each time.
const LARGE: usize = 64 << 20;

#[inline(never)]
fn touches_fresh_memory(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut memory = vec![0u8; LARGE];
        for at in (0..LARGE).step_by(4096) {
            memory[at] = 1;
        }
        black_box(memory);
    }
}

#[test]
fn a_storm_of_page_faults_is_diagnosed() {
    // Samples of the kernel decide which of the two reasons is given.
    const IN_KERNEL: &str = "computing in the kernel: page faults";
    let expected = |stall: &Stall| {
        let expected = computing("computing::touches_fresh_memory");
        if stall.reason == IN_KERNEL { Expected { reason: IN_KERNEL, ..expected } } else { expected }
    };
    check_all(expected, || multi_thread(1), |_| (), until_reported(touches_fresh_memory));
}
