//! The runtimes of a watchdog, and the meter that lists its threads.

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
use crate::measure::thread::slot::Frame;
use crate::measure::thread::{RuntimeTag, ThreadState};
use crate::model::id::RuntimeId;
use crate::model::snapshot::TokioSnapshot;
use crate::util::lock;

/// One named runtime. The entry outlives the runtime: another one of the same name continues its
/// counters.
pub(crate) struct Runtime {
    pub(crate) id: RuntimeId,
    pub(crate) name: Arc<str>,
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) meter_id: u64,
    /// The tag of its id.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    pub(crate) runtime_tag: RuntimeTag,
    pub(crate) meter: Weak<Meter>,
    pub(crate) probe: Probe,
    pub(crate) lag: LagCell,
    /// The delays from waking the probe to its poll.
    pub(crate) delay: Histogram,
    /// Whether tokio's hooks see every task of this runtime.
    hooked: AtomicBool,
    multi_thread: AtomicBool,
    /// The number of tokio runtimes that have had this name.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reserved: bool,
    live: Option<Live>,
    /// The runtime that was live when the watchdog stopped. What it still counts belongs here.
    stopped: Option<Id>,
    totals: TokioSnapshot,
}

/// What holds tokio's handle. It must be dropped with the runtime: the handle holds the hooks, and
/// the hooks hold this entry.
struct Live {
    id: Id,
    metrics: RuntimeMetrics,
    owners: WorkerOwners,
    stats: RuntimeStats,
    /// Its threads, where they publish their parks.
    pool: Option<Arc<WorkerThreads>>,
}

impl Runtime {
    fn new(id: RuntimeId, name: &str, meter: &Weak<Meter>, meter_id: u64) -> Arc<Runtime> {
        Arc::new(Runtime {
            id,
            name: name.into(),
            meter_id,
            runtime_tag: RuntimeTag::of(id),
            meter: meter.clone(),
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
    pub(crate) fn go_live(self: &Arc<Self>, handle: &Handle, hooked: bool, pool: Option<Arc<WorkerThreads>>) {
        self.hooked.store(hooked, Ordering::Relaxed);
        self.multi_thread.store(handle.runtime_flavor() == RuntimeFlavor::MultiThread, Ordering::Relaxed);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        // The one worker of a current-thread runtime is the thread that calls `block_on`, and no
        // callback reports when that returns.
        let pool = pool.filter(|_| self.is_multi_thread());
        let (metrics, stats) = (handle.metrics(), RuntimeStats::new(handle));
        let owners = WorkerOwners::of(metrics.num_workers());
        lock(&self.state).live = Some(Live { id: handle.id(), metrics, owners, stats, pool });
        crate::measure::runtime::probe::spawn(handle, self, generation);
    }

    /// Handles the drop of the probe: the runtime drops its tasks, because it shuts down.
    pub(super) fn gone(&self, generation: u64) {
        if self.generation.load(Ordering::Relaxed) == generation {
            self.release();
        }
    }

    /// Drops tokio's handle.
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
        drop(live);
    }

    /// Drops tokio's handle when the watchdog stops and the runtime continues.
    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = state.live.as_ref().map(|live| live.id).or(state.stopped);
        drop(state);
        self.probe.stop();
        self.release();
    }

    fn is(&self, id: Id) -> bool {
        let state = lock(&self.state);
        state.live.as_ref().map(|live| live.id).or(state.stopped) == Some(id)
    }

    pub(crate) fn is_hooked(&self) -> bool {
        self.hooked.load(Ordering::Relaxed)
    }

    pub(crate) fn is_multi_thread(&self) -> bool {
        self.multi_thread.load(Ordering::Relaxed)
    }

    pub(crate) fn is_live(&self) -> bool {
        lock(&self.state).live.is_some()
    }

    /// Returns the worker of this runtime that a thread's poll blocks; see [`ownership`].
    pub(crate) fn worker_of(&self, thread: &ThreadState, frame: &Frame) -> Option<u16> {
        let state = lock(&self.state);
        let Live { metrics, owners, .. } = state.live.as_ref()?;
        let (metrics, owners) = (metrics.clone(), owners.clone());
        drop(state);
        ownership::worker_of(&metrics, &owners, thread, frame)
    }

    /// Returns the owners of its workers, while the runtime lives.
    #[cfg(not(tokio_unstable))]
    pub(crate) fn owners(&self) -> Option<WorkerOwners> {
        lock(&self.state).live.as_ref().map(|live| live.owners.clone())
    }

    /// Returns tokio's metrics, while the runtime lives.
    pub(crate) fn metrics(&self) -> Option<RuntimeMetrics> {
        lock(&self.state).live.as_ref().map(|live| live.metrics.clone())
    }

    /// Returns tokio's id of the runtime, while it lives.
    pub(crate) fn tokio_id(&self) -> Option<Id> {
        lock(&self.state).live.as_ref().map(|live| live.id)
    }

    /// Returns its threads, while the runtime lives and where they publish their parks.
    pub(crate) fn pool(&self) -> Option<Arc<WorkerThreads>> {
        lock(&self.state).live.as_ref()?.pool.clone()
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
pub(crate) struct Runtimes {
    meter: Weak<Meter>,
    list: Mutex<Vec<Arc<Runtime>>>,
    adopting: Mutex<()>,
    /// The number of runtimes that were built when all ids were taken.
    unnamed: AtomicU64,
}

impl Runtimes {
    pub(crate) fn new(meter: Weak<Meter>) -> Runtimes {
        Runtimes { meter, list: Mutex::default(), adopting: Mutex::default(), unnamed: AtomicU64::new(0) }
    }

    /// Reserves a name for a runtime about to be built or attached; `None` when other names have
    /// all ids.
    pub(crate) fn reserve(&self, name: &str, meter_id: u64) -> Result<Option<Arc<Runtime>>, Error> {
        if name.trim().is_empty() {
            return Err(Error::invalid("a runtime's name must not be empty: it is the `runtime` label of its metrics"));
        }
        let mut list = self.with_other(meter_id);
        let known = list.iter().find(|r| &*r.name == name).cloned();
        let runtime = match known {
            Some(runtime) => runtime,
            None if list.len() >= MAX_RUNTIMES => return Ok(None),
            None => {
                let runtime = Runtime::new(RuntimeId(list.len() as u8), name, &self.meter, meter_id);
                list.push(runtime.clone());
                runtime
            }
        };
        let mut state = lock(&runtime.state);
        if runtime.id == RuntimeId::OTHER || state.reserved {
            return Err(Error::invalid(format!(
                "a runtime named {name:?} is watched already: two would share one `runtime` label, so give this one another \
                 name, or shut the first one down before"
            )));
        }
        state.reserved = true;
        drop(state);
        Ok(Some(runtime))
    }

    /// Counts a runtime that was built without a place; whether it is the first one.
    pub(crate) fn count_unnamed(&self) -> bool {
        self.unnamed.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How many there were.
    pub(crate) fn unnamed(&self) -> u64 {
        self.unnamed.load(Ordering::Relaxed)
    }

    fn with_other(&self, meter_id: u64) -> MutexGuard<'_, Vec<Arc<Runtime>>> {
        let mut list = lock(&self.list);
        if list.is_empty() {
            list.push(Runtime::new(RuntimeId::OTHER, "other", &self.meter, meter_id));
        }
        list
    }

    /// The runtime that stands for all unknown ones.
    pub(crate) fn other(&self, meter_id: u64) -> Arc<Runtime> {
        self.with_other(meter_id)[RuntimeId::OTHER.index()].clone()
    }

    pub(crate) fn get(&self, id: RuntimeId) -> Option<Arc<Runtime>> {
        lock(&self.list).get(id.index()).cloned()
    }

    /// While this is held, nobody else comes to watch a runtime that is there already.
    pub(crate) fn adopting(&self) -> MutexGuard<'_, ()> {
        lock(&self.adopting)
    }

    /// The runtime of this handle; one that nobody has named is watched from here on, under tokio's
    /// name for it, else under the first of `runtime-1`, `runtime-2` ... that no living one has: a
    /// process that makes a runtime for each job, or each test, needs as many names as there are at
    /// a time.
    pub(crate) fn find_or_adopt(&self, handle: &Handle, meter_id: u64) -> Option<Arc<Runtime>> {
        let _one_at_a_time = self.adopting();
        if let Some(known) = self.find(handle.id()) {
            return Some(known);
        }
        let reserve = |name: &str| self.reserve(name, meter_id).ok().flatten();
        let unnamed = || (1..MAX_RUNTIMES).find_map(|n| reserve(&format!("runtime-{n}")));
        let runtime = handle.name().and_then(reserve).or_else(unnamed)?;
        runtime.go_live(handle, false, None);
        Some(runtime)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Runtime>> {
        lock(&self.list).clone()
    }

    /// The live runtime with tokio's id.
    pub(crate) fn find(&self, id: Id) -> Option<Arc<Runtime>> {
        self.all().into_iter().find(|r| r.is(id))
    }

    /// Lets go of all tokio handles; the watchdog stops.
    pub(crate) fn release_all(&self) {
        self.all().iter().for_each(|runtime| runtime.stop());
    }
}
