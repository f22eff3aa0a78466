//! How a poll wakes a sleeping watchdog without a lock, a fence or a shared write.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use crate::measure::primitives::clock::{Clock, Ticks};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The interval between scans of a watchdog that cannot rely on being woken.
const TICK: Duration = Duration::from_millis(100);

/// Says whether the watchdog sleeps.
///
/// A poll stores its frame, then loads the flag. The watchdog sets the flag, then reads the slots.
/// Each could miss the other's store, were it not for the process-wide barrier between the
/// watchdog's two steps, which makes every running thread's earlier stores visible: either the poll
/// sees the flag, or the watchdog sees the frame. The price is paid once a sleep by the watchdog,
/// not once a poll by everyone.
#[derive(Debug)]
struct Flag(AtomicBool);

impl Flag {
    fn new() -> Flag {
        Flag(AtomicBool::new(false))
    }

    /// Returns whether the watchdog sleeps, without waiting for other CPUs.
    #[inline]
    fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers the flag and returns whether it was up. If it was, the caller must wake the watchdog.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    fn set(&self, up: bool) {
        self.0.store(up, Ordering::SeqCst);
    }

    /// Sleeps by `park`, unless `is_idle` returns `false`. `is_idle` runs after the flag is up and
    /// after `barrier`, so that it sees every earlier store.
    fn sleep<B>(&self, barrier: impl FnOnce() -> B, is_idle: impl FnOnce() -> bool, park: impl FnOnce(B)) {
        self.set(true);
        let barrier = barrier();
        if is_idle() {
            park(barrier);
        }
        self.set(false);
    }
}

/// The flag, and the thread to wake.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Wake {
    flag: Flag,
    thread: OnceLock<Thread>,
    barrier: bool,
    clock: Clock,
    /// The clock reading at which a poll woke the watchdog; 0 if none has since it fell asleep.
    woken: AtomicU64,
}

impl Wake {
    pub(crate) fn new(clock: Clock) -> Wake {
        let barrier = crate::sys::register_barrier();
        Wake { flag: Flag::new(), thread: OnceLock::new(), barrier, clock, woken: AtomicU64::new(0) }
    }

    /// Sets the thread to wake.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Returns whether a sleep may last until a poll ends it.
    pub(crate) fn is_exact(&self) -> bool {
        self.barrier
    }

    /// Wakes the watchdog if the flag is up; at the start of each poll.
    #[inline]
    pub(crate) fn check(&self) {
        if self.flag.is_up() {
            self.wake();
        }
    }

    /// Wakes the watchdog if it sleeps; any thread.
    #[cold]
    #[inline(never)]
    pub(crate) fn wake(&self) {
        if self.flag.take()
            && let Some(thread) = self.thread.get()
        {
            // The process may be stopped before the watchdog runs.
            self.woken.store(self.clock.now().0, Ordering::Relaxed);
            thread.unpark();
        }
    }

    /// Wakes the watchdog from whatever it waits for.
    pub(crate) fn kick(&self) {
        self.flag.set(false);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Sleeps until a poll starts; for the watchdog thread only. Does not sleep if `is_idle`, which
    /// runs when the flag is up, finds that a poll has started. Without the barrier the sleep lasts
    /// 100 ms at most, and always no longer than `limit`. Returns the clock reading at which a poll
    /// woke this thread, if one did.
    pub(crate) fn fall_asleep(&self, limit: Option<Duration>, is_idle: impl FnOnce() -> bool) -> Option<Ticks> {
        self.woken.store(0, Ordering::Relaxed);
        // A wake-up before this has left a token, with which either call returns at once.
        let park = |exact| match (exact, limit) {
            (true, None) => std::thread::park(),
            (true, Some(limit)) => std::thread::park_timeout(limit),
            (false, limit) => std::thread::park_timeout(limit.map_or(TICK, |limit| limit.min(TICK))),
        };
        self.flag.sleep(|| self.barrier && crate::sys::barrier(), is_idle, park);
        Some(Ticks(self.woken.load(Ordering::Relaxed))).filter(|woken| *woken != Ticks(0))
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;
