//! Helpers of several layers: locks that outlive a panic, calls into user code that cannot unwind into pollwatch, rate limits,
//! short paths.

pub(crate) mod backoff;
pub(crate) mod interner;
pub(crate) mod token_bucket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not: the data behind our locks is only counters and lists that are whole at every step.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls user code; tells whether it panicked. The payload is dropped behind the same guard, since its drop may panic too.
pub(crate) fn call_user(f: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => false,
        Err(payload) => {
            if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
                std::mem::forget(second);
            }
            true
        }
    }
}

/// Runs `f` in a forked child of this process, which has only the calling thread; `None` if it did not return in half a minute.
#[cfg(all(test, unix, not(pollwatch_loom)))]
pub(crate) fn in_a_fork(f: impl FnOnce() -> bool) -> Option<bool> {
    // SAFETY: the child runs nothing but `f`, whose callers take no lock that another thread may have held, and leaves.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let mut good = false;
        call_user(|| good = f());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let (begin, mut status) = (std::time::Instant::now(), 0);
    // SAFETY: `status` is a valid place to write to; the child is ours, and has not been waited for.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        if begin.elapsed() > std::time::Duration::from_secs(30) {
            // SAFETY: as above.
            unsafe { (libc::kill(child, libc::SIGKILL), libc::waitpid(child, &mut status, 0)) };
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Some(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}
