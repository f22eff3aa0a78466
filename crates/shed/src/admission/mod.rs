//! Whether a request is admitted. The monitor thread writes what is decided here, requests read it.

mod limit;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::Duration;

use pollwatch::{Lag, LagSource};
use tokio::runtime::{Handle, Id};

use crate::random::random;
use crate::watermarks::Watermarks;
use limit::FirstPollLimit;
pub(crate) use limit::Permit;

/// The state that the requests of one layer share.
#[derive(Debug)]
pub(crate) struct AdmissionControl {
    pub(crate) watermarks: Watermarks,
    pub(crate) source: LagSource,
    mode: AtomicU8,
    runtimes: RwLock<Vec<Arc<RuntimeLag>>>,
    stopping: AtomicBool,
    monitor: OnceLock<Thread>,
}

/// What a request has to do; the one thing that it reads while nothing is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// The monitor thread sleeps: the request has to wake it.
    Asleep = 0,
    /// No runtime is late: the request is admitted.
    Calm = 1,
    /// Some runtime is late: the request is measured, and may be rejected.
    Engaged = 2,
}

/// One runtime, as its requests see it.
#[derive(Debug)]
pub(crate) struct RuntimeLag {
    pub(crate) id: Id,
    pub(crate) lag: Lag,
    pub(crate) limit: Arc<FirstPollLimit>,
    /// The delay by which requests are rejected, in nanoseconds; 0 while none are.
    level: AtomicU64,
    /// The number of rejected requests.
    rejected: AtomicU64,
}

/// The decision about a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The runtime is not overloaded.
    NotOverloaded,
    /// The runtime is overloaded, and the request is admitted all the same. A request of a blocking
    /// route holds a permit until its first poll has ended.
    Admitted(Option<Permit>),
    Rejected,
}

impl AdmissionControl {
    pub(crate) fn new(watermarks: Watermarks, source: LagSource) -> AdmissionControl {
        AdmissionControl {
            watermarks,
            source,
            mode: AtomicU8::new(Mode::Asleep as u8),
            runtimes: RwLock::default(),
            stopping: AtomicBool::new(false),
            monitor: OnceLock::new(),
        }
    }

    /// Returns whether a request has to be measured or may be rejected. While no runtime is late
    /// that is one relaxed load. At most once a second it wakes the monitor thread.
    #[inline]
    pub(crate) fn is_engaged(&self) -> bool {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == Mode::Calm as u8 => false,
            mode if mode == Mode::Engaged as u8 => true,
            _ => {
                self.wake();
                false
            }
        }
    }

    #[cold]
    fn wake(&self) {
        let (asleep, calm) = (Mode::Asleep as u8, Mode::Calm as u8);
        if self.mode.compare_exchange(asleep, calm, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        // A runtime that nobody has named is watched from its first request on.
        drop(self.source.current());
        if let Some(monitor) = self.monitor.get() {
            monitor.unpark();
        }
    }

    /// Returns the runtime that polls the calling request, if the monitor knows it.
    pub(crate) fn current_runtime(&self) -> Option<Arc<RuntimeLag>> {
        let id = Handle::try_current().ok()?.id();
        let runtimes = self.runtimes.read().unwrap_or_else(PoisonError::into_inner);
        runtimes.iter().find(|runtime| runtime.id == id).cloned()
    }

    /// Decides about a request whose route has this average first poll.
    pub(crate) fn admit(&self, runtime: &RuntimeLag, mean_first_poll: Duration) -> Admission {
        let level = runtime.level();
        // A reading that has expired is none: a watchdog that stopped or hangs rejects nothing.
        let Some(reading) = runtime.lag.read().filter(|_| !level.is_zero()) else { return Admission::NotOverloaded };
        // Requests that are read in a row all see the level that was measured before the first of
        // them. The age of the unanswered probe grows meanwhile.
        let share = self.watermarks.rejection_share(level.max(reading.unanswered));
        if is_within(share, random()) {
            return Admission::Rejected;
        }
        if !self.watermarks.is_blocking(mean_first_poll) {
            return Admission::Admitted(None);
        }
        runtime.limit.try_acquire().map_or(Admission::Rejected, |permit| Admission::Admitted(Some(permit)))
    }

    /// Sets what requests have to do; the monitor thread only.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Sets the runtimes; the monitor thread only.
    pub(crate) fn set_runtimes(&self, runtimes: Vec<Arc<RuntimeLag>>) {
        *self.runtimes.write().unwrap_or_else(PoisonError::into_inner) = runtimes;
    }

    /// Sets the thread that [`stop`](Self::stop) and requests wake.
    pub(crate) fn set_monitor(&self, thread: Thread) {
        let _ = self.monitor.set(thread);
    }

    /// Asks the monitor thread to end, which it does by itself.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(monitor) = self.monitor.get() {
            monitor.unpark();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl RuntimeLag {
    pub(crate) fn new(id: Id, lag: Lag, workers: usize) -> Arc<RuntimeLag> {
        Arc::new(RuntimeLag {
            id,
            lag,
            limit: FirstPollLimit::new(workers),
            level: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        })
    }

    fn level(&self) -> Duration {
        Duration::from_nanos(self.level.load(Ordering::Relaxed))
    }

    /// Sets the delay by which requests are rejected; the monitor thread only.
    pub(crate) fn set_level(&self, level: Duration) {
        self.level.store(u64::try_from(level.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a rejected request.
    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// Returns whether a random number is within a share of all, in parts of
/// [`ALL`](crate::watermarks::ALL).
fn is_within(share: u32, random: u32) -> bool {
    random >> 1 < share
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::watermarks::ALL;

    #[test]
    fn a_share_of_the_random_numbers_is_within_it() {
        assert!((0..1_000).all(|_| !is_within(0, random()) && is_within(ALL, random())));
        assert!(is_within(ALL, u32::MAX) && !is_within(0, 0));
        for tenths in 1..10u32 {
            let within = (0..100_000).filter(|_| is_within(ALL / 10 * tenths, random())).count();
            // Ten standard deviations.
            assert!(within.abs_diff(tenths as usize * 10_000) < 1_600, "{within} of 100,000 at {tenths}/10");
        }
    }
}
