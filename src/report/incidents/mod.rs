//! Incidents: conditions of a whole runtime that last too long, and the actions that the user has
//! set for them.
//!
//! The [monitor](monitor) runs on a thread of its own, `pollwatch-act`. It asks the
//! [source](source) which conditions hold, and the [tracker] decides which of them are incidents
//! and which [actions](action) are due. It sleeps until the watchdog thread emits an event, and is
//! awake while a stall or a condition lasts.
//!
//! Neither the watchdog thread nor the log is needed while an incident lasts. Each sort of action
//! has a thread of its own, and whoever waits for one does so for a limited time.

pub(crate) mod action;
mod confirmation;
pub(crate) mod counters;
mod files;
mod monitor;
mod runner;
pub(crate) mod source;
mod systemd;
pub(crate) mod tracker;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use action::IncidentRule;
use counters::ActionCounters;
use monitor::Monitor;
use source::IncidentSource;
use systemd::SystemdNotifier;
use tracker::IncidentTracker;

use super::queues::ReportQueues;
use super::stage_thread::StageThread;
use crate::model::event::Notice;
use crate::model::labels::ActionName;
use crate::util::lock;

/// The incidents of one watchdog, readable from any thread.
pub(crate) struct Incidents {
    pub(crate) tracker: Mutex<IncidentTracker>,
    pub(crate) counters: ActionCounters,
    /// The actions that are set, each once.
    pub(crate) actions: Vec<ActionName>,
    /// The shortest time after which anything is due.
    shortest: Duration,
    rules: Arc<Vec<IncidentRule>>,
    signal: MonitorSignal,
    /// Ends the thread that notifies systemd.
    systemd_signal: MonitorSignal,
}

impl Incidents {
    /// Returns the incidents of a watchdog without any so far. A condition is an incident after
    /// `limit` at the latest.
    pub(crate) fn new(limit: Duration, rules: Vec<IncidentRule>) -> Incidents {
        let afters: Vec<_> = rules.iter().map(|rule| rule.after).collect();
        let mut actions: Vec<_> = rules.iter().map(IncidentRule::name).collect();
        actions.sort_unstable();
        actions.dedup();
        Incidents {
            shortest: afters.iter().copied().fold(limit, Duration::min),
            tracker: Mutex::new(IncidentTracker::new(limit, afters)),
            counters: ActionCounters::default(),
            actions,
            rules: Arc::new(rules),
            signal: MonitorSignal::default(),
            systemd_signal: MonitorSignal::default(),
        }
    }

    /// Wakes the monitor, if it sleeps until something happens.
    pub(crate) fn wake(&self) {
        self.signal.wake();
    }

    /// Ends the monitor and the thread that notifies systemd.
    pub(crate) fn stop(&self) {
        self.signal.stop();
        self.systemd_signal.stop();
    }
}

/// Returns the threads of the incidents, to be started by the caller. The first is the monitor; the
/// others end after it.
pub(super) fn threads(
    incidents: &Arc<Incidents>,
    source: Arc<dyn IncidentSource>,
    queues: Arc<ReportQueues>,
) -> Vec<StageThread> {
    let (monitor, mut threads) = Monitor::new(incidents.clone(), source, queues);
    threads.insert(0, StageThread { name: "pollwatch-act", run: Box::new(move || monitor.run()) });
    threads
}

/// Returns the thread that notifies systemd, to be started by the caller. Where there is nothing to
/// notify, that is logged.
pub(super) fn systemd_thread(
    incidents: &Arc<Incidents>,
    source: Arc<dyn IncidentSource>,
    queues: Arc<ReportQueues>,
) -> Option<StageThread> {
    let incidents = incidents.clone();
    match SystemdNotifier::for_this_process() {
        Ok(notifier) => {
            let run = Box::new(move || notifier.run(&incidents, &source, &queues));
            Some(StageThread { name: "pollwatch-sd", run })
        }
        Err(why) => {
            queues.push_notice(Notice::Degraded(format!("systemd's watchdog is not notified: {why}")));
            None
        }
    }
}

/// Wakes the incidents' monitor when it is dropped: nothing will wake it after that.
pub(crate) struct WakeOnDrop(pub(crate) Arc<Incidents>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Wakes the monitor.
#[derive(Debug, Default)]
struct MonitorSignal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    /// True if something has happened since the sleep was announced.
    is_woken: bool,
    /// True while the thread sleeps until it is woken. A sleep with a time limit is not cut short.
    is_asleep: bool,
    is_stopping: bool,
}

impl MonitorSignal {
    fn wake(&self) {
        let mut state = lock(&self.state);
        state.is_woken = true;
        if state.is_asleep {
            self.changed.notify_one();
        }
    }

    fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.changed.notify_one();
    }

    fn is_stopping(&self) -> bool {
        lock(&self.state).is_stopping
    }

    /// Calls a function unless the thread has to stop. [`stop`](Self::stop) waits for its end: what
    /// has returned from `stop` sees no effect of it.
    fn unless_stopping(&self, run: impl FnOnce()) {
        let state = lock(&self.state);
        if !state.is_stopping {
            run();
        }
    }

    /// Announces that the thread will sleep, before it checks whether it may: what happens after
    /// the check then wakes it.
    fn announce_sleep(&self) {
        lock(&self.state).is_woken = false;
    }

    /// Sleeps for this long, or without a time limit until the next [`wake`](Self::wake) after
    /// [`announce_sleep`](Self::announce_sleep). Returns `false` when the thread has to stop.
    fn sleep(&self, limit: Option<Duration>) -> bool {
        let mut state = lock(&self.state);
        if let Some(limit) = limit {
            let stays = |state: &mut SignalState| !state.is_stopping;
            let slept = self.changed.wait_timeout_while(state, limit, stays);
            return !slept.unwrap_or_else(PoisonError::into_inner).0.is_stopping;
        }
        state.is_asleep = true;
        let stays = |state: &mut SignalState| !state.is_stopping && !state.is_woken;
        state = self.changed.wait_while(state, stays).unwrap_or_else(PoisonError::into_inner);
        state.is_asleep = false;
        !state.is_stopping
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
