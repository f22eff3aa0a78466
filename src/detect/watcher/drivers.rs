//! The check of who attends the I/O drivers of the runtimes, and the rescue of a driver that nobody
//! attends.

mod probe_readings;
mod runtime_workers;

use std::collections::HashMap;
use std::time::SystemTime;

use pollwatch_stack::Tid;
use tokio::runtime::RuntimeMetrics;

use runtime_workers::{RunningWorkers, RuntimeWorkers};

use super::Watcher;
use super::observe::ScanResult;
use crate::detect::conditions::driver_reading::{self, DriverReading};
use crate::detect::conditions::driver_watch::{
    DriverChange, DriverState, DriverWatch, ReadingEvidence, RuntimeReading,
};
use crate::detect::conditions::reading_budget::{ReadingBudget, ReadingPurpose};
use crate::detect::outside::workers::published;
use crate::detect::procfs;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::io_driver::IoDriver;
use crate::measure::runtime::meter::Meter;
use crate::model::condition::{Condition, ConditionChange, ConditionKind};
use crate::model::id::{ConditionId, RuntimeId, WorkerIndex};
use crate::model::stall::Phase;
use crate::model::time::Nanos;

/// The shortest time between two readings of a driver.
const READING_INTERVAL: Nanos = Nanos::from_millis(2);
/// The shortest time between two readings while it cannot be known who is in the driver.
const UNKNOWN_INTERVAL: Nanos = Nanos::from_millis(10);
/// The time between two readings of all drivers while the watchdog is awake, whatever keeps it
/// awake.
const ALL_INTERVAL: Nanos = Nanos::from_secs(1);
/// The time after which a worker is woken again while nobody attends the driver. The first wake
/// ends that, unless the worker cannot enter the driver. So each time is twice the one before.
const RESCUE_INTERVAL: Nanos = Nanos::from_secs(1);
const MAX_DOUBLINGS: u64 = 6;
/// The longest sleep while nobody is in the driver of an idle runtime, and that is not confirmed.
/// It is longer where no reading is affordable then.
const UNCONFIRMED_SLEEP: Nanos = Nanos::from_millis(50);
/// The longest sleep while a runtime hangs. It is longer where no reading is affordable then.
const HUNG_SLEEP: Nanos = Nanos::from_secs(1);

/// The drivers of all runtimes, with the conditions that were found.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    by_runtime: HashMap<RuntimeId, WatchedDriver>,
    last_condition: u64,
    /// The moment of the latest scan that has read all drivers.
    all_read_at: Option<Nanos>,
    /// The moment from which on the next reading of all drivers is due.
    next_of_all: Nanos,
    budget: ReadingBudget,
}

/// The driver of one runtime.
#[derive(Debug, Default)]
struct WatchedDriver {
    watch: DriverWatch,
    /// The thread that was in the driver at the latest reading that found one.
    likely: Option<Tid>,
    /// The moment at which the next reading is due.
    next_reading: Nanos,
    /// The moment from which on a reading for the sake of a probe is due.
    next_probe_reading: Nanos,
    /// The workers that have been running since nobody is in the driver.
    running: RunningWorkers,
    /// True if the latest reading was one beyond the budget.
    is_overdrawn: bool,
    condition: Option<(ConditionId, Condition)>,
    rescue: RescueState,
}

/// The wakes of workers in one condition.
#[derive(Debug, Default)]
struct RescueState {
    /// The moment from which on the next wake is due.
    next: Nanos,
    count: u64,
}

impl WatchedDriver {
    /// Reads who is in the driver, and returns what that cost, by the time that `spent` returns.
    fn read(&mut self, runtime: &Runtime, spent: impl Fn() -> Nanos) -> (DriverReading, Nanos) {
        let start = spent();
        let reading = driver_reading::read(runtime, self.likely);
        if let DriverReading::Attended(tid) = reading {
            self.likely = Some(tid);
        }
        (reading, spent().saturating_sub(start))
    }
}

impl Watcher {
    /// Checks the drivers of the runtimes with a blocked worker, and of those that nobody attended
    /// at the latest reading. Once a second, checks all of them: a runtime that hangs does not show
    /// by itself, and another one may keep the watchdog from its sleep.
    pub(super) fn check_drivers(&mut self, scan: &ScanResult) {
        if scan.now >= self.drivers.next_of_all && self.drivers.budget.is_affordable(scan.now) {
            return self.read_drivers(scan, true);
        }
        let is_open = self.drivers.by_runtime.values().any(|driver| driver.watch.is_open());
        let is_allowed = || scan.polls.running.iter().any(|poll| poll.allowed_since.is_some());
        let is_learning =
            || self.meter.runtimes.all().iter().any(|runtime| runtime.io_driver() == Some(IoDriver::NotSeen));
        if is_open || self.tracker.has_stalls() || !self.unwatched.is_empty() || is_allowed() || is_learning() {
            self.read_drivers(scan, false);
        }
    }

    /// Checks the drivers of all runtimes before the watchdog falls asleep. Returns the longest
    /// time that it may sleep: no limit if all drivers are attended, or it is not known.
    pub(super) fn check_drivers_before_sleep(&mut self, scan: &ScanResult) -> Option<Nanos> {
        if self.drivers.all_read_at != Some(scan.now) {
            if !self.drivers.budget.is_affordable(scan.now) {
                return Some(self.drivers.budget.time_left(scan.now));
            }
            self.read_drivers(scan, true);
        }
        let affordable = self.drivers.budget.time_left(scan.now);
        let open = self.drivers.by_runtime.values().filter(|driver| driver.watch.is_open());
        let limit = |driver: &WatchedDriver| match driver.watch.ongoing() {
            Some(_) => HUNG_SLEEP.max(affordable),
            None => UNCONFIRMED_SLEEP.max(affordable),
        };
        open.map(limit).min()
    }

    /// Returns the moment of the next scan for the sake of a condition that is not confirmed. With
    /// a long threshold, the next scan would be much later.
    pub(super) fn next_confirmation(&self, scan: &ScanResult) -> Option<Nanos> {
        let due = self.drivers.by_runtime.values().filter_map(WatchedDriver::confirmation);
        due.filter(|due| *due > scan.now).min()
    }

    /// Reads the drivers for which that is due, or all of them.
    fn read_drivers(&mut self, scan: &ScanResult, is_all: bool) {
        let start = reading_time(self.own_tid, &self.meter);
        let is_allowed = !is_all && self.drivers.budget.allows(ReadingPurpose::Condition, scan.now);
        for runtime in self.meter.runtimes.all() {
            let io_driver = runtime.io_driver();
            let is_learning = io_driver == Some(IoDriver::NotSeen);
            if !is_learning && io_driver.is_none_or(|driver| driver.descriptors().is_none()) {
                if let Some(change) =
                    self.drivers.by_runtime.remove(&runtime.id).and_then(|mut gone| gone.end(runtime.id, scan.now))
                {
                    self.emitter.emit_condition(change);
                }
                continue;
            }
            let workers = self.runtime_workers(scan, &runtime);
            let driver = self.drivers.by_runtime.entry(runtime.id).or_default();
            let may_be_unattended = workers.counts.blocked > 0 && workers.counts.parked > 0;
            let is_due = driver.watch.is_open() || may_be_unattended || is_learning;
            let confirms = driver.confirmation().is_some_and(|due| scan.now >= due);
            if is_all || is_due && (is_allowed || confirms) && scan.now >= driver.next_reading {
                driver.is_overdrawn = !is_all && !is_allowed;
                self.read_driver(scan, &runtime, &workers);
            } else if driver.watch.is_open() {
                self.step_unread_driver(scan, &runtime, &workers);
            }
        }
        if is_all {
            let cost = reading_time(self.own_tid, &self.meter).saturating_sub(start);
            self.drivers.all_read_at = Some(scan.now);
            self.drivers.next_of_all = scan.now + ReadingBudget::time_for(cost).max(ALL_INTERVAL);
        }
    }

    /// Reads the driver of a runtime, and emits what has changed.
    fn read_driver(&mut self, scan: &ScanResult, runtime: &Runtime, workers: &RuntimeWorkers) {
        let Some(metrics) = runtime.metrics() else { return };
        let before = sum_of_published(&metrics);
        let driver = self.drivers.by_runtime.entry(runtime.id).or_default();
        let (found, cost) = driver.read(runtime, || reading_time(self.own_tid, &self.meter));
        let read_at = self.meter.clock.moment();
        let after = sum_of_published(&metrics);
        let interval = match found {
            DriverReading::Unknown(_) => UNKNOWN_INTERVAL,
            DriverReading::Attended(_) | DriverReading::Unattended { .. } => READING_INTERVAL,
        };
        driver.next_reading = scan.now + interval;
        self.drivers.budget.spend(ReadingPurpose::Condition, cost, scan.now);
        let mut evidence = match runtime.is_hooked() || runtime.worker_threads().is_some() {
            true => ReadingEvidence::Conclusive,
            false => ReadingEvidence::Partial,
        };
        if let DriverReading::Unattended { running } = &found
            && evidence == ReadingEvidence::Conclusive
        {
            let mut known = std::mem::take(&mut driver.running);
            evidence = self.evidence_of_running(scan, runtime, running, &workers.blocked_threads, &mut known);
            self.drivers.by_runtime.entry(runtime.id).or_default().running = known;
        }
        let reading = RuntimeReading {
            at: scan.now,
            read_at,
            driver: found.state(after != before),
            published: after,
            workers: workers.counts,
            culprit: workers.culprit,
            evidence,
        };
        self.step_driver(scan, runtime, &reading);
    }

    /// Checks an ongoing condition by the workers alone, which costs next to nothing.
    fn step_unread_driver(&mut self, scan: &ScanResult, runtime: &Runtime, workers: &RuntimeWorkers) {
        let Some(metrics) = runtime.metrics() else { return };
        let reading = RuntimeReading {
            at: scan.now,
            read_at: self.now(),
            driver: DriverState::NotRead,
            published: sum_of_published(&metrics),
            workers: workers.counts,
            culprit: workers.culprit,
            evidence: ReadingEvidence::Conclusive,
        };
        self.step_driver(scan, runtime, &reading);
    }

    fn step_driver(&mut self, scan: &ScanResult, runtime: &Runtime, reading: &RuntimeReading) {
        let driver = self.drivers.by_runtime.entry(runtime.id).or_default();
        let change = driver.watch.step(reading, &self.pauses);
        if !driver.watch.is_open() {
            driver.running = RunningWorkers::default();
        }
        if let Some(change) = change {
            self.emit_driver_change(scan.now, runtime, change);
        }
    }

    fn emit_driver_change(&mut self, at: Nanos, runtime: &Runtime, change: DriverChange) {
        let may_rescue = self.settings.rescue_driver;
        let driver = self.drivers.by_runtime.entry(runtime.id).or_default();
        match change {
            DriverChange::Started { kind, duration, culprit } => {
                self.drivers.last_condition += 1;
                let age = duration + self.meter.clock.moment().saturating_sub(at);
                let condition = Condition {
                    kind,
                    phase: Phase::Ongoing,
                    runtime: runtime.name.clone(),
                    started_at: SystemTime::now().checked_sub(age.to_duration()).unwrap_or(SystemTime::UNIX_EPOCH),
                    duration: duration.to_duration(),
                    stall: culprit.map(|culprit| culprit.stall.0),
                    stall_summary: None,
                    rescues: 0,
                    blocking_pool: None,
                    remedy: remedy(kind, runtime),
                };
                driver.condition = Some((ConditionId(self.drivers.last_condition), condition));
                driver.rescue = RescueState::default();
            }
            DriverChange::Ongoing { duration, culprit } => {
                let Some((_, condition)) = &mut driver.condition else { return };
                condition.duration = duration.to_duration();
                condition.stall = culprit.map(|culprit| culprit.stall.0).or(condition.stall);
            }
            DriverChange::Ended { duration } => {
                let Some((_, condition)) = &mut driver.condition else { return };
                condition.duration = duration.to_duration();
            }
        }
        if matches!(change, DriverChange::Ended { .. }) {
            if let Some(change) = driver.end(runtime.id, at) {
                self.emitter.emit_condition(change);
            }
            return;
        }
        if may_rescue && at >= driver.rescue.next && runtime.probe.send(self.meter.clock.now()) {
            let wait = (1 << driver.rescue.count.min(MAX_DOUBLINGS)) * RESCUE_INTERVAL;
            driver.rescue = RescueState { next: at + wait, count: driver.rescue.count + 1 };
            self.lag.probe_sent(runtime);
        }
        if let Some(change) = driver.change(runtime.id, at) {
            self.emitter.emit_condition(change);
        }
    }
}

impl Drivers {
    /// Returns the number of a new condition, of whatever kind.
    pub(super) fn next_condition(&mut self) -> ConditionId {
        self.last_condition += 1;
        ConditionId(self.last_condition)
    }
}

impl WatchedDriver {
    /// Returns the moment from which on a reading may confirm a condition, and may exceed the
    /// budget for that. The one after it may not, since each may find a new condition that is not
    /// confirmed.
    fn confirmation(&self) -> Option<Nanos> {
        self.watch.confirmation().filter(|_| !self.is_overdrawn)
    }

    /// Returns the state of the ongoing condition.
    fn change(&mut self, runtime: RuntimeId, at: Nanos) -> Option<ConditionChange> {
        let (id, condition) = self.condition.as_mut()?;
        condition.rescues = self.rescue.count;
        Some(ConditionChange { id: *id, runtime, at, condition: condition.clone() })
    }

    /// Ends the ongoing condition, if there is one.
    fn end(&mut self, runtime: RuntimeId, at: Nanos) -> Option<ConditionChange> {
        let mut change = self.change(runtime, at)?;
        self.condition = None;
        change.condition.phase = Phase::Resolved;
        Some(change)
    }
}

/// Returns the time that the watchdog thread has spent, by which readings are paid for: its CPU
/// time. If it waits for a CPU during a reading, that costs nobody anything.
fn reading_time(own_tid: Option<Tid>, meter: &Meter) -> Nanos {
    own_tid.and_then(procfs::cpu_time).unwrap_or_else(|| meter.clock.moment())
}

/// Returns a sum that changes with everything that tokio publishes of the workers.
fn sum_of_published(metrics: &RuntimeMetrics) -> u64 {
    let all = (0..metrics.num_workers() as u16).map(WorkerIndex);
    all.map(|worker| published(metrics, worker)).fold(0, u64::wrapping_add)
}

/// Returns what to do about a condition.
fn remedy(kind: ConditionKind, runtime: &Runtime) -> &'static str {
    match (kind, runtime.hands_driver_on()) {
        (ConditionKind::RuntimeHung, _) => {
            "find out what its workers wait for (their stacks): a waker, or a callback of the runtime, that blocks within \
             the driver keeps all others out of it"
        }
        (ConditionKind::DriverUnattended, Some(false)) if cfg!(tokio_unstable) => {
            "do not block in a task; Builder::enable_eager_driver_handoff of tokio lets another worker attend them before \
             each poll"
        }
        (ConditionKind::DriverUnattended, Some(false)) => {
            "do not block in a task; in a build with tokio_unstable, Builder::enable_eager_driver_handoff of tokio lets \
             another worker attend them before each poll"
        }
        (ConditionKind::DriverUnattended | ConditionKind::BlockingPoolFull, _) => "do not block in a task",
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests;
