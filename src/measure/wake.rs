//! How a poll wakes a sleeping watchdog without a lock, a fence or a shared write.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// How often a watchdog that cannot rely on being woken looks by itself.
const TICK: Duration = Duration::from_millis(100);

/// The flag that says whether the watchdog sleeps.
///
/// A poll stores its frame, then loads the flag. The watchdog sets the flag, then reads the slots. Each could miss the
/// other's store, were it not for the process-wide barrier between the watchdog's two steps, which makes every running
/// thread's earlier stores visible: either the poll sees the flag, or the watchdog sees the frame. The price is paid once a
/// sleep by the watchdog, not once a poll by everyone.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Wake {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
    barrier: bool,
}

impl Wake {
    pub(crate) fn new() -> Wake {
        Wake { asleep: AtomicBool::new(false), thread: OnceLock::new(), barrier: crate::sys::register_barrier() }
    }

    /// Names the thread to wake.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Whether a sleep may last until a poll ends it.
    pub(crate) fn is_exact(&self) -> bool {
        self.barrier
    }

    #[inline]
    pub(crate) fn check(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Wakes the watchdog if it sleeps; any thread.
    #[cold]
    #[inline(never)]
    pub(crate) fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Wakes the watchdog from whatever it waits for.
    pub(crate) fn kick(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Sleeps until a poll begins, unless `is_idle` says, after the flag is up, that one already has. The watchdog only.
    pub(crate) fn fall_asleep(&self, is_idle: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        let exact = self.barrier && crate::sys::barrier();
        if is_idle() {
            // A wake-up in between has left its token: this returns at once.
            if exact {
                std::thread::park();
            } else {
                std::thread::park_timeout(TICK);
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}
