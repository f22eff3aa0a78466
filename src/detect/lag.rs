//! Publishes the lag of the runtimes, as measured by their probes.

use std::collections::{HashMap, HashSet};

use crate::detect::track::ScannedPolls;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::probe::Answer;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// The delay of a probe that has not been answered is published, as a lower bound, from this length
/// on. Until then the latest answer stays readable.
const MIN_LOWER_BOUND: Nanos = Nanos::from_millis(20);
/// A runtime with a delay of this length that was active since the previous probe is late: it is
/// probed on, also while no scan meets a poll.
const LATE: Nanos = Nanos::from_millis(1);
/// The time for which a late runtime is probed on. Load shedding may make its polls so short that
/// no scan meets one, and has to learn that the delay is gone.
const PROBE_LATE_FOR: Nanos = Nanos::from_secs(4);

/// The delay of a runtime since the latest wake of its probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delay {
    length: Nanos,
    is_lower_bound: bool,
}

/// Publishes the lag of the runtimes after each scan.
#[derive(Debug, Default)]
pub(super) struct LagPublisher {
    /// The runtimes whose probe was woken and has not answered.
    waiting: Vec<RuntimeId>,
    /// The runtimes that were late, and the moments until which they are probed on.
    late_until: HashMap<RuntimeId, Nanos>,
    /// The runtimes of which a scan has met a poll or a busy worker since their previous delay. The
    /// delay of another one is the latency of waking an idle worker.
    active: HashSet<RuntimeId>,
}

impl LagPublisher {
    /// Returns the runtimes that are probed even if they seem not to poll.
    pub(super) fn late(&self) -> impl Iterator<Item = RuntimeId> {
        self.late_until.keys().copied()
    }

    /// Records that a probe was woken.
    pub(super) fn probe_sent(&mut self, runtime: &Runtime) {
        if runtime.lag.is_held() && !self.waiting.contains(&runtime.id) {
            self.waiting.push(runtime.id);
        }
    }

    /// Publishes the lag of all runtimes whose lag has a reader. `busy` are the runtimes with a
    /// worker that is not parked. `blocked` returns the number of a runtime's blocked workers.
    pub(super) fn publish(
        &mut self,
        meter: &Meter,
        now: Nanos,
        scan: &ScannedPolls,
        busy: &[RuntimeId],
        blocked: impl Fn(&Runtime) -> usize,
    ) {
        self.late_until.retain(|_, until| now < *until);
        if !meter.has_lag_holders() {
            self.waiting.clear();
            self.late_until.clear();
            self.active.clear();
            return;
        }
        self.active.extend(scan.running.iter().map(|poll| poll.runtime).chain(busy.iter().copied()));
        let mut runtimes = meter.runtimes.all();
        runtimes.retain(|runtime| runtime.lag.is_held());
        // The probe's answer is published only to the reader who waited for it: for the next one it
        // is old.
        self.waiting.retain(|id| runtimes.iter().any(|runtime| runtime.id == *id));
        for runtime in runtimes {
            if let Some(Delay { length, is_lower_bound }) = self.delay_of(meter, &runtime, scan) {
                if self.active.remove(&runtime.id) && length >= LATE {
                    self.late_until.insert(runtime.id, now + PROBE_LATE_FOR);
                }
                if !is_lower_bound || length >= MIN_LOWER_BOUND {
                    runtime.lag.publish_delay(length, is_lower_bound);
                }
            }
            runtime.lag.publish_scan(blocked(&runtime));
        }
    }

    /// Returns a runtime's delay since the latest wake of its probe, if anything is known of it.
    fn delay_of(&mut self, meter: &Meter, runtime: &Runtime, scan: &ScannedPolls) -> Option<Delay> {
        let at = self.waiting.iter().position(|id| *id == runtime.id)?;
        match runtime.probe.answer() {
            Answer::After(delay) => {
                self.waiting.swap_remove(at);
                Some(Delay { length: delay, is_lower_bound: false })
            }
            Answer::Withdrawn => {
                self.waiting.swap_remove(at);
                None
            }
            Answer::Waiting(sent) => {
                // The probe may be the next task after the polls that were running when it was
                // woken. Only polls of other tasks that started later show that it is late.
                let polls = scan.running.iter().filter(|poll| poll.runtime == runtime.id);
                let latest = polls.map(|poll| poll.start).max()?;
                let length = latest.saturating_sub(meter.clock.nanos(sent));
                Some(Delay { length, is_lower_bound: true })
            }
        }
    }

    /// Withdraws all published lags, because the watchdog stops.
    pub(super) fn clear(meter: &Meter) {
        meter.runtimes.all().iter().for_each(|runtime| runtime.lag.clear());
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
