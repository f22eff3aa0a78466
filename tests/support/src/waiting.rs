//! Waiting with a time limit, and repeating what a busy machine disturbs.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The limit of every wait. Only a failing test waits this long, even on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The threshold of most tests.
pub const THRESHOLD: Duration = Duration::from_millis(20);

/// The first and the longest pause between two attempts of [`wait_for`].
const INTERVALS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(16)];

/// Locks a mutex, also after a thread has panicked while it held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `ask` until it has an answer, and panics after [`TIMEOUT`].
#[track_caller]
pub fn wait_for<T>(expected: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let [mut interval, longest] = INTERVALS;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < TIMEOUT, "expected within {TIMEOUT:?}: {expected}");
        std::thread::sleep(interval);
        interval = (interval * 2).min(longest);
    }
}

/// Calls `condition` until it holds, and panics after [`TIMEOUT`].
#[track_caller]
pub fn wait_until(expected: &str, mut condition: impl FnMut() -> bool) {
    wait_for(expected, || condition().then_some(()));
}

/// Calls `ask` until it returns `expected`, and panics after [`TIMEOUT`] with the last value.
#[track_caller]
pub fn wait_equal<T: PartialEq + Debug>(what: &str, expected: &T, mut ask: impl FnMut() -> T) {
    let start = Instant::now();
    loop {
        let actual = ask();
        if actual == *expected {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "{what}: {actual:#?}, expected {expected:#?}");
        std::thread::sleep(INTERVALS[0]);
    }
}

/// Repeats a test that only passes while no other process takes the CPU.
///
/// `Err` says how the attempt was disturbed. A defect fails every attempt; a busy machine has a
/// quiet moment now and then.
#[track_caller]
pub fn undisturbed<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    const LEAST_ATTEMPTS: usize = 10;
    let (start, mut reasons) = (Instant::now(), Vec::new());
    while reasons.len() < LEAST_ATTEMPTS || start.elapsed() < TIMEOUT {
        match attempt() {
            Ok(result) => return result,
            Err(reason) => reasons.push(reason),
        }
    }
    let last = &reasons[reasons.len() - LEAST_ATTEMPTS..];
    panic!("all {} attempts were disturbed, the last ones by {last:#?}", reasons.len());
}

/// Runs `f` on a thread and panics when it takes longer than [`TIMEOUT`]; panics of `f` are passed
/// on.
pub fn within_timeout<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(f()));
    match receiver.recv_timeout(TIMEOUT) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} did not end within {TIMEOUT:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(_) => unreachable!("the thread sends its result or panics"),
        },
    }
}
