//! The times of a stall by cause, and the choice of the cause under which it counts. Pure.

use std::time::Duration;

use crate::model::cause::Cause;
use crate::model::event::CpuVerdict;

/// The time of each cause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CauseTimes([Duration; Cause::ALL.len()]);

impl CauseTimes {
    pub(super) fn add(&mut self, cause: Cause, time: Duration) {
        self.0[cause as usize] += time;
    }

    pub(super) fn of(&self, cause: Cause) -> Duration {
        self.0[cause as usize]
    }

    /// Returns the cause under which the stall counts, by the verdict about it.
    ///
    /// It is the cause with the most time. Time in which the thread seemed to be starved is left
    /// out, unless the whole stall is due to it. A poll that was on a CPU for the threshold or
    /// longer has computed, unless it waited for something that is known for longer than that.
    pub(super) fn main_cause(&self, verdict: CpuVerdict) -> Cause {
        let (is_eligible, otherwise): (fn(Cause) -> bool, _) = match verdict {
            CpuVerdict::Starved => return Cause::Starved,
            CpuVerdict::Computed => (|cause| !matches!(cause, Cause::Starved | Cause::Unknown), Cause::Cpu),
            CpuVerdict::Other => (|cause| cause != Cause::Starved, Cause::Unknown),
        };
        let eligible = Cause::ALL.iter().copied().filter(|cause| is_eligible(*cause));
        let longest = eligible.rev().max_by_key(|cause| self.of(*cause));
        longest.filter(|cause| self.of(*cause) > Duration::ZERO).unwrap_or(otherwise)
    }
}
