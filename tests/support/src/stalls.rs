//! Watchdogs whose stalls a test collects.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pollwatch::{Cause, Phase, Stall, Watchdog, WatchdogBuilder};

use crate::{TIMEOUT, current_thread, lock};

/// The prefix of the names of the runtimes that [`reported_so_far`] makes.
pub const FENCE: &str = "fence ";

/// All reports that `on_stall` was called with, in order.
#[derive(Clone, Default)]
pub struct CollectedStalls(Arc<(Mutex<Vec<Stall>>, Condvar)>);

impl CollectedStalls {
    /// Adds a report.
    pub fn push(&self, stall: &Stall) {
        lock(&self.0.0).push(stall.clone());
        self.0.1.notify_all();
    }

    /// A callback for `on_stall` that adds each report.
    pub fn callback(&self) -> impl Fn(&Stall) + Send + Sync + 'static {
        let stalls = self.clone();
        move |stall| stalls.push(stall)
    }

    /// The reports so far.
    pub fn all(&self) -> Vec<Stall> {
        lock(&self.0.0).clone()
    }

    /// The reports so far of one runtime.
    pub fn of(&self, runtime: &str) -> Vec<Stall> {
        self.all().into_iter().filter(|s| &*s.runtime == runtime).collect()
    }

    /// Blocks until a report satisfies `condition`. Returns `None` after [`TIMEOUT`].
    pub fn wait(&self, condition: impl Fn(&Stall) -> bool) -> Option<Stall> {
        let find = |all: &Vec<Stall>| all.iter().find(|s| condition(s)).cloned();
        let all = lock(&self.0.0);
        let (all, _) = self
            .0
            .1
            .wait_timeout_while(all, TIMEOUT, |all| find(all).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        find(&all)
    }

    /// Blocks until a stall of `runtime` is reported as ongoing. Returns `None` after [`TIMEOUT`].
    pub fn wait_ongoing(&self, runtime: &str) -> Option<Stall> {
        self.wait(|s| &*s.runtime == runtime && s.phase == Phase::Ongoing)
    }

    /// Blocks until a stall of `runtime` is reported as resolved, and panics after [`TIMEOUT`].
    #[track_caller]
    pub fn wait_resolved(&self, runtime: &str) -> Stall {
        let stall = self.wait(|s| &*s.runtime == runtime && s.phase == Phase::Resolved);
        stall.expect("a stall is reported as resolved")
    }
}

/// Starts a watchdog that does not log, and collects its stalls.
pub fn start(threshold: Duration) -> (Watchdog, CollectedStalls) {
    start_with(Watchdog::builder().threshold(threshold).log(false))
}

/// Starts a watchdog and collects its stalls.
pub fn start_with(builder: WatchdogBuilder) -> (Watchdog, CollectedStalls) {
    let stalls = CollectedStalls::default();
    (builder.on_stall(stalls.callback()).start().expect("a watchdog starts"), stalls)
}

/// Waits until everything that happened before this call has been reported, and returns the
/// reports.
///
/// A stall of a runtime made for this purpose serves as the fence. It is found while it blocks, so
/// the watchdog has scanned what ended before it; its own end is reported after that.
#[track_caller]
pub fn reported_so_far(watchdog: &Watchdog, stalls: &CollectedStalls) -> Vec<Stall> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{FENCE}{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let runtime = watchdog.build_runtime(&name, current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { stalls.wait_ongoing(&name).expect("the fence is reported") }));
    stalls.wait_resolved(&name);
    stalls.all().into_iter().filter(|s| !s.runtime.starts_with(FENCE)).collect()
}

/// `Err` for a stall that the machine caused: its thread was given no CPU, or the process was
/// stopped.
pub fn is_undisturbed(stall: &Stall) -> Result<(), String> {
    if matches!(stall.cause, Cause::Starved | Cause::Paused) { Err(stall.to_string()) } else { Ok(()) }
}

/// Asserts that `holds`, unless the watchdog overslept: it may then have taken off a pause. That is
/// `Err`.
#[track_caller]
pub fn holds_unless_overslept(watchdog: &Watchdog, holds: bool, what: impl Debug) -> Result<(), String> {
    let oversleeps = watchdog.snapshot().watchdog.oversleeps;
    assert!(holds || oversleeps > 0, "{what:?}");
    if holds { Ok(()) } else { Err(format!("the watchdog overslept {oversleeps} times: {what:?}")) }
}
