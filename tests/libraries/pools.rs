//! Situations of pools of threads that are entered from a task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use pollwatch::{Cause, PoolActivity};
use rayon::ThreadPool;
use rayon::prelude::*;

use test_support::undisturbed;

use crate::fixture::{Expected, Situation, check, leak, not_the_last_call};

fn rayon(function: &'static str) -> Expected {
    let (reason, advice) = ("a wait for a rayon pool", "tokio::task::spawn_blocking, or rayon::spawn");
    Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }
}

/// Checks the report of a task that waits for a pool, whose threads are in this function.
#[track_caller]
fn check_rayon(function: &'static str, busy_in: &str, situation: impl Fn() -> Situation) {
    let pool = undisturbed(|| {
        let stall = check(rayon(function), &situation);
        let text = stall.to_string();
        match stall.pool {
            Some(pool) if cfg!(target_arch = "x86_64") => {
                assert!(text.lines().next().unwrap().ends_with(&format!("; {pool}")), "{text}");
                Ok(Some(pool))
            }
            None if !cfg!(target_arch = "x86_64") => Ok(None),
            // The threads had no CPU, and were not read.
            _ => Err(text),
        }
    });
    let Some(PoolActivity { location, threads, threads_read, stack, .. }) = pool else { return };
    let busy_in = format!("{}::{busy_in}", env!("CARGO_CRATE_NAME"));
    assert_eq!(location.function.as_deref(), Some(&*busy_in), "{stack:#}");
    assert!(stack.frames().contains(&location) && location.line.is_some(), "{stack:#}");
    assert!((1..=threads_read).contains(&threads), "{threads} of {threads_read}");
}

/// A situation whose pool works until it is released.
fn until_released(block: fn(&ThreadPool, &(dyn Fn() + Sync))) -> impl Fn() -> Situation {
    move || {
        let pool = leak(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let (release, released) = channel::<()>();
        let released: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(released));
        let work = move || {
            let _ = released.lock().unwrap().recv();
        };
        Situation::new(move || block(pool, &work), move || drop(release))
    }
}

#[inline(never)]
fn sums_in_parallel(work: &(dyn Fn() + Sync)) -> u64 {
    let sum = (0..2u64).into_par_iter().map(|item| {
        work();
        item
    });
    sum.sum() // blocks here
}

/// The pool of the process, as most programs use it.
#[test]
fn a_parallel_iterator_is_diagnosed() {
    let block = |_: &ThreadPool, work: &(dyn Fn() + Sync)| assert_eq!(sums_in_parallel(work), 1);
    check_rayon("pools::sums_in_parallel", "pools::until_released", until_released(block));
}

#[inline(never)]
fn joins_two(work: &(dyn Fn() + Sync)) {
    rayon::join(work, work); // blocks here
    not_the_last_call();
}

#[test]
fn a_join_is_diagnosed() {
    check_rayon("pools::joins_two", "pools::until_released", until_released(|_, work| joins_two(work)));
}

#[inline(never)]
fn installs(pool: &ThreadPool, work: &(dyn Fn() + Sync)) {
    pool.install(work); // blocks here
    not_the_last_call();
}

#[test]
fn an_install_is_diagnosed() {
    check_rayon("pools::installs", "pools::until_released", until_released(installs));
}

#[inline(never)]
fn opens_a_scope(pool: &ThreadPool, work: &(dyn Fn() + Sync)) {
    pool.in_place_scope(|scope| scope.spawn(|_| work())); // blocks here
    not_the_last_call();
}

#[test]
fn a_scope_of_a_pool_is_diagnosed() {
    check_rayon("pools::opens_a_scope", "pools::until_released", until_released(opens_a_scope));
}

#[inline(never)]
fn renders(is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    not_the_last_call();
}

/// The threads of the pool compute. They do not wait in the kernel, so that their stacks cannot be
/// read from outside.
#[test]
fn the_function_that_a_pool_computes_in_is_named() {
    check_rayon("pools::installs", "pools::renders", || {
        let pool = leak(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let is_over: &'static AtomicBool = leak(AtomicBool::new(false));
        let block = move || installs(pool, &|| renders(is_over));
        Situation::new(block, move || is_over.store(true, Ordering::Relaxed))
    });
}

#[inline(never)]
fn scopes_threads(work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| drop(scope.spawn(work))); // blocks here
}

fn threads(function: &'static str) -> Expected {
    let (reason, advice) = ("a wait for the threads of a pool or scope", "tokio::task::spawn_blocking");
    Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }
}

#[test]
fn scoped_threads_are_diagnosed() {
    check(threads("pools::scopes_threads"), until_released(|_, work| scopes_threads(work)));
}

#[inline(never)]
fn scopes_threads_of_crossbeam(work: &(dyn Fn() + Sync)) {
    crossbeam_utils::thread::scope(|scope| drop(scope.spawn(|_| work()))).unwrap(); // blocks here
}

#[test]
fn scoped_threads_of_crossbeam_are_diagnosed() {
    check(threads("pools::scopes_threads_of_crossbeam"), until_released(|_, work| scopes_threads_of_crossbeam(work)));
}

#[inline(never)]
fn joins_a_pool(pool: &threadpool::ThreadPool) {
    pool.join(); // blocks here
    not_the_last_call();
}

#[test]
fn a_join_of_a_thread_pool_is_diagnosed() {
    check(threads("pools::joins_a_pool"), || {
        let pool = threadpool::ThreadPool::new(1);
        let (release, released) = channel::<()>();
        pool.execute(move || assert!(released.recv().is_err()));
        Situation::new(move || joins_a_pool(&pool), move || drop(release))
    });
}
