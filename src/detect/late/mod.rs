//! Finds runtimes that are late although no stall blocks them: their workers are busy with many
//! short polls, or get no CPU. Pure: what the probes say and readings in, reports out.
//!
//! The probe of a runtime is a task that the watchdog wakes. Once the probe has waited for the
//! threshold, the counters of the runtime are read. When the probe was polled, or has waited for a
//! second, they are read again: the difference is what the workers did in between. So nothing is
//! read while no probe waits.
//!
//! A current-thread runtime polls only while some thread is in its `block_on`, which nothing
//! reports. A probe that waits for the next call of `block_on` is not late. So its wait counts only
//! if a poll of the runtime was running at half of the scans or more.

mod usage;

use std::collections::HashMap;

pub(crate) use usage::{PollUsage, RuntimeUsage, UsageReading};

use super::pause::Pauses;
use super::track::without_pauses;
use crate::measure::primitives::clock::Ticks;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// A wait of the probe is reported from this many thresholds on.
const LATE_THRESHOLDS: u64 = 4;
/// A probe that has waited for this long is reported while it waits.
const REPORT_ONGOING_AFTER: Nanos = Nanos::from_secs(1);

/// The state of a runtime's probe at a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeState {
    /// The wake at this moment has not been answered.
    Waiting(WakeOfProbe),
    /// The last wake was answered after this time.
    Answered(Nanos),
    /// Nothing is known.
    Silent,
}

/// A wake of a probe: its clock reading, which identifies it, and its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WakeOfProbe {
    pub(crate) id: Ticks,
    pub(crate) at: Nanos,
}

/// A wait of a probe that has not been reported.
#[derive(Debug)]
struct ProbeWait {
    wake: WakeOfProbe,
    /// The reading from when the wait had reached the threshold.
    baseline: Option<UsageReading>,
    /// A stall or allowed blocking explains the wait, or it was reported.
    is_settled: bool,
    /// The scans since the wake, and those of them that found the runtime driven.
    scans: u32,
    driven_scans: u32,
}

impl ProbeWait {
    fn new(wake: WakeOfProbe) -> ProbeWait {
        ProbeWait { wake, baseline: None, is_settled: false, scans: 0, driven_scans: 0 }
    }

    /// Returns whether the runtime was driven at half of the scans or more.
    fn is_driven(&self) -> bool {
        self.driven_scans >= self.scans - self.driven_scans
    }
}

/// The scan in which the detector is called, for one runtime.
pub(crate) struct LateScan<'a> {
    pub(crate) now: Nanos,
    pub(crate) probe: ProbeState,
    /// A worker of the runtime is or was in a stall since the previous scan, or is in a scope of
    /// allowed blocking.
    pub(crate) has_stall: bool,
    /// The runtime has workers of its own, or one of its polls is running.
    pub(crate) is_driven: bool,
    pub(crate) pauses: &'a Pauses,
}

/// A runtime that was late.
#[derive(Debug, PartialEq)]
pub(crate) struct Lateness {
    pub(crate) delay: Nanos,
    pub(crate) is_ongoing: bool,
    pub(crate) usage: RuntimeUsage,
}

/// Detects late runtimes.
#[derive(Debug)]
pub(crate) struct LateDetector {
    threshold: Nanos,
    waits: HashMap<RuntimeId, ProbeWait>,
}

impl LateDetector {
    pub(crate) fn new(threshold: Nanos) -> LateDetector {
        LateDetector { threshold, waits: HashMap::new() }
    }

    /// Takes in a scan, and returns a report if the runtime is late. `read` reads the counters of
    /// the runtime.
    pub(crate) fn step(
        &mut self,
        runtime: RuntimeId,
        scan: &LateScan<'_>,
        read: impl FnOnce() -> UsageReading,
    ) -> Option<Lateness> {
        let limit = Nanos(self.threshold.0.saturating_mul(LATE_THRESHOLDS));
        match scan.probe {
            ProbeState::Waiting(wake) => {
                if self.waits.get(&runtime).is_none_or(|wait| wait.wake.id != wake.id) {
                    self.waits.insert(runtime, ProbeWait::new(wake));
                }
                let wait = self.waits.get_mut(&runtime)?;
                wait.scans += 1;
                wait.driven_scans += u32::from(scan.is_driven);
                wait.is_settled |= scan.has_stall;
                let waited = without_pauses(wake.at, scan.now, scan.pauses);
                if wait.is_settled || waited < self.threshold {
                    return None;
                }
                let Some(baseline) = &wait.baseline else {
                    wait.baseline = Some(read());
                    return None;
                };
                if waited < REPORT_ONGOING_AFTER.max(limit) || !scan.is_driven || !wait.is_driven() {
                    return None;
                }
                let usage = RuntimeUsage::between(baseline, &read());
                wait.is_settled = true;
                Some(Lateness { delay: waited, is_ongoing: true, usage })
            }
            ProbeState::Answered(delay) => {
                let wait = self.waits.remove(&runtime)?;
                let delay = without_pauses(wait.wake.at, wait.wake.at + delay, scan.pauses);
                if wait.is_settled || scan.has_stall || delay < limit || !wait.is_driven() {
                    return None;
                }
                let usage = RuntimeUsage::between(&wait.baseline?, &read());
                Some(Lateness { delay, is_ongoing: false, usage })
            }
            ProbeState::Silent => {
                self.waits.remove(&runtime);
                None
            }
        }
    }

    /// Returns whether a wait of the runtime's probe is watched.
    pub(crate) fn is_waiting(&self, runtime: RuntimeId) -> bool {
        self.waits.contains_key(&runtime)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
