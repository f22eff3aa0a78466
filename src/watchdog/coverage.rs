//! Computes the coverage of a watchdog.

use std::sync::atomic::Ordering;

use super::state::WatchdogState;
use crate::detect::conditions::driver_reading;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::{locks, stack_coverage};
use crate::measure::entry::hooks;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::{Runtime, blocking_pool};
use crate::model::coverage::{Coverage, RuntimeCoverage, StackCoverage};
#[cfg(feature = "tower")]
use crate::model::id::RouteId;
use crate::model::id::RuntimeId;

/// Returns the coverage of a runtime in a process with this coverage of stacks.
pub(super) fn of_runtime(runtime: &Runtime, stacks: StackCoverage) -> RuntimeCoverage {
    RuntimeCoverage {
        name: runtime.name.clone(),
        alive: runtime.is_live(),
        every_task: runtime.is_hooked(),
        workers: runtime.worker_threads().is_some(),
        thread_waits: stacks.has_waiting_threads()
            && runtime.driven().is_some()
            && !TokioFunctions::lacks_current_thread(),
        blocking_pool: runtime.is_live() && blocking_pool::PUBLISHED,
        driver_unobserved: driver_reading::unobserved(runtime),
    }
}

/// Returns the number of requests that layers could not name, if none has had a route so far.
#[cfg(feature = "tower")]
fn unnamed_requests(meter: &Meter) -> u64 {
    let routes = meter.sum_of_routes();
    if routes.keys().any(|route| *route != RouteId::UNMATCHED) {
        return 0;
    }
    routes.get(&RouteId::UNMATCHED).map_or(0, |unmatched| unmatched.unnamed_requests)
}

/// Returns 0, because no request is measured.
#[cfg(not(feature = "tower"))]
fn unnamed_requests(_: &Meter) -> u64 {
    0
}

impl WatchdogState {
    /// Returns the coverage of this watchdog.
    pub(crate) fn coverage(&self) -> Coverage {
        let meter = &self.meter;
        let runtimes = meter.runtimes.all().into_iter().filter(|runtime| runtime.id != RuntimeId::OTHER);
        let stacks = stack_coverage::now(self.stacks);
        Coverage {
            hooks: hooks::INSTALLED,
            watching: self.status.is_running(),
            watchdog_panics: self.status.panics.load(Ordering::Relaxed),
            exact_wakeup: meter.wake.is_exact(),
            clock: meter.clock.name(),
            clock_steps: meter.clock.steps(),
            clock_replaced: meter.clock.replaced(),
            stacks,
            symbols: self.config.symbols,
            unusable_symbol_files: self.report_counters.unusable_symbol_files.load(Ordering::Relaxed),
            delays: meter.min_delay.is_some(),
            lost_delays: meter.lost_delays(),
            untracked_tasks: meter.untracked_tasks(),
            lock_holders_unavailable: locks::unavailable(self.config.capture_stacks),
            unnamed_requests: unnamed_requests(meter),
            runtimes: runtimes.map(|runtime| of_runtime(&runtime, stacks)).collect(),
            unnamed_runtimes: meter.runtimes.unnamed(),
            measured_threads: meter.threads().len(),
            unmeasured_threads: meter.refused_threads(),
            lost_polls: meter.lost_polls(),
            attached: None,
        }
    }
}
