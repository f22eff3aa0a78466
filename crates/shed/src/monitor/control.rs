//! The monitor of one control: the runtimes of its watchdog, and what requests have to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Id;

use super::runtime::RuntimeMonitor;
use crate::admission::{AdmissionControl, Mode, RuntimeLag};

/// The time of calm after which a control is not monitored until the next request.
const IDLE: Duration = Duration::from_secs(1);
/// The interval at which new runtimes are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct ControlMonitor {
    pub(super) control: Arc<AdmissionControl>,
    start: Instant,
    runtimes: Vec<RuntimeMonitor>,
    looked_up: Option<Instant>,
    /// The latest moment at which a runtime was late, or the first step after a request has woken
    /// the monitor. `None` while the control is asleep.
    active: Option<Instant>,
}

impl ControlMonitor {
    pub(super) fn new(control: Arc<AdmissionControl>) -> ControlMonitor {
        ControlMonitor { control, start: Instant::now(), runtimes: Vec::new(), looked_up: None, active: None }
    }

    /// Returns whether this is the monitor of that control.
    pub(super) fn is_of(&self, control: &Arc<AdmissionControl>) -> bool {
        Arc::ptr_eq(&self.control, control)
    }

    /// Returns whether there is nothing to do until the next request.
    pub(super) fn is_asleep(&self) -> bool {
        self.control.mode() == Mode::Asleep
    }

    /// Reads the lags, unless the control is asleep, and decides which runtimes are overloaded.
    pub(super) fn step(&mut self, now: Instant) {
        if self.is_asleep() {
            return;
        }
        let active = *self.active.get_or_insert(now);
        if self.looked_up.is_none_or(|at| now.duration_since(at) >= LOOKUP_INTERVAL) {
            self.looked_up = Some(now);
            self.look_up_runtimes();
        }
        let since_start = now.duration_since(self.start);
        self.runtimes.iter_mut().for_each(|runtime| runtime.step(since_start));
        let is_calm = self.runtimes.iter().all(RuntimeMonitor::is_calm);
        if is_calm && now.duration_since(active) >= IDLE {
            (self.active, self.looked_up) = (None, None);
            self.control.set_mode(Mode::Asleep);
            return;
        }
        self.active = Some(if is_calm { active } else { now });
        self.control.set_mode(if is_calm { Mode::Calm } else { Mode::Engaged });
    }

    /// Admits all requests: no layer is left.
    pub(super) fn stop(mut self) {
        self.runtimes.iter_mut().for_each(RuntimeMonitor::stop);
    }

    /// Takes in new runtimes, and stops the monitors of those that are gone.
    fn look_up_runtimes(&mut self) {
        let lags: Vec<_> =
            self.control.source.all().into_iter().filter_map(|lag| Some((lag.runtime_id()?, lag))).collect();
        let is_alive = |id: Id| lags.iter().any(|(alive, _)| *alive == id);
        let before = self.runtimes.len();
        self.runtimes.retain_mut(|known| {
            let keep = is_alive(known.runtime.id);
            if !keep {
                known.stop();
            }
            keep
        });
        let mut is_changed = self.runtimes.len() != before;
        for (id, lag) in lags {
            if self.runtimes.iter().all(|known| known.runtime.id != id) {
                let workers = lag.workers().unwrap_or(1);
                let runtime = RuntimeLag::new(id, lag, workers);
                self.runtimes.push(RuntimeMonitor::new(&self.control, runtime));
                is_changed = true;
            }
        }
        if is_changed {
            self.control.set_runtimes(self.runtimes.iter().map(|known| known.runtime.clone()).collect());
        }
    }
}
