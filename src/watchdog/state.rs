//! The state that the handles, the threads and the exporters of one watchdog share.

use std::sync::{Arc, Mutex};

use super::config::Config;
use super::responsiveness::RequestedScan;
use super::thread_dumps;
use crate::detect::conditions::reading_budget::ReadingBudget;
use crate::detect::scan;
use crate::detect::stack_coverage;
use crate::detect::status::WatcherStatus;
use crate::detect::threads::ThreadDumper;
#[cfg(feature = "prometheus")]
use crate::export::user_collectors::UserCollectors;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::model::condition::Condition;
use crate::model::coverage::StackCoverage;
use crate::model::id::WorkerIndex;
use crate::model::time::Nanos;
use crate::report::conditions::{ConditionAge, ConditionStore};
use crate::report::counters::ReportCounters;
use crate::report::incidents::Incidents;
use crate::report::incidents::action::IncidentRule;
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
    pub(crate) incidents: Arc<Incidents>,
    pub(super) requested_scan: RequestedScan,
    pub(crate) conditions: Arc<Mutex<ConditionStore>>,
    /// The limit of the readings of drivers that are made for requests.
    pub(super) driver_budget: Mutex<ReadingBudget>,
    #[cfg(feature = "server")]
    pub(crate) profile: Arc<Mutex<ProfileStore>>,
    /// The start of the watchdog, from which all counters count.
    #[cfg(feature = "server")]
    pub(crate) started: std::time::Instant,
    #[cfg(feature = "prometheus")]
    pub(crate) collectors: UserCollectors,
    pub(crate) thread_dumps: Arc<ThreadDumper>,
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
    pub(super) fn new(
        config: Config,
        rules: Vec<IncidentRule>,
        #[cfg(feature = "prometheus")] collectors: UserCollectors,
    ) -> WatchdogState {
        let meter = Meter::new(config.measuring());
        WatchdogState {
            thread_dumps: Arc::new(ThreadDumper::new(meter.clone(), thread_dumps::settings(&config))),
            meter,
            status: Arc::new(WatcherStatus::new()),
            report_counters: Arc::default(),
            stalls: Arc::default(),
            requested_scan: RequestedScan::default(),
            incidents: Arc::new(Incidents::new(config.unhealthy_after, rules)),
            conditions: Arc::default(),
            driver_budget: Mutex::default(),
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
        let mut unknown = Vec::new();
        for observed in observed {
            let elapsed = observed.elapsed + now.saturating_sub(observed.at);
            match observed.worker {
                Some(worker) => add(worker, elapsed),
                None => unknown.push(elapsed),
            }
        }
        for measured in scan::worker_polls(&self.meter, runtime, self.meter.threshold) {
            add(measured.worker, measured.elapsed);
        }
        // A worker whose index is unknown is shown as the first that is not known to be blocked.
        let workers = runtime.metrics().map_or(0, |metrics| metrics.num_workers() as u16);
        for elapsed in unknown {
            let is_free = |worker: &WorkerIndex| blocked.iter().all(|known| known.worker != *worker);
            if let Some(worker) = (0..workers).map(WorkerIndex).find(is_free) {
                blocked.push(Blocked { worker, elapsed });
            }
        }
        blocked
    }

    /// Returns the ongoing conditions of whole runtimes, the oldest first.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        self.condition_ages().into_iter().map(|age| age.condition).collect()
    }

    /// Returns the ongoing conditions of whole runtimes, and when each was last found.
    pub(super) fn condition_ages(&self) -> Vec<ConditionAge> {
        // Lock first, then read the clock: no condition was updated later than `now`.
        let conditions = lock(&self.conditions);
        conditions.ongoing(self.now())
    }

    fn now(&self) -> Nanos {
        self.meter.clock.moment()
    }
}
