//! The check that the watchdog thread still scans, made by whoever asks for the health.
//!
//! An idle watchdog sleeps until a poll starts, so its silence proves nothing. Each check asks for
//! a scan; the next check knows whether there was one.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::detect::status::WatcherStatus;
use crate::measure::primitives::wake::Wake;
use crate::util::lock;

/// A scan that has not happened for this long after it was asked for does not happen any more.
const LIMIT: Duration = Duration::from_secs(5);
/// The time that a watchdog which seems to be blocked gets to prove the opposite: the process may
/// just have been continued after a stop.
const CONFIRM: Duration = Duration::from_millis(250);

/// The scan that was asked for last.
#[derive(Debug, Default)]
pub(crate) struct RequestedScan(Mutex<Option<Request>>);

#[derive(Clone, Copy, Debug)]
struct Request {
    at: Instant,
    /// The number of scans before it.
    scans: u64,
}

impl RequestedScan {
    /// Returns whether the watchdog thread is blocked: it has not answered the request of an
    /// earlier call for more than 5 s. Takes up to 250 ms where it seems so.
    pub(super) fn is_watcher_stuck(&self, status: &WatcherStatus, wake: &Wake) -> bool {
        self.is_watcher_stuck_for(LIMIT, status, wake)
    }

    fn is_watcher_stuck_for(&self, limit: Duration, status: &WatcherStatus, wake: &Wake) -> bool {
        let mut requested = lock(&self.0);
        let scans = || status.wakeups.load(Ordering::Relaxed);
        let before = scans();
        wake.kick();
        match *requested {
            Some(request) if request.scans == before && request.at.elapsed() > limit => {
                let start = Instant::now();
                while start.elapsed() < CONFIRM {
                    std::thread::sleep(Duration::from_millis(10));
                    if scans() != before {
                        *requested = None;
                        return false;
                    }
                }
                status.is_running() && !status.is_stopping()
            }
            Some(request) if request.scans == before => false,
            _ => {
                *requested = Some(Request { at: Instant::now(), scans: before });
                false
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::Watchdog;

    #[test]
    fn only_a_watchdog_that_is_blocked_is_stuck() {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        let state = &watchdog.state;
        let limit = Duration::from_millis(50);
        let is_stuck = || state.requested_scan.is_watcher_stuck_for(limit, &state.status, &state.meter.wake);
        let scans = || state.status.wakeups.load(Ordering::Relaxed);
        let wait = |until: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !until() {
                assert!(start.elapsed() < Duration::from_secs(60));
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for _ in 0..3 {
            assert!(!is_stuck());
            let before = scans();
            wait(&|| {
                state.meter.wake.kick();
                scans() > before
            });
        }
        state.status.injected_hang.store(true, Ordering::Relaxed);
        wait(&is_stuck);
        state.status.injected_hang.store(false, Ordering::Relaxed);
        wait(&|| !is_stuck());
        watchdog.shutdown();
        for _ in 0..3 {
            assert!(!is_stuck(), "a watchdog that was shut down is not stuck");
            std::thread::sleep(Duration::from_millis(60));
        }
    }
}
