//! The drivers of the runtimes: the setting of their rescue, and what is known of them now.

use super::WatchdogBuilder;
use super::state::WatchdogState;
use crate::detect::conditions::driver_reading::{self, DriverReading};
use crate::detect::conditions::reading_budget::ReadingPurpose;
use crate::measure::runtime::Runtime;
use crate::model::condition::ConditionKind;
use crate::model::snapshot::ConditionSnapshot;
use crate::util::lock;

impl WatchdogBuilder {
    /// Sets whether a worker is woken when nobody attends the sockets and timers of a runtime
    /// (the default), or when the runtime hangs.
    ///
    /// In a multi-thread runtime, one of the workers without work waits for sockets and timers. If
    /// it comes out of that wait and blocks in a task, tokio wakes no other worker, and the runtime
    /// is deaf until the task returns. If the task waits for a timer or a socket itself, that is a
    /// deadlock. Any wake from outside ends it. So pollwatch's probe of the schedule delay, which
    /// is such a wake, is only sent while somebody attends them, or no worker is idle.
    ///
    /// With `true`, the watchdog wakes an idle worker once it has found that state. That takes two
    /// readings of the process's threads, 2 ms apart, or 100 ms while a thread of the runtime runs.
    /// The first one may have to wait for 33 times as long as earlier readings took: with 1,000
    /// threads, some hundred milliseconds. The wake is logged and counted
    /// (`pollwatch_driver_rescues_total`): **the program may depend on it**, and deadlock without
    /// pollwatch.
    ///
    /// With `false` nothing in pollwatch wakes a worker of a multi-thread runtime in that state:
    /// the program behaves as it does without pollwatch, and the state is only reported. Where it
    /// cannot be known (see [`RuntimeCoverage`](crate::RuntimeCoverage)), no probe is sent then
    /// while a worker is idle. [`Watchdog::shutdown`](crate::Watchdog::shutdown) wakes no worker of
    /// a multi-thread runtime either.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().rescue_driver(false);
    /// # builder.start().unwrap();
    /// ```
    pub fn rescue_driver(mut self, rescue: bool) -> Self {
        self.config.rescue_driver = rescue;
        self
    }
}

impl WatchdogState {
    /// Returns whether somebody attends the sockets and timers of a runtime, as far as the watchdog
    /// has found; `None` where that is not known, and no condition is ongoing.
    pub(crate) fn is_driver_attended(&self, runtime: &Runtime) -> Option<bool> {
        runtime.io_driver()?.descriptors()?;
        let knowledge = driver_reading::knowledge(runtime);
        let conditions = lock(&self.conditions);
        let is_ongoing = |kind| conditions.is_ongoing(runtime.id, kind);
        if is_ongoing(ConditionKind::DriverUnattended) || is_ongoing(ConditionKind::RuntimeHung) {
            return Some(false);
        }
        knowledge.ok().map(|()| true)
    }

    /// Returns the totals of the conditions of one kind of a runtime.
    pub(crate) fn condition_totals(&self, runtime: &Runtime, kind: ConditionKind) -> ConditionSnapshot {
        // Lock first, then read the clock: no condition was updated later than that.
        let mut conditions = lock(&self.conditions);
        let totals = conditions.totals(runtime.id, kind, self.meter.clock.moment());
        ConditionSnapshot { count: totals.count, time: totals.time.to_duration(), rescues: totals.rescues }
    }

    /// Wakes the watchdog if nobody attends the driver of a runtime at this moment, so that it
    /// finds out whether that lasts. A runtime that hangs starts no poll that would wake it.
    ///
    /// A flood of requests reads no more often than the budget allows: the reading before was
    /// recent then.
    pub(crate) fn check_drivers(&self) {
        if !self.status.is_running() {
            return;
        }
        let now = || self.meter.clock.moment();
        let mut budget = lock(&self.driver_budget);
        let start = now();
        if !budget.allows(ReadingPurpose::Condition, start) {
            return;
        }
        let is_unattended =
            |runtime: &Runtime| matches!(driver_reading::read(runtime, None), DriverReading::Unattended { .. });
        let is_any_unattended = self.meter.runtimes.all().iter().any(|runtime| is_unattended(runtime));
        let end = now();
        budget.spend(ReadingPurpose::Condition, end.saturating_sub(start), end);
        drop(budget);
        if is_any_unattended {
            self.meter.wake.wake();
        }
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::Watchdog;
    use crate::measure::runtime::io_driver::UnknownReason;
    use crate::model::time::Nanos;

    /// The watchdog thread reads the driver as well, so that an attempt may be overtaken.
    #[test]
    fn a_driver_that_cannot_be_read_is_not_claimed_to_be_attended() {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        let _runtime = watchdog.runtime("main").worker_threads(1).enable_all().build().unwrap();
        let runtime = watchdog.state.meter.runtimes.all().into_iter().find(|it| &*it.name == "main").unwrap();
        for reason in [UnknownReason::NoThreadReadable, UnknownReason::ThreadUnreadable] {
            let is_unknown = |_| {
                runtime.publish_driver_knowledge(Err(reason));
                let attended = watchdog.state.is_driver_attended(&runtime);
                let coverage = watchdog.coverage();
                let found = coverage.runtimes.iter().find(|it| &*it.name == "main").unwrap();
                attended.is_none() && found.driver_unobserved == Some(reason.as_str())
            };
            assert!((0..1_000).any(is_unknown), "{reason:?}");
        }
        runtime.publish_driver_knowledge(Ok(()));
        assert_eq!(watchdog.state.is_driver_attended(&runtime), Some(true));
    }

    #[test]
    fn a_flood_of_requests_reads_no_more_than_the_budget_allows() {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        let _runtime = watchdog.runtime("main").worker_threads(1).enable_all().build().unwrap();
        let state = &watchdog.state;
        let time_left = || lock(&state.driver_budget).time_left(state.meter.clock.moment());
        state.check_drivers();
        let first = state.meter.clock.moment();
        assert!(!lock(&state.driver_budget).is_affordable(Nanos::ZERO), "a reading was made");
        lock(&state.driver_budget).spend(ReadingPurpose::Condition, Nanos::from_secs(60), first);
        let left = time_left();
        (0..100).for_each(|_| state.check_drivers());
        assert!(time_left() <= left, "no other reading was made");
    }
}
