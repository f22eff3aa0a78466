//! The checks of the clock: at each scan against the monotonic clock, and between CPUs where the
//! readings of a poll contradict each other.

use std::collections::HashMap;

use super::Watcher;
use super::observe::SlotScan;
use crate::measure::primitives::clock::{ClockChange, ClockStep};
use crate::model::id::ThreadNumber;
use crate::model::time::Nanos;

/// Readings that contradict each other by less are no evidence. A thread may also be interrupted
/// between its reading and its push, so that all evidence is only a reason for a comparison.
const MIN_CONTRADICTION: Nanos = Nanos::from_millis(1);

/// The version of a slot in the previous scan, and the moment of that scan.
#[derive(Clone, Copy, Debug)]
struct SeenVersion {
    version: u64,
    at: Nanos,
}

/// The slots as the previous scan has found them, by which a scan recognises a start of a poll that
/// cannot be right.
#[derive(Debug, Default)]
pub(super) struct ClockEvidence {
    seen: HashMap<ThreadNumber, SeenVersion>,
}

impl ClockEvidence {
    /// Replaces the previous scan by this one.
    pub(super) fn keep(&mut self, slots: &SlotScan) {
        let seen =
            slots.versions.iter().map(|(thread, version)| (*thread, SeenVersion { version: *version, at: slots.at }));
        self.seen.clear();
        self.seen.extend(seen);
    }

    /// Returns whether a poll has started before the previous scan, which did not find it, or after
    /// `now`.
    fn is_contradicted(&self, slots: &SlotScan, now: Nanos) -> bool {
        slots.polls.running.iter().any(|poll| {
            let was_not_found = self
                .seen
                .get(&poll.key.thread)
                .is_some_and(|seen| poll.key.number.0 > seen.version && poll.start + MIN_CONTRADICTION < seen.at);
            was_not_found || poll.start > now + MIN_CONTRADICTION
        })
    }
}

impl Watcher {
    /// Checks the clock after the slots were read. Returns whether the moments of the polls have to
    /// be determined again.
    pub(super) fn is_clock_changed(&mut self, slots: &SlotScan) -> bool {
        let clock = &self.meter.clock;
        if self.clock_evidence.is_contradicted(slots, clock.moment()) {
            clock.suspect();
        }
        self.check_clock()
    }

    /// Checks the clock. Returns whether readings have other moments than before.
    pub(super) fn check_clock(&mut self) -> bool {
        let Some(change) = self.meter.check_clock() else { return false };
        match change {
            // This thread may have waited for busy CPUs. That time is no evidence of a pause.
            ClockChange::CpusAgree => {
                self.last_confirmed = self.now();
                return false;
            }
            ClockChange::Stepped(step) => {
                let direction = if let ClockStep::Forward(_) = step { "forward" } else { "back" };
                self.emitter.emit_degraded(format!(
                    "the CPU's time-stamp counter has jumped {direction} by {:?}, as after a suspend or the restore of a \
                     virtual machine: polls that were running then may be reported as shorter than they were",
                    step.length().to_duration()
                ));
            }
            ClockChange::Replaced(why) => {
                self.last_confirmed = self.now();
                self.emitter.emit_degraded(format!(
                    "the CPU's time-stamp counter is not used any more, because {why}: times are read from the monotonic \
                     clock, which takes some tens of nanoseconds more per poll; polls that were running then may be reported \
                     as shorter than they were"
                ));
            }
        }
        true
    }
}
