//! Fixtures of unit tests.

use std::sync::Arc;
use std::time::Duration;

use pollwatch::{LagReading, Watchdog};
use tokio::runtime::Runtime;

use crate::admission::{AdmissionControl, Mode, RuntimeLag};
use crate::config::Shed;
use crate::policy::Policy;

/// A runtime that polls all the time, with the state that the monitor thread would set.
pub(crate) struct LateRuntime {
    pub(crate) watchdog: Watchdog,
    pub(crate) tokio: Runtime,
    pub(crate) runtime: Arc<RuntimeLag>,
}

impl LateRuntime {
    /// The lowest delay at which requests may be rejected.
    pub(crate) const LOWEST: Duration = Duration::from_nanos(1);

    pub(crate) fn new(workers: usize) -> LateRuntime {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        LateRuntime::with_watchdog(watchdog, "main", workers)
    }

    pub(crate) fn with_watchdog(watchdog: Watchdog, name: &str, workers: usize) -> LateRuntime {
        let tokio = watchdog.runtime(name).worker_threads(workers).enable_all().build().unwrap();
        tokio.spawn(watchdog.watch(async {
            loop {
                std::thread::sleep(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        }));
        let runtime = RuntimeLag::new(tokio.handle().id(), watchdog.lag(name).unwrap(), workers);
        LateRuntime { watchdog, tokio, runtime }
    }

    /// Returns settings by which no delay rejects a request at random: only permits are scarce.
    pub(crate) fn blocking_shed() -> Shed {
        Shed::new().high(Duration::from_secs(3_600)).log(false)
    }

    /// Makes a policy that no monitor changes.
    pub(crate) fn policy(&self, shed: &Shed) -> Policy {
        let control = AdmissionControl::new(shed.watermarks(), self.watchdog.lag_source(), false);
        control.set_runtimes(vec![self.runtime.clone()]);
        control.set_mode(Mode::Engaged);
        Policy::with_control(shed, Arc::new(control))
    }

    /// Sets the delay by which requests are rejected, when the watchdog has published a reading.
    /// Both expire after a second.
    pub(crate) fn set_level(&self, delay: Duration) {
        self.wait_reading();
        self.runtime.set_level(delay);
    }

    /// Waits until the watchdog has published a reading, and returns it.
    pub(crate) fn wait_reading(&self) -> LagReading {
        test_support::wait_for("the watchdog publishes the lag", || self.runtime.lag.read())
    }
}
