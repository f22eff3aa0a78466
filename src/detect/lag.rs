//! What the probes' answers say about the lag of the runtimes, and its publication.

use std::collections::HashMap;

use crate::detect::track::Scan;
use crate::measure::primitives::clock::Ticks;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::probe::Answer;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// A wait is published as a lower bound from this age on. Before that the latest answer stays
/// readable.
const MIN_LOWER_BOUND: u64 = 20_000_000;
/// A longer delay keeps the probe going, also while no poll is seen.
const LATE: u64 = 1_000_000;
/// The time for which it does. Whoever rejects requests for a delay makes the polls so short that
/// no scan meets one, and has to learn that the delay is gone.
const PROBING: u64 = 4_000_000_000;

/// What is kept from one scan to the next.
#[derive(Debug, Default)]
pub(super) struct LagPublisher {
    /// Runtimes whose probe was woken, and has not answered.
    waiting: Vec<RuntimeId>,
    /// Runtimes that were late, and the moments until which they are probed.
    late_until: HashMap<RuntimeId, u64>,
}

impl LagPublisher {
    /// Returns the runtimes that are probed although nothing may be polling.
    pub(super) fn late(&self) -> impl Iterator<Item = RuntimeId> {
        self.late_until.keys().copied()
    }

    /// Records that a probe was woken.
    pub(super) fn sent(&mut self, runtime: &Runtime) {
        if runtime.lag.is_held() && !self.waiting.contains(&runtime.id) {
            self.waiting.push(runtime.id);
        }
    }

    /// Publishes the lag of all runtimes that anyone reads it of. `blocked` returns the number of a
    /// runtime's blocked workers.
    pub(super) fn publish(&mut self, meter: &Meter, now: u64, scan: &Scan, blocked: impl Fn(&Runtime) -> usize) {
        self.late_until.retain(|_, until| now < *until);
        if !meter.has_lag_holders() {
            self.waiting.clear();
            self.late_until.clear();
            return;
        }
        for runtime in meter.runtimes.all().into_iter().filter(|runtime| runtime.lag.is_held()) {
            if let Some((delay, is_lower_bound)) = self.delay_of(meter, &runtime, scan) {
                if delay >= LATE {
                    self.late_until.insert(runtime.id, now + PROBING);
                }
                if !is_lower_bound || delay >= MIN_LOWER_BOUND {
                    runtime.lag.publish_delay(Nanos(delay), is_lower_bound);
                }
            }
            runtime.lag.publish_scan(blocked(&runtime));
        }
    }

    /// Returns what is known of a runtime's delay since the probe's latest wake, in nanoseconds, and
    /// whether it is a lower bound.
    fn delay_of(&mut self, meter: &Meter, runtime: &Runtime, scan: &Scan) -> Option<(u64, bool)> {
        let at = self.waiting.iter().position(|id| *id == runtime.id)?;
        match runtime.probe.answer() {
            Answer::After(nanos) => {
                self.waiting.swap_remove(at);
                Some((nanos, false))
            }
            Answer::Withdrawn => {
                self.waiting.swap_remove(at);
                None
            }
            Answer::Waiting(sent) => {
                // Behind polls that began before it was woken, it may be the next: only polls of
                // others that began later make it late.
                let polls = scan.running.iter().filter(|poll| poll.runtime == runtime.id);
                let latest = polls.map(|poll| poll.begin).max()?;
                Some((latest.saturating_sub(meter.clock.nanos(Ticks(sent)).0), true))
            }
        }
    }

    /// Withdraws all that was published: the watchdog stops.
    pub(super) fn clear(meter: &Meter) {
        meter.runtimes.all().iter().for_each(|runtime| runtime.lag.clear());
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
