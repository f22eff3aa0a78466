//! Situations of executors within tasks.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use pollwatch::Cause;
use tokio::runtime::Runtime;
use tokio::sync::oneshot::{self, Receiver};
use tokio::task::block_in_place;

use crate::fixture::{Expected, Situation, check, check_on, leak};
use test_support::*;

const INSTEAD: &str = "await the future";

#[inline(never)]
fn enters_another_executor(receiver: Receiver<u8>) -> u8 {
    futures_executor::block_on(receiver).unwrap() // blocks here
}

#[test]
fn another_executor_is_diagnosed() {
    let (reason, function) = ("another executor's block_on", "executors::enters_another_executor");
    check(
        Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice: "instead of calling block_on", function },
        || {
            let (send, receive) = oneshot::channel();
            Situation::new(|| assert_eq!(enters_another_executor(receive), 1), || send.send(1).unwrap())
        },
    );
}

/// A runtime whose pool has no thread to take the worker over.
fn pool_of_one() -> tokio::runtime::Builder {
    let mut builder = multi_thread(1);
    builder.max_blocking_threads(1);
    builder
}

/// Occupies that thread until the gate is dropped.
fn occupy(runtime: &Runtime) -> Gate {
    let gate = Gate::new();
    let key = gate.key();
    let (occupied, is_occupied) = channel();
    runtime.spawn_blocking(move || {
        occupied.send(()).unwrap();
        key.pass()
    });
    is_occupied.recv_timeout(TIMEOUT).expect("the pool's one thread is taken");
    gate
}

#[inline(never)]
fn blocks_in_place(mutex: &Mutex<u8>) -> u8 {
    block_in_place(|| *mutex.lock().unwrap()) // blocks here
}

#[test]
fn block_in_place_with_a_full_pool_is_diagnosed() {
    let function = "executors::blocks_in_place";
    let advice = "raise max_blocking_threads";
    let expected = Expected { cause: Cause::Lock, syscalls: &["futex"], reason: "a Mutex", advice, function };
    check_on(expected, pool_of_one, occupy, || {
        let mutex = leak(Mutex::new(1));
        let held = mutex.lock().unwrap();
        Situation::new(|| assert_eq!(blocks_in_place(mutex), 1), || drop(held))
    });
}

#[inline(never)]
fn enters_the_same_runtime(receiver: Receiver<u8>) -> u8 {
    let runtime = tokio::runtime::Handle::current();
    block_in_place(|| runtime.block_on(receiver).unwrap()) // blocks here
}

#[test]
fn block_on_in_place_with_a_full_pool_is_diagnosed() {
    let function = "executors::enters_the_same_runtime";
    let reason = "block_on inside a task";
    let expected = Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice: INSTEAD, function };
    check_on(expected, pool_of_one, occupy, || {
        let (send, receive) = oneshot::channel();
        Situation::new(|| assert_eq!(enters_the_same_runtime(receive), 1), || send.send(1).unwrap())
    });
}

#[inline(never)]
fn enters_a_second_runtime(runtime: &Runtime, receiver: Receiver<u8>) -> u8 {
    block_in_place(|| runtime.block_on(receiver).unwrap()) // blocks here
}

/// The second runtime waits in its driver, in `epoll_wait`.
#[test]
fn a_second_runtime_is_diagnosed() {
    let (reason, function) = ("block_on inside a task", "executors::enters_a_second_runtime");
    let syscalls = &["epoll_wait", "epoll_pwait"];
    let expected = Expected { cause: Cause::Syscall, syscalls, reason, advice: INSTEAD, function };
    check_on(expected, pool_of_one, occupy, || {
        let (send, receive) = oneshot::channel();
        // The runtime must not be dropped within a task.
        let second = leak(current_thread().build().unwrap());
        Situation::new(|| assert_eq!(enters_a_second_runtime(second, receive), 1), || send.send(1).unwrap())
    });
}
