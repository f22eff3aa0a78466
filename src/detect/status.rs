//! The state and the counters of the watchdog thread, readable from any thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::labels::CaptureOutcome;

/// The state and the counters of one watchdog thread.
pub(crate) struct WatcherStatus {
    stopping: AtomicBool,
    running: AtomicBool,
    /// Scans that panicked.
    pub(crate) panics: AtomicU64,
    /// Wake-ups that came late by a threshold or more.
    pub(crate) oversleeps: AtomicU64,
    pub(crate) wakeups: AtomicU64,
    /// Captures by outcome.
    captures: [AtomicU64; CaptureOutcome::ALL.len()],
    /// The number of scans that a test wants to panic.
    #[cfg(test)]
    pub(crate) injected_panics: AtomicU64,
    /// True while a test wants the thread to be blocked.
    #[cfg(test)]
    pub(crate) injected_hang: AtomicBool,
}

impl WatcherStatus {
    /// The status of a thread that is about to start.
    pub(crate) fn new() -> WatcherStatus {
        WatcherStatus {
            stopping: AtomicBool::new(false),
            running: AtomicBool::new(true),
            panics: AtomicU64::new(0),
            oversleeps: AtomicU64::new(0),
            wakeups: AtomicU64::new(0),
            captures: Default::default(),
            #[cfg(test)]
            injected_panics: AtomicU64::new(0),
            #[cfg(test)]
            injected_hang: AtomicBool::new(false),
        }
    }

    /// Asks the thread to stop. It has to be woken after that.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Returns whether the thread was asked to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Returns whether the thread scans for stalls: it has neither been stopped nor given up.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Records that the thread has ended.
    pub(super) fn set_ended(&self) {
        self.running.store(false, Ordering::Release);
    }

    pub(super) fn count_capture(&self, outcome: CaptureOutcome) {
        self.captures[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of captures that ended like this.
    pub(crate) fn captures(&self, outcome: CaptureOutcome) -> u64 {
        self.captures[outcome as usize].load(Ordering::Relaxed)
    }
}
