//! Helpers of several layers: locks that ignore poisoning, calls of user code that cannot unwind
//! into pollwatch, rate limits, interning.

pub(crate) mod backoff;
pub(crate) mod interner;
pub(crate) mod own_thread;
pub(crate) mod threshold_text;
pub(crate) mod token_bucket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, poisoned or not. pollwatch's mutexes guard counters and lists that are consistent
/// at every step, so that a panic while one is held leaves no broken data.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls user code, and returns whether it panicked. The drop of the panic's payload is caught too,
/// because it may panic as well.
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

/// Runs `f` in a forked child of this process, which has only the calling thread. Returns `None` if
/// it did not return within 30 s.
#[cfg(all(test, unix, not(pollwatch_loom)))]
pub(crate) fn in_a_fork(f: impl FnOnce() -> bool) -> Option<bool> {
    // SAFETY: the child runs nothing but `f` and exits. `f` takes no lock that another thread may
    // have held at the fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let mut good = false;
        call_user(|| good = f());
        // SAFETY: `_exit` takes an integer and has no other precondition.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let (begin, mut status) = (std::time::Instant::now(), 0);
    // SAFETY: `status` can be written to. The child was forked here, and has not been reaped.
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
