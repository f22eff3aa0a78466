//! Runtimes, tasks on them, and what the snapshot says of both.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pollwatch::snapshot::{RuntimeSnapshot, SiteSnapshot, Snapshot};
use pollwatch::{Watchdog, Watched};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

/// The presence of tokio's task hooks in this build.
pub const HOOKS: bool = cfg!(tokio_unstable);

/// Counters of a user's four task hooks.
pub type HookCounters = [Arc<AtomicU64>; 4];

/// A callback that increments a counter.
pub fn increment(counter: &Arc<AtomicU64>) -> impl Fn() + Send + Sync + 'static {
    let counter = counter.clone();
    move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A builder of a current-thread runtime.
pub fn current_thread() -> Builder {
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    builder
}

/// A builder of a multi-thread runtime.
pub fn multi_thread(workers: usize) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all();
    builder
}

/// One builder of each flavour, with a name for its runtime.
pub fn flavours() -> [(&'static str, Builder); 2] {
    FLAVOURS.map(|(name, new_builder)| (name, new_builder()))
}

/// A flavour, and what makes a builder of it.
pub type Flavour = (&'static str, fn() -> Builder);

/// What makes a builder of each flavour, for tests that build several runtimes of one flavour.
pub const FLAVOURS: [Flavour; 2] = [("current", current_thread), ("multi", || multi_thread(2))];

/// Spawns as `tokio::spawn` does, and returns the location of the caller, which the hooks see.
#[track_caller]
pub fn spawn_on<F>(handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    (handle.spawn(future), Location::caller().to_string())
}

/// Spawns a task that is measured in both modes: by the hooks, or else by `Watchdog::spawn`.
#[track_caller]
pub fn spawn_measured<F>(watchdog: &Watchdog, handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let site = Location::caller().to_string();
    if HOOKS {
        return (handle.spawn(future), site);
    }
    let _guard = handle.enter();
    (watchdog.spawn(future), site)
}

/// Watches a future, and returns the location of the caller.
#[track_caller]
pub fn watch_at<F: Future>(watchdog: &Watchdog, future: F) -> (Watched<F>, String) {
    (watchdog.watch(future), Location::caller().to_string())
}

/// The snapshot of the runtime `name`.
#[track_caller]
pub fn runtime_of(snapshot: &Snapshot, name: &str) -> RuntimeSnapshot {
    let runtime = snapshot.runtimes.iter().find(|r| &*r.name == name);
    runtime.cloned().unwrap_or_else(|| panic!("no runtime {name:?} in {:#?}", snapshot.runtimes))
}

/// The polls of a runtime that have been counted so far.
#[track_caller]
pub fn polls(watchdog: &Watchdog, runtime: &str) -> u64 {
    runtime_of(&watchdog.snapshot(), runtime).polls.count
}

/// The snapshot of a site, if it has one.
pub fn find_site(snapshot: &Snapshot, runtime: &str, site: &str) -> Option<SiteSnapshot> {
    snapshot.sites.iter().find(|s| &*s.runtime == runtime && s.site.to_string() == site).cloned()
}

/// The snapshot of a site, which must have one.
#[track_caller]
pub fn site_of(watchdog: &Watchdog, runtime: &str, site: &str) -> SiteSnapshot {
    let snapshot = watchdog.snapshot();
    find_site(&snapshot, runtime, site).unwrap_or_else(|| panic!("no site {site}: {:#?}", snapshot.sites))
}
