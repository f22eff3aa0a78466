//! The state that the handle, the engine and the pages of one attach share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pollwatch_stack::{ReadLosses, StopError};

use super::dump::OtherDumper;
use super::outcome::{Ended, Stops};
use super::runtimes::FoundRuntimes;
use super::settings::AttachSettings;
use crate::export::user_collectors::UserCollectors;
use crate::model::labels::CaptureOutcome;
use crate::model::time::Nanos;
use crate::report::conditions::ConditionStore;
use crate::report::counters::ReportCounters;
use crate::report::incidents::Incidents;
use crate::report::profile::ProfileStore;
use crate::report::store::StallStore;
use crate::util::lock;

/// The time after which a condition makes the process unhealthy.
pub(super) const UNHEALTHY_AFTER: Duration = Duration::from_secs(5);

/// The state of one attach.
pub(super) struct AttachState {
    pub(super) settings: AttachSettings,
    pub(super) started: Instant,
    pub(super) stalls: Arc<Mutex<StallStore>>,
    pub(super) conditions: Arc<Mutex<ConditionStore>>,
    pub(super) profile: Arc<Mutex<ProfileStore>>,
    pub(super) report_counters: Arc<ReportCounters>,
    pub(super) incidents: Arc<Incidents>,
    pub(super) collectors: UserCollectors,
    pub(super) runtimes: Mutex<FoundRuntimes>,
    pub(super) counters: EngineCounters,
    pub(super) lifetime: Lifetime,
    pub(super) dumper: OtherDumper,
}

impl AttachState {
    pub(super) fn new(settings: AttachSettings) -> AttachState {
        AttachState {
            settings,
            started: Instant::now(),
            stalls: Arc::default(),
            conditions: Arc::default(),
            profile: Arc::default(),
            report_counters: Arc::default(),
            incidents: Arc::new(Incidents::new(UNHEALTHY_AFTER, Vec::new())),
            collectors: UserCollectors::default(),
            runtimes: Mutex::default(),
            counters: EngineCounters::default(),
            lifetime: Lifetime::default(),
            dumper: OtherDumper::default(),
        }
    }

    /// Returns the current moment: the time since the start.
    pub(super) fn now(&self) -> Nanos {
        self.started.elapsed().into()
    }
}

/// The figures of the engine, readable from any thread.
#[derive(Debug, Default)]
pub(super) struct EngineCounters {
    pub(super) scans: AtomicU64,
    /// The scans that came a threshold or more after the one before.
    pub(super) late_scans: AtomicU64,
    /// The scans that took no samples, for want of CPU time.
    pub(super) light_scans: AtomicU64,
    pub(super) threads: AtomicU64,
    /// The threads of runtimes that were not scanned, because there were too many.
    pub(super) unscanned: AtomicU64,
    /// The threads of which no stack was read so far, and those that are not scanned.
    pub(super) unread: AtomicU64,
    /// True once tokio's functions were found in the process.
    pub(super) has_symbols: AtomicBool,
    /// True if the program has neither a loop of a current-thread runtime as a function of its own,
    /// nor the debug information that shows inlined ones.
    pub(super) may_miss_loops: AtomicBool,
    captures: [AtomicU64; CaptureOutcome::ALL.len()],
    pub(super) stops: Mutex<Stops>,
    /// The reason why threads that run could not be stopped.
    pub(super) stop_problem: Mutex<Option<StopError>>,
    pub(super) losses: Mutex<ReadLosses>,
}

impl EngineCounters {
    pub(super) fn count_capture(&self, outcome: CaptureOutcome) {
        self.captures[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of captures that ended like this.
    pub(super) fn captures(&self, outcome: CaptureOutcome) -> u64 {
        self.captures[outcome as usize].load(Ordering::Relaxed)
    }
}

/// The reason of the end when the engine panics.
pub(super) const PANICKED: &str = "an error in pollwatch itself has ended its scans";

/// Ends the watch with an error when it is dropped, unless the watch has ended before.
pub(super) struct EndOnPanic(pub(super) Arc<AttachState>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        self.0.lifetime.end(Ended::Lost(PANICKED.into()));
    }
}

/// Whether the process is still watched.
#[derive(Debug, Default)]
pub(super) struct Lifetime {
    state: Mutex<LifetimeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LifetimeState {
    is_stopping: bool,
    ended: Option<Ended>,
}

impl Lifetime {
    /// Lets the engine end.
    pub(super) fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.changed.notify_all();
    }

    /// Records that the process is no longer watched, and why. The first reason counts.
    pub(super) fn end(&self, ended: Ended) {
        lock(&self.state).ended.get_or_insert(ended);
        self.changed.notify_all();
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        lock(&self.state).ended.clone()
    }

    /// Sleeps for this time. Returns `false` when the engine has to end.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let stays = |state: &mut LifetimeState| !state.is_stopping;
        let slept = self.changed.wait_timeout_while(lock(&self.state), time, stays);
        !slept.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// Waits until the process is no longer watched, at most this long.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<Ended> {
        let stays = |state: &mut LifetimeState| state.ended.is_none();
        let state = lock(&self.state);
        let state = match limit {
            Some(limit) => {
                self.changed.wait_timeout_while(state, limit, stays).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, stays).unwrap_or_else(PoisonError::into_inner),
        };
        state.ended.clone()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn state() -> Arc<AttachState> {
        let threshold = Duration::from_millis(10);
        Arc::new(AttachState::new(AttachSettings { pid: 1, threshold, stop: true, all_threads: false, log: None }))
    }

    #[test]
    fn a_panic_of_the_engine_ends_the_watch() {
        let state = state();
        let guard = EndOnPanic(state.clone());
        let engine = std::thread::spawn(move || {
            let _guard = guard;
            panic!("the engine panics in this test");
        });
        let ended = state.lifetime.wait(Some(Duration::from_secs(60)));
        assert!(matches!(ended, Some(Ended::Lost(_))), "{ended:?}");
        assert!(engine.join().is_err());
    }

    #[test]
    fn the_reason_of_an_orderly_end_stays() {
        let state = state();
        let guard = EndOnPanic(state.clone());
        state.lifetime.end(Ended::Exited);
        drop(guard);
        assert_eq!(state.lifetime.ended(), Some(Ended::Exited));
    }
}
