//! The runtimes of a watchdog, and what is measured of each as a whole.
//!
//! What tokio does: a [`Handle`] gives access to the metrics of a runtime. It keeps the scheduler's
//! shared state alive, and that state owns the hooks. When a runtime shuts down, it drops all its
//! tasks.
//!
//! What follows from it:
//!
//! - The hooks hold the [`Runtime`] entry, so an entry that held a handle for ever would be a cycle
//!   and leak. The entry holds tokio's handle only while the runtime lives ([`LiveHandle`]).
//! - The drop of a task of pollwatch's own, the [`probe`], reports the shutdown.
//! - A poll that blocks when the shutdown starts continues to block its worker. What shows that is
//!   kept until no poll of the runtime is running ([`ClosingRuntime`]).
//! - A new runtime may take the name of one that was shut down. A probe of the old runtime may be
//!   dropped later. The generation number of the entry distinguishes the two.
//!
//! What is stored: one [`Runtime`] for each name, for the life of the watchdog, in the list of
//! [`Runtimes`]. Its index in the list is its [`RuntimeId`]; index 0 is `other`, which counts for
//! all unknown runtimes. The meter ([`meter`]) owns the list.

pub(crate) mod blocking_pool;
pub(crate) mod build_facts;
pub(crate) mod callbacks;
pub(crate) mod current;
pub(crate) mod driven;
pub(crate) mod io_driver;
pub(crate) mod lag;
pub(crate) mod meter;
pub(crate) mod ownership;
pub(crate) mod probe;
pub(crate) mod runtimes;
pub(crate) mod stats;
pub(crate) mod worker_threads;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::{Handle, Id, RuntimeFlavor, RuntimeMetrics};

use crate::measure::primitives::histogram::Histogram;
#[cfg(tokio_unstable)]
use crate::measure::primitives::spawn_routes::SpawnRoutes;
#[cfg(tokio_unstable)]
use crate::measure::primitives::unpolled::LastPolls;
use crate::measure::runtime::build_facts::BuildFacts;
use crate::measure::runtime::driven::DrivenRuntime;
use crate::measure::runtime::io_driver::{DriverKnowledge, IoDriver};
use crate::measure::runtime::lag::LagCell;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::ownership::WorkerOwners;
use crate::measure::runtime::probe::Probe;
use crate::measure::runtime::stats::RuntimeStats;
use crate::measure::runtime::worker_threads::WorkerThreads;
#[cfg(tokio_unstable)]
use crate::measure::thread::RuntimeKey;
use crate::measure::thread::ThreadState;
use crate::measure::thread::slot::Frame;
use crate::model::id::{RuntimeId, WorkerIndex};
use crate::model::snapshot::TokioSnapshot;
use crate::model::time::Nanos;
use crate::util::lock;

/// One named runtime. The entry outlives tokio's runtime: another one of the same name continues
/// its counters.
pub(crate) struct Runtime {
    pub(crate) id: RuntimeId,
    pub(crate) name: Arc<str>,
    /// The id of its meter, by which a hook finds the handle of its thread.
    #[cfg(tokio_unstable)]
    pub(crate) meter_id: u64,
    /// The bits of its id in the key by which a thread finds the counters of a site.
    #[cfg(tokio_unstable)]
    pub(crate) runtime_key: RuntimeKey,
    pub(crate) meter: Weak<Meter>,
    /// A copy of the meter's; the maximum where delays are not tracked.
    #[cfg(all(tokio_unstable, feature = "delays"))]
    pub(crate) min_delay: Nanos,
    /// The routes under which tasks were spawned, of the whole meter.
    #[cfg(tokio_unstable)]
    pub(crate) spawn_routes: Arc<SpawnRoutes>,
    /// The last polls of tasks, where they are tracked; the same table in all runtimes of a
    /// watchdog.
    #[cfg(tokio_unstable)]
    pub(crate) last_polls: Option<Arc<LastPolls>>,
    pub(crate) probe: Probe,
    pub(crate) lag: LagCell,
    /// The delays from waking the probe to its poll.
    pub(crate) delay: Histogram,
    /// `true` if tokio's hooks report every task of this runtime.
    hooked: AtomicBool,
    multi_thread: AtomicBool,
    /// The number of tokio runtimes that have had this name.
    generation: AtomicU64,
    state: Mutex<RuntimeState>,
}

/// The part of a [`Runtime`] that changes when tokio's runtime starts and ends.
#[derive(Default)]
struct RuntimeState {
    /// `true` from the reservation of the name until the runtime is shut down.
    reserved: bool,
    live: Option<LiveHandle>,
    /// The runtime that shuts down, or has shut down, while a poll of it was running.
    closing: Option<ClosingRuntime>,
    /// The runtime that was live when the watchdog stopped. Its tasks are still counted under this
    /// name.
    stopped: Option<Id>,
    /// tokio's own metrics, summed over all runtimes of this name.
    totals: TokioSnapshot,
}

/// The part of a [`Runtime`] that holds tokio's handle.
///
/// It must be dropped when tokio's runtime shuts down: the handle owns the hooks, and the hooks own
/// the entry.
struct LiveHandle {
    id: Id,
    metrics: RuntimeMetrics,
    owners: WorkerOwners,
    stats: RuntimeStats,
    /// The runtime's threads, where they publish their parks.
    worker_threads: Option<Arc<WorkerThreads>>,
    /// The list of the pool's threads where they publish nothing.
    pool_threads: Option<Arc<WorkerThreads>>,
    /// A current-thread runtime as it is recognised on a thread's stack.
    driven: Option<DrivenRuntime>,
    /// The address of tokio's scheduler, which the threads of its pool have as a thread-local.
    scheduler: Option<u64>,
    io_driver: IoDriver,
    /// The result of the latest reading of the driver; `None` before the first one.
    driver_knowledge: Option<DriverKnowledge>,
    /// `true` if tokio is set to hand the driver on before it polls a task, `None` where it cannot.
    hands_driver_on: Option<bool>,
}

/// A tokio runtime that was polling when it started to shut down.
///
/// A shutdown waits for the polls that are running. One that blocks still blocks its worker, and
/// may be the reason why the process does not end. So its worker has to be known until it ends. No
/// scan may find a handle like this for long, because it keeps tokio's scheduler alive.
struct ClosingRuntime {
    id: Id,
    metrics: RuntimeMetrics,
    owners: WorkerOwners,
    /// The moment of the first of the latest scans that have found no poll of the runtime.
    idle_since: Option<Nanos>,
}

impl Runtime {
    fn new(id: RuntimeId, name: &str, meter: &Arc<Meter>) -> Arc<Runtime> {
        Arc::new(Runtime {
            id,
            name: name.into(),
            #[cfg(tokio_unstable)]
            meter_id: meter.id,
            #[cfg(tokio_unstable)]
            runtime_key: RuntimeKey::of(id),
            meter: Arc::downgrade(meter),
            #[cfg(all(tokio_unstable, feature = "delays"))]
            min_delay: meter.min_delay.unwrap_or(Nanos::MAX),
            #[cfg(tokio_unstable)]
            spawn_routes: meter.spawn_routes.clone(),
            #[cfg(tokio_unstable)]
            last_polls: meter.last_polls.clone(),
            probe: Probe::new(),
            lag: LagCell::new(),
            delay: Histogram::new(),
            hooked: AtomicBool::new(false),
            multi_thread: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// Connects the entry with a tokio runtime until the tasks of that runtime are dropped.
    pub(crate) fn go_live(self: &Arc<Self>, handle: &Handle, facts: BuildFacts) {
        let BuildFacts { hooked, worker_threads, pool_threads, io_driver, hands_driver_on } = facts;
        self.hooked.store(hooked, Ordering::Relaxed);
        self.multi_thread.store(handle.runtime_flavor() == RuntimeFlavor::MultiThread, Ordering::Relaxed);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        // The one worker of a current-thread runtime is the thread that calls `block_on`, and no
        // callback reports when that returns.
        let worker_threads = worker_threads.filter(|_| self.is_multi_thread());
        let (metrics, stats) = (handle.metrics(), RuntimeStats::new(handle));
        let owners = WorkerOwners::of(metrics.num_workers());
        let driven = (!self.is_multi_thread()).then(|| DrivenRuntime::new(handle)).flatten();
        let (id, scheduler) = (handle.id(), driven::scheduler_address(handle));
        let live = LiveHandle {
            id,
            metrics,
            owners,
            stats,
            worker_threads,
            pool_threads,
            driven,
            scheduler,
            io_driver,
            driver_knowledge: None,
            hands_driver_on,
        };
        let closing = {
            let mut state = lock(&self.state);
            state.live = Some(live);
            state.closing.take()
        };
        drop(closing);
        current::invalidate();
        crate::measure::runtime::probe::spawn(handle, self, generation);
    }

    /// Handles the drop of a probe, which belonged to the tokio runtime of this generation: that
    /// runtime drops its tasks, because it shuts down.
    pub(super) fn on_probe_dropped(&self, generation: u64) {
        if self.generation.load(Ordering::Relaxed) == generation {
            let meter = self.meter.upgrade();
            self.release_unless(|| {
                meter.is_some_and(|meter| {
                    !meter.is_forked() && meter.runtimes.are_scanned() && meter.is_polling(self.id)
                })
            });
        }
    }

    /// Drops tokio's handle, and makes the name free for another runtime.
    pub(crate) fn release(&self) {
        self.release_unless(|| false);
    }

    /// Does what [`release`](Self::release) does, but keeps what [`worker_of`](Self::worker_of)
    /// needs if the runtime `is_polling`. That is called while the state is locked.
    fn release_unless(&self, is_polling: impl FnOnce() -> bool) {
        let released = {
            let mut state = lock(&self.state);
            state.reserved = false;
            let mut live = state.live.take();
            let mut closing = None;
            if let Some(live) = &mut live {
                live.stats.update(&mut state.totals);
                if is_polling() {
                    let (metrics, owners) = (live.metrics.clone(), live.owners.clone());
                    closing = Some(ClosingRuntime { id: live.id, metrics, owners, idle_since: None });
                }
            }
            (live, std::mem::replace(&mut state.closing, closing))
        };
        // Without the lock: this may drop the last reference to the scheduler, and with it the
        // user's hooks.
        drop(released);
    }

    /// Drops what is left of a runtime that shuts down once no scan has found a poll of it for
    /// `idle`; the watchdog thread, after each scan. Its workers may continue with further polls
    /// between two scans. Returns whether anything is left.
    pub(crate) fn release_if_idle(&self, is_polling: bool, now: Nanos, idle: Nanos) -> bool {
        let mut state = lock(&self.state);
        let Some(closing) = &mut state.closing else { return false };
        let since = *closing.idle_since.get_or_insert(now);
        if is_polling {
            closing.idle_since = None;
        }
        if is_polling || now.saturating_sub(since) < idle {
            return true;
        }
        let closing = state.closing.take();
        drop(state);
        drop(closing);
        false
    }

    /// Drops what is left of a runtime that shuts down.
    pub(super) fn release_closing(&self) {
        let closing = lock(&self.state).closing.take();
        drop(closing);
    }

    /// Drops tokio's handle because the watchdog stops. tokio's runtime may continue. Where workers
    /// share a driver, one is woken for the end of the probe only if that is allowed.
    fn stop(&self, may_wake_worker: bool) {
        let mut state = lock(&self.state);
        state.stopped = state.live.as_ref().map(|live| live.id).or(state.stopped);
        drop(state);
        self.probe.stop(may_wake_worker || !self.is_multi_thread());
        self.release();
    }

    /// Returns whether tokio's runtime with this id is counted under this name.
    fn is(&self, id: Id) -> bool {
        let state = lock(&self.state);
        let closing = || state.closing.as_ref().map(|closing| closing.id);
        state.live.as_ref().map(|live| live.id).or_else(closing).or(state.stopped) == Some(id)
    }

    /// Returns whether tokio's hooks report every task of this runtime.
    pub(crate) fn is_hooked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    pub(crate) fn is_multi_thread(&self) -> bool {
        self.multi_thread.load(Ordering::Relaxed)
    }

    /// Returns whether tokio's runtime is running and watched.
    pub(crate) fn is_live(&self) -> bool {
        lock(&self.state).live.is_some()
    }

    /// Returns the worker of this runtime that a thread's poll blocks; see [`ownership`].
    pub(crate) fn worker_of(&self, thread: &ThreadState, frame: &Frame) -> Option<WorkerIndex> {
        let (metrics, owners) = self.worker_readings()?;
        ownership::worker_of(&metrics, &owners, thread, frame)
    }

    /// Returns what shows the owners of the runtime's workers, until its last poll has ended.
    pub(super) fn worker_readings(&self) -> Option<(RuntimeMetrics, WorkerOwners)> {
        let state = lock(&self.state);
        let of_live = state.live.as_ref().map(|live| (&live.metrics, &live.owners));
        let closing = || state.closing.as_ref().map(|closing| (&closing.metrics, &closing.owners));
        of_live.or_else(closing).map(|(metrics, owners)| (metrics.clone(), owners.clone()))
    }

    /// Returns tokio's metrics, while the runtime is live.
    pub(crate) fn metrics(&self) -> Option<RuntimeMetrics> {
        lock(&self.state).live.as_ref().map(|live| live.metrics.clone())
    }

    /// Returns tokio's id of the runtime, while it is live.
    pub(crate) fn tokio_id(&self) -> Option<Id> {
        lock(&self.state).live.as_ref().map(|live| live.id)
    }

    /// Returns the runtime's threads, while it is live and where they publish their parks.
    pub(crate) fn worker_threads(&self) -> Option<Arc<WorkerThreads>> {
        lock(&self.state).live.as_ref()?.worker_threads.clone()
    }

    /// Returns the threads of the runtime's pool, while it is live and where they are listed.
    pub(crate) fn pool_threads(&self) -> Option<Arc<WorkerThreads>> {
        let state = lock(&self.state);
        let live = state.live.as_ref()?;
        live.worker_threads.clone().or_else(|| live.pool_threads.clone())
    }

    /// Returns the current-thread runtime as it is recognised on a thread's stack, while it is
    /// live.
    pub(crate) fn driven(&self) -> Option<DrivenRuntime> {
        lock(&self.state).live.as_ref()?.driven.clone()
    }

    /// Returns the address of tokio's scheduler, while the runtime is live.
    pub(crate) fn scheduler(&self) -> Option<u64> {
        lock(&self.state).live.as_ref()?.scheduler
    }

    /// Returns tokio's own metrics, summed over all runtimes that have had this name.
    pub(crate) fn stats(&self) -> TokioSnapshot {
        let state = &mut *lock(&self.state);
        match &mut state.live {
            Some(live) => live.stats.update(&mut state.totals),
            None => stats::clear_gauges(&mut state.totals),
        }
        state.totals.clone()
    }
}
