//! Computes the coverage of a watchdog.

use std::sync::atomic::Ordering;

use super::state::WatchdogState;
use crate::detect::stack_coverage;
use crate::measure::entry::hooks;
use crate::measure::runtime::Runtime;
use crate::model::coverage::{Coverage, RuntimeCoverage};
use crate::model::id::RuntimeId;

/// Returns the coverage of a runtime.
pub(super) fn of_runtime(runtime: &Runtime) -> RuntimeCoverage {
    RuntimeCoverage {
        name: runtime.name.clone(),
        alive: runtime.is_live(),
        every_task: runtime.is_hooked(),
        workers: runtime.worker_threads().is_some(),
    }
}

impl WatchdogState {
    /// Returns the coverage of this watchdog.
    pub(crate) fn coverage(&self) -> Coverage {
        let meter = &self.meter;
        let runtimes = meter.runtimes.all().into_iter().filter(|runtime| runtime.id != RuntimeId::OTHER);
        Coverage {
            hooks: hooks::INSTALLED,
            watching: self.status.is_running(),
            watchdog_panics: self.status.panics.load(Ordering::Relaxed),
            exact_wakeup: meter.wake.is_exact(),
            clock: meter.clock.name(),
            stacks: stack_coverage::now(self.stacks),
            runtimes: runtimes.map(|runtime| of_runtime(&runtime)).collect(),
            unnamed_runtimes: meter.runtimes.unnamed(),
            measured_threads: meter.threads().len(),
            unmeasured_threads: meter.refused_threads(),
            lost_polls: meter.lost_polls(),
        }
    }
}
