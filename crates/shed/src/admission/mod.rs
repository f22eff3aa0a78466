//! The decision whether a request is admitted. The monitor thread writes the state that it depends
//! on, and requests read it.

mod limit;

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use pollwatch::{Lag, LagSource};
use tokio::runtime::{Handle, Id};

use crate::random::random;
use crate::watermarks::Watermarks;
use limit::FirstPollLimit;
pub(crate) use limit::Permit;

/// The age at which a runtime's level has expired. The monitor thread sets it each 10 ms; it does
/// not while the application's log blocks it.
const MAX_LEVEL_AGE: Duration = Duration::from_secs(1);

/// The state that the requests of all layers with the same watchdog and the same settings share.
#[derive(Debug)]
pub(crate) struct AdmissionControl {
    pub(crate) watermarks: Watermarks,
    pub(crate) source: LagSource,
    pub(crate) log: bool,
    mode: AtomicU8,
    runtimes: RwLock<Vec<Arc<RuntimeLag>>>,
    /// The number of layers that use the control.
    layers: AtomicUsize,
    monitor: OnceLock<Thread>,
}

/// The action that a request has to take. While nothing is overloaded, a request reads nothing
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// The control is not monitored. The request has to wake the monitor thread.
    Asleep = 0,
    /// No runtime is late, which means that none has a delay above the high watermark and none
    /// sheds load. The request is admitted.
    Calm = 1,
    /// Some runtime is late. The request is measured, and may be rejected.
    Engaged = 2,
}

/// The state of one runtime that its requests read.
#[derive(Debug)]
pub(crate) struct RuntimeLag {
    pub(crate) id: Id,
    pub(crate) lag: Lag,
    pub(crate) limit: Arc<FirstPollLimit>,
    level: Level,
    /// The number of rejected requests.
    rejected: AtomicU64,
}

/// The delay by which requests are rejected, until it expires.
#[derive(Debug)]
struct Level {
    /// The moment from which `set_at` counts.
    start: Instant,
    /// The delay in nanoseconds; 0 while no requests are rejected.
    delay: AtomicU64,
    /// The time at which the delay was set, in nanoseconds.
    set_at: AtomicU64,
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
    /// Makes a control for one layer.
    pub(crate) fn new(watermarks: Watermarks, source: LagSource, log: bool) -> AdmissionControl {
        AdmissionControl {
            watermarks,
            source,
            log,
            mode: AtomicU8::new(Mode::Asleep as u8),
            runtimes: RwLock::default(),
            layers: AtomicUsize::new(1),
            monitor: OnceLock::new(),
        }
    }

    /// Returns whether the control is that of this watchdog and these settings.
    pub(crate) fn is_of(&self, watermarks: Watermarks, source: &LagSource, log: bool) -> bool {
        self.watermarks == watermarks && self.source == *source && self.log == log
    }

    /// Counts one more layer.
    pub(crate) fn add_layer(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one layer less. The monitor thread stops the control when none is left.
    pub(crate) fn remove_layer(&self) {
        if self.layers.fetch_sub(1, Ordering::Release) == 1 {
            self.unpark_monitor();
        }
    }

    /// Returns whether a layer is left.
    pub(crate) fn has_layers(&self) -> bool {
        self.layers.load(Ordering::Acquire) > 0
    }

    /// Returns whether a request has to be measured or may be rejected. Costs one relaxed load
    /// while no runtime is late. At most once a second it wakes the monitor thread.
    #[inline]
    pub(crate) fn is_engaged(&self) -> bool {
        match self.mode() {
            Mode::Calm => false,
            Mode::Engaged => true,
            Mode::Asleep => {
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
        // Attaches the runtime of the request if the watchdog does not watch it yet.
        drop(self.source.current());
        self.unpark_monitor();
    }

    fn unpark_monitor(&self) {
        if let Some(monitor) = self.monitor.get() {
            monitor.unpark();
        }
    }

    /// Returns the action that a request has to take.
    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == Mode::Calm as u8 => Mode::Calm,
            mode if mode == Mode::Engaged as u8 => Mode::Engaged,
            _ => Mode::Asleep,
        }
    }

    /// Returns the runtime of the calling thread, if the monitor has found it.
    pub(crate) fn current_runtime(&self) -> Option<Arc<RuntimeLag>> {
        let id = Handle::try_current().ok()?.id();
        let runtimes = self.runtimes.read().unwrap_or_else(PoisonError::into_inner);
        runtimes.iter().find(|runtime| runtime.id == id).cloned()
    }

    /// Decides about a request to the runtime. `mean_first_poll` is the average of its route.
    pub(crate) fn admit(&self, runtime: &RuntimeLag, mean_first_poll: Duration) -> Admission {
        let level = runtime.level();
        // A watchdog that has stopped or hangs has no reading, and rejects nothing.
        let Some(reading) = runtime.lag.read().filter(|_| !level.is_zero()) else { return Admission::NotOverloaded };
        // A worker that takes many requests in a row judges all of them by the level that was
        // measured before the first one. The age of the unanswered probe grows meanwhile.
        let share = self.watermarks.rejection_share(level.max(reading.unanswered));
        if is_within(share, random()) {
            return Admission::Rejected;
        }
        if !self.watermarks.is_blocking(mean_first_poll) {
            return Admission::Admitted(None);
        }
        runtime.limit.try_acquire().map_or(Admission::Rejected, |permit| Admission::Admitted(Some(permit)))
    }

    /// Sets the action that requests have to take. Only the monitor thread calls this.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Sets the runtimes. Only the monitor thread calls this.
    pub(crate) fn set_runtimes(&self, runtimes: Vec<Arc<RuntimeLag>>) {
        *self.runtimes.write().unwrap_or_else(PoisonError::into_inner) = runtimes;
    }

    /// Sets the monitor thread, which requests and the last layer wake.
    pub(crate) fn set_monitor(&self, thread: Thread) {
        let _ = self.monitor.set(thread);
    }

    /// Admits all requests from now on: there is no monitor thread.
    pub(crate) fn disable(&self) {
        self.set_mode(Mode::Calm);
    }
}

impl RuntimeLag {
    pub(crate) fn new(id: Id, lag: Lag, workers: usize) -> Arc<RuntimeLag> {
        Arc::new(RuntimeLag {
            id,
            lag,
            limit: FirstPollLimit::new(workers),
            level: Level { start: Instant::now(), delay: AtomicU64::new(0), set_at: AtomicU64::new(0) },
            rejected: AtomicU64::new(0),
        })
    }

    /// Returns the delay by which requests are rejected; zero while none are, and when the monitor
    /// thread has not set it for a second.
    fn level(&self) -> Duration {
        let delay = Duration::from_nanos(self.level.delay.load(Ordering::Relaxed));
        if delay.is_zero() {
            return delay;
        }
        let set_at = Duration::from_nanos(self.level.set_at.load(Ordering::Relaxed));
        let is_expired = self.level.start.elapsed().saturating_sub(set_at) >= MAX_LEVEL_AGE;
        if is_expired { Duration::ZERO } else { delay }
    }

    /// Sets the delay by which requests are rejected. Only the monitor thread calls this.
    pub(crate) fn set_level(&self, delay: Duration) {
        self.level.set_at.store(saturating_nanos(self.level.start.elapsed()), Ordering::Relaxed);
        self.level.delay.store(saturating_nanos(delay), Ordering::Relaxed);
    }

    /// Counts a rejected request.
    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of rejected requests.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

fn saturating_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns whether a random number is within a share of all, in parts of
/// [`ALL`](crate::watermarks::ALL).
fn is_within(share: u32, random: u32) -> bool {
    random >> 1 < share
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
