//! The state that the handles, the threads and the exporters of one watchdog share.

use std::sync::{Arc, Mutex};

use super::config::Config;
use crate::detect::scan;
use crate::detect::stack_coverage;
use crate::detect::status::WatcherStatus;
#[cfg(feature = "prometheus")]
use crate::export::user_collectors::UserCollectors;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::model::coverage::StackCoverage;
use crate::model::id::WorkerIndex;
use crate::model::time::Nanos;
use crate::report::dispatch::ReportCounters;
#[cfg(feature = "server")]
use crate::report::profile::ProfileStore;
use crate::report::store::StallStore;
use crate::report::totals::StallTotals;
use crate::util::lock;

/// The state of one watchdog, shared by its handles and threads.
pub(crate) struct WatchdogState {
    pub(crate) config: Config,
    pub(crate) meter: Arc<Meter>,
    pub(crate) status: Arc<WatcherStatus>,
    pub(crate) report_counters: Arc<ReportCounters>,
    pub(crate) stalls: Arc<Mutex<StallStore>>,
    #[cfg(feature = "server")]
    pub(crate) profile: Arc<Mutex<ProfileStore>>,
    /// The start of the watchdog, from which all counters count.
    #[cfg(feature = "server")]
    pub(crate) started: std::time::Instant,
    #[cfg(feature = "prometheus")]
    pub(crate) collectors: UserCollectors,
    /// The stacks that could be captured when the watchdog started.
    pub(crate) stacks: StackCoverage,
}

/// A worker whose poll has lasted at least the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) worker: WorkerIndex,
    pub(crate) elapsed: Nanos,
}

impl WatchdogState {
    /// Returns the state for a config that has to be valid.
    pub(super) fn new(config: Config, #[cfg(feature = "prometheus")] collectors: UserCollectors) -> WatchdogState {
        WatchdogState {
            meter: Meter::new(config.measuring()),
            status: Arc::new(WatcherStatus::new()),
            report_counters: Arc::default(),
            stalls: Arc::default(),
            #[cfg(feature = "server")]
            profile: Arc::default(),
            #[cfg(feature = "server")]
            started: std::time::Instant::now(),
            #[cfg(feature = "prometheus")]
            collectors,
            stacks: stack_coverage::at_start(config.capture_stacks),
            config,
        }
    }

    /// Returns the totals of all stalls, with the time of ongoing ones until now.
    pub(crate) fn totals(&self) -> StallTotals {
        // Lock first, then read the clock: no stall was updated later than `now`.
        let mut stalls = lock(&self.stalls);
        stalls.totals(self.now())
    }

    /// Returns the blocked workers of a runtime, each once, with its longest poll. Workers in
    /// measured polls are read from their slots, which is accurate even while the watchdog thread
    /// is late. Workers that are blocked by tasks that were not wrapped are those that the watchdog
    /// thread found in its latest scan.
    pub(crate) fn blocked_workers(&self, runtime: &Runtime) -> Vec<Blocked> {
        let mut blocked: Vec<Blocked> = Vec::new();
        let mut add =
            |worker: WorkerIndex, elapsed: Nanos| match blocked.iter_mut().find(|known| known.worker == worker) {
                Some(known) => known.elapsed = known.elapsed.max(elapsed),
                None => blocked.push(Blocked { worker, elapsed }),
            };
        let observed = lock(&self.stalls).observed_workers(runtime.id);
        let now = self.now();
        for observed in observed {
            add(observed.worker, observed.elapsed + now.saturating_sub(observed.at));
        }
        for measured in scan::worker_polls(&self.meter, runtime, self.meter.threshold) {
            add(measured.worker, measured.elapsed);
        }
        blocked
    }

    fn now(&self) -> Nanos {
        self.meter.clock.nanos(self.meter.clock.now())
    }
}
