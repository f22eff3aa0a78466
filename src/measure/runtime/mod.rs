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
//! - A new runtime may take the name of one that was shut down. A probe of the old runtime may be
//!   dropped later. The generation number of the entry distinguishes the two.
//!
//! What is stored: one [`Runtime`] for each name, for the life of the watchdog, in the list of
//! [`Runtimes`]. Its index in the list is its [`RuntimeId`]; index 0 is `other`, which counts for
//! all unknown runtimes. The meter ([`meter`]) owns the list.

pub(crate) mod callbacks;
pub(crate) mod lag;
pub(crate) mod meter;
pub(crate) mod ownership;
pub(crate) mod probe;
pub(crate) mod stats;
pub(crate) mod worker_threads;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::runtime::{Handle, Id, RuntimeFlavor, RuntimeMetrics};

use crate::error::Error;
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::primitives::histogram::Histogram;
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
    /// `hooked` says that pollwatch's hooks are installed there.
    pub(crate) fn go_live(self: &Arc<Self>, handle: &Handle, hooked: bool, worker_threads: Option<Arc<WorkerThreads>>) {
        self.hooked.store(hooked, Ordering::Relaxed);
        self.multi_thread.store(handle.runtime_flavor() == RuntimeFlavor::MultiThread, Ordering::Relaxed);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        // The one worker of a current-thread runtime is the thread that calls `block_on`, and no
        // callback reports when that returns.
        let worker_threads = worker_threads.filter(|_| self.is_multi_thread());
        let (metrics, stats) = (handle.metrics(), RuntimeStats::new(handle));
        let owners = WorkerOwners::of(metrics.num_workers());
        lock(&self.state).live = Some(LiveHandle { id: handle.id(), metrics, owners, stats, worker_threads });
        crate::measure::runtime::probe::spawn(handle, self, generation);
    }

    /// Handles the drop of a probe, which belonged to the tokio runtime of this generation: that
    /// runtime drops its tasks, because it shuts down.
    pub(super) fn on_probe_dropped(&self, generation: u64) {
        if self.generation.load(Ordering::Relaxed) == generation {
            self.release();
        }
    }

    /// Drops tokio's handle, and makes the name free for another runtime.
    pub(crate) fn release(&self) {
        let live = {
            let mut state = lock(&self.state);
            state.reserved = false;
            let mut live = state.live.take();
            if let Some(live) = &mut live {
                live.stats.update(&mut state.totals);
            }
            live
        };
        // Without the lock: this may drop the last reference to the scheduler, and with it the
        // user's hooks.
        drop(live);
    }

    /// Drops tokio's handle because the watchdog stops. tokio's runtime may continue.
    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = state.live.as_ref().map(|live| live.id).or(state.stopped);
        drop(state);
        self.probe.stop();
        self.release();
    }

    /// Returns whether tokio's runtime with this id is counted under this name.
    fn is(&self, id: Id) -> bool {
        let state = lock(&self.state);
        state.live.as_ref().map(|live| live.id).or(state.stopped) == Some(id)
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
        let state = lock(&self.state);
        let LiveHandle { metrics, owners, .. } = state.live.as_ref()?;
        let (metrics, owners) = (metrics.clone(), owners.clone());
        drop(state);
        ownership::worker_of(&metrics, &owners, thread, frame)
    }

    /// Returns the owners of the runtime's workers, while it is live.
    #[cfg(not(tokio_unstable))]
    pub(crate) fn owners(&self) -> Option<WorkerOwners> {
        lock(&self.state).live.as_ref().map(|live| live.owners.clone())
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

/// All runtimes of one watchdog, by id.
#[derive(Default)]
pub(crate) struct Runtimes {
    list: Mutex<Vec<Arc<Runtime>>>,
    /// Held while a runtime that exists already is looked up and attached.
    attach: Mutex<()>,
    /// `true` once the watchdog has stopped. No runtime is attached from then on.
    stopped: AtomicBool,
    /// The number of runtimes that were built when all names were taken.
    unnamed: AtomicU64,
}

impl Runtimes {
    /// Reserves a name for a runtime that is about to be built or attached. Returns `None` when all
    /// names are taken.
    pub(crate) fn reserve(&self, name: &str, meter: &Arc<Meter>) -> Result<Option<Arc<Runtime>>, Error> {
        if name.trim().is_empty() {
            return Err(Error::invalid("a runtime's name must not be empty: it is the `runtime` label of its metrics"));
        }
        let mut list = self.list_with_other(meter);
        let known = list.iter().find(|r| &*r.name == name).cloned();
        let runtime = match known {
            Some(runtime) => runtime,
            None if list.len() >= MAX_RUNTIMES => return Ok(None),
            None => {
                let runtime = Runtime::new(RuntimeId(list.len() as u8), name, meter);
                list.push(runtime.clone());
                runtime
            }
        };
        let mut state = lock(&runtime.state);
        if runtime.id == RuntimeId::OTHER || state.reserved {
            return Err(Error::invalid(format!(
                "a runtime named {name:?} is watched already, and two would share one `runtime` label. Give this runtime \
                 another name, or shut the first one down before"
            )));
        }
        state.reserved = true;
        drop(state);
        Ok(Some(runtime))
    }

    /// Counts a runtime that was built when all names were taken. Returns whether it is the first.
    pub(crate) fn count_unnamed(&self) -> bool {
        self.unnamed.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Returns the number of runtimes that were built when all names were taken.
    pub(crate) fn unnamed(&self) -> u64 {
        self.unnamed.load(Ordering::Relaxed)
    }

    /// Locks the list, which has at least the runtime `other`.
    fn list_with_other(&self, meter: &Arc<Meter>) -> MutexGuard<'_, Vec<Arc<Runtime>>> {
        let mut list = lock(&self.list);
        if list.is_empty() {
            list.push(Runtime::new(RuntimeId::OTHER, "other", meter));
        }
        list
    }

    /// Returns the runtime `other`, which counts for all unknown runtimes.
    pub(crate) fn other(&self, meter: &Arc<Meter>) -> Arc<Runtime> {
        self.list_with_other(meter)[RuntimeId::OTHER.index()].clone()
    }

    pub(crate) fn get(&self, id: RuntimeId) -> Option<Arc<Runtime>> {
        lock(&self.list).get(id.index()).cloned()
    }

    /// Locks the attaching of runtimes: while the guard is held, no other thread attaches one.
    pub(crate) fn lock_attach(&self) -> MutexGuard<'_, ()> {
        lock(&self.attach)
    }

    /// Returns the entry of a handle's runtime, and attaches the runtime if it is not watched yet.
    /// Attaches none after the watchdog has stopped.
    ///
    /// Its name is tokio's name for it, or else the first of `runtime-1`, `runtime-2` ... that is
    /// free. A process that makes a runtime for each job or each test then needs only as many names
    /// as there are runtimes at a time.
    pub(crate) fn find_or_attach(&self, handle: &Handle, meter: &Arc<Meter>) -> Option<Arc<Runtime>> {
        let _guard = self.lock_attach();
        if let Some(known) = self.find(handle.id()) {
            return Some(known);
        }
        if self.is_stopped() {
            return None;
        }
        let reserve = |name: &str| self.reserve(name, meter).ok().flatten();
        let numbered = || (1..MAX_RUNTIMES).find_map(|n| reserve(&format!("runtime-{n}")));
        let runtime = handle.name().and_then(reserve).or_else(numbered)?;
        runtime.go_live(handle, false, None);
        Some(runtime)
    }

    /// Returns whether the watchdog has stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Runtime>> {
        lock(&self.list).clone()
    }

    /// Returns the entry under which tokio's runtime with this id is counted.
    pub(crate) fn find(&self, id: Id) -> Option<Arc<Runtime>> {
        self.all().into_iter().find(|r| r.is(id))
    }

    /// Drops all handles of tokio's runtimes, because the watchdog stops.
    pub(crate) fn stop_all(&self) {
        let guard = self.lock_attach();
        self.stopped.store(true, Ordering::Relaxed);
        drop(guard);
        self.all().iter().for_each(|runtime| runtime.stop());
    }
}
