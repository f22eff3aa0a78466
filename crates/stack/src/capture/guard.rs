//! Guards against panics of readers of malformed tables, and against the locks that they poison.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub(super) use crate::panics::catches_panic;

/// The interval at which a lock that is held is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(1);

/// Locks a mutex, also a poisoned one. The data behind these locks is consistent at every step.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex like [`lock`], but returns `None` if it is still locked after `limit`.
///
/// A forked child has none of its parent's other threads. A lock that one of them held at the fork
/// is never released in the child.
pub(super) fn lock_within<T: ?Sized>(mutex: &Mutex<T>, limit: Duration) -> Option<MutexGuard<'_, T>> {
    let start = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() >= limit => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_never_released_is_given_up() {
        let mutex = Mutex::new(7);
        assert_eq!(lock_within(&mutex, Duration::ZERO).map(|guard| *guard), Some(7));
        let _held = lock(&mutex);
        let start = Instant::now();
        assert!(lock_within(&mutex, Duration::from_millis(20)).is_none());
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
