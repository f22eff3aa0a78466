//! The activity of a thread, as one word in memory.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A word in memory that says what a thread does: it never has the same value in two activities.
///
/// A pending capture ([`Capturer::capture_or_wait`](crate::Capturer::capture_or_wait)) is answered
/// at an unknown moment. The thread copies this word together with its stack, so that a stack is
/// never taken for that of another activity.
///
/// ```
/// use pollwatch_stack::Activity;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// struct Worker {
///     job: AtomicU64, // the number of the job, counted up by the worker
/// }
///
/// let worker = Arc::new(Worker { job: AtomicU64::new(7) });
/// let activity = Activity::new(worker.clone(), |worker| &worker.job);
/// assert_eq!(activity.value(), 7);
/// worker.job.fetch_add(1, Ordering::Relaxed);
/// assert_eq!(activity.value(), 8);
/// ```
#[derive(Clone)]
pub struct Activity {
    /// Keeps the word in memory. A signal handler may read it as long as this exists.
    _owner: Arc<dyn Any + Send + Sync>,
    word: NonNull<AtomicU64>,
}

// SAFETY: the word is an atomic, which any thread may read. It is part of the owner, which is
// `Send` and `Sync`.
unsafe impl Send for Activity {}
// SAFETY: as above.
unsafe impl Sync for Activity {}

impl Activity {
    /// Makes the activity of the word that `word` finds in `owner`.
    pub fn new<O: Any + Send + Sync>(owner: Arc<O>, word: fn(&O) -> &AtomicU64) -> Activity {
        let word = NonNull::from(word(&owner));
        Activity { _owner: owner, word }
    }

    /// Returns the value of the word.
    pub fn value(&self) -> u64 {
        // SAFETY: the word is borrowed from the owner, which `self` keeps, and whose content is
        // shared, so that nothing moves or drops it.
        unsafe { self.word.as_ref() }.load(Ordering::Acquire)
    }

    /// Returns the address of the word, valid as long as `self` exists.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(crate) fn as_ptr(&self) -> *mut AtomicU64 {
        self.word.as_ptr()
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Activity").field(&self.value()).finish()
    }
}
