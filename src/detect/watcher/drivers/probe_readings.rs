//! The check whether a probe may be sent.

use std::collections::HashSet;

use super::{Drivers, WatchedDriver, reading_time};
use crate::detect::conditions::driver_reading::{self, DriverReading};
use crate::detect::conditions::driver_watch::DriverState;
use crate::detect::conditions::reading_budget::ReadingPurpose;
use crate::detect::watcher::Watcher;
use crate::detect::watcher::observe::ScanResult;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::io_driver::IoDriver;
use crate::model::id::ThreadNumber;
use crate::model::time::Nanos;

/// The shortest time between two readings of a driver for the sake of a probe.
const PROBE_READING_INTERVAL: Nanos = Nanos::from_millis(10);

impl Watcher {
    /// Returns whether a wake of a runtime's probe is known to change nothing but the probe:
    /// somebody attends the driver, or no worker is parked that the wake could send there.
    /// Otherwise the wake might end a deadlock that nobody has found yet.
    pub(in crate::detect::watcher) fn is_probe_harmless(&mut self, scan: &ScanResult, runtime: &Runtime) -> bool {
        let Some(driver) = runtime.io_driver() else { return true };
        let Some(metrics) = runtime.metrics() else { return true };
        let total = metrics.num_workers();
        let of_runtime = scan.polls.running.iter().filter(|poll| poll.runtime == runtime.id && !poll.is_root);
        let polling: HashSet<ThreadNumber> = of_runtime.map(|poll| poll.key.thread).collect();
        let has_parked = |worker: usize| metrics.worker_park_unpark_count(worker) % 2 == 1;
        if polling.len() >= total || !(0..total).any(has_parked) {
            return true;
        }
        if driver.descriptors().is_none() && driver != IoDriver::NotSeen {
            return self.settings.rescue_driver;
        }
        let Drivers { by_runtime, budget, .. } = &mut self.drivers;
        let watched = by_runtime.entry(runtime.id).or_default();
        // To read one thread costs next to nothing.
        if watched.likely.is_some_and(|tid| driver_reading::is_attended_by(runtime, tid)) {
            return true;
        }
        if scan.now < watched.next_probe_reading || !budget.allows(ReadingPurpose::Probe, scan.now) {
            return false;
        }
        let (found, cost) = watched.read(runtime, || reading_time(self.own_tid, &self.meter));
        budget.spend(ReadingPurpose::Probe, cost, scan.now);
        watched.is_probe_harmless(&found, scan.now).unwrap_or(self.settings.rescue_driver)
    }
}

impl WatchedDriver {
    /// Returns whether a probe is harmless after a reading; `None` where that is not known. Unless
    /// it is, the next such reading is not due at once.
    fn is_probe_harmless(&mut self, found: &DriverReading, now: Nanos) -> Option<bool> {
        let is_harmless = match found.state(false) {
            DriverState::Attended => Some(true),
            DriverState::Unattended => Some(false),
            DriverState::Unknown | DriverState::NotRead => None,
        };
        if is_harmless != Some(true) {
            self.next_probe_reading = now + PROBE_READING_INTERVAL;
        }
        is_harmless
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use pollwatch_stack::Tid;

    use super::*;
    use crate::measure::runtime::io_driver::UnknownReason;

    #[test]
    fn readings_for_a_probe_are_limited_unless_the_driver_is_attended() {
        let next = |found| {
            let mut driver = WatchedDriver::default();
            let is_harmless = driver.is_probe_harmless(&found, Nanos::from_secs(1));
            (is_harmless, driver.next_probe_reading.saturating_sub(Nanos::from_secs(1)))
        };
        let limit = PROBE_READING_INTERVAL;
        assert_eq!(next(DriverReading::Unknown(UnknownReason::TooManyThreads)), (None, limit));
        assert_eq!(next(DriverReading::Unattended { running: Vec::new() }), (Some(false), limit));
        assert_eq!(next(DriverReading::Attended(Tid::from_raw(1))), (Some(true), Nanos::ZERO));
    }
}
