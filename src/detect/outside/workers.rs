//! Observes the threads of a runtime's workers from outside, and inspects them for the
//! [detector](super::detector).
//!
//! Each thread of a runtime publishes its last park or unpark, and the worker that it drove then.
//! The other facts are read from the kernel and from tokio: CPU time, run delay, system call,
//! stack, and the metrics of the worker.
//!
//! **Which thread drives a worker** is proven in [`drivers`](super::drivers). That needs CPU times
//! from earlier scans, so that [`Workers`] keeps them.
//!
//! **Where a worker computes** is read from its stack. The stack of a parked worker is captured
//! once for each runtime. The frames that it has in common with the stack of a busy worker are
//! those of the worker's loop. The frames after them name the task.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pollwatch_stack::{Address, Tid};
use tokio::runtime::RuntimeMetrics;

use super::current_thread::CurrentThreads;
use super::drivers::{MAX_OTHERS, StackRoles};
use super::observation::{EntryId, WorkerObservation};
use super::wait_depths::WaitDepths;
use crate::detect::examine::Examiner;
use crate::detect::identity::{BlockedWorker, BusyPeriod, StallIdentity};
use crate::detect::procfs::{self, SyscallState};
use crate::measure::primitives::clock::Ticks;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::{ParkEvent, ThreadEntry, WorkerThreads};
use crate::measure::thread::ThreadState;
use crate::model::id::{RuntimeId, WorkerIndex};
use crate::model::time::Nanos;

/// The depth of a shallow stack, as a share of the depth of a parked worker's: a numerator and a
/// denominator. A thread that idles in the pool has next to no stack, and a call in
/// `spawn_blocking` about a third.
const SHALLOW: (usize, usize) = (3, 5);
/// The interval at which a failed capture of a parked worker's stack is tried again.
const CAPTURE_INTERVAL: Nanos = Nanos::from_millis(100);
/// The state that is kept of all workers from one scan to the next.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    /// The threads that do not drive a worker as far as is known.
    pub(super) others: HashMap<EntryId, IdleSince>,
    /// The stacks of parked workers, by the id of the pool.
    pub(super) parked_stacks: HashMap<u64, ParkedStack>,
    /// The roles that the stacks of waiting threads show.
    pub(super) roles: StackRoles,
    /// The depths of the stacks of waiting threads.
    pub(super) depths: WaitDepths,
    /// The states of threads of the pool that are not measured and may drive a worker.
    pub(super) detached: HashMap<EntryId, Arc<ThreadState>>,
    /// The threads that drive current-thread runtimes.
    pub(super) current: CurrentThreads,
}

/// The stack of a parked worker of a pool.
#[derive(Debug)]
pub(super) enum ParkedStack {
    /// The addresses, outermost first.
    Known(Arc<[Address]>),
    /// The capture failed, and is tried again at this moment.
    RetryAt(Nanos),
}

/// The time since which a thread has not run. If it runs, it may have been handed a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleSince {
    pub(super) cpu: Nanos,
    /// A reading of the clock, like [`ParkEvent::at`].
    pub(super) since: Ticks,
}

/// A worker that has not parked.
#[derive(Clone, Debug)]
pub(crate) struct BusyWorker {
    pub(crate) runtime: RuntimeId,
    /// `None` for a worker that has never parked, unless the others' indices leave only one.
    pub(crate) index: Option<WorkerIndex>,
    pub(crate) state: Arc<ThreadState>,
    pub(crate) identity: BlockedWorker,
    pub(super) tid: Tid,
    /// The index of the worker's pool in the scan; `None` for a current-thread runtime.
    pub(super) pool: Option<usize>,
}

/// A thread, and the last event that it published as a worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerThread {
    pub(super) entry: Arc<ThreadEntry>,
    event: ParkEvent,
}

/// One pool in a scan.
#[derive(Debug)]
pub(super) struct PoolScan {
    pub(super) runtime: RuntimeId,
    pub(super) pool: Arc<WorkerThreads>,
    /// The number of workers.
    pub(super) workers: usize,
    /// All threads of the pool.
    pub(super) entries: Vec<Arc<ThreadEntry>>,
    /// The last publisher of each worker that has parked before.
    pub(super) publishers: Vec<Arc<ThreadEntry>>,
    /// The other threads.
    pub(super) others: Vec<Arc<ThreadEntry>>,
    /// A worker that is parked.
    parked: Option<WorkerThread>,
    /// The earliest clock reading at which one of the workers that have not parked was unparked.
    pub(super) earliest_unpark: Ticks,
    /// A stack of at most so many bytes runs no worker.
    max_shallow: usize,
    /// The threads that drive a worker for certain, computed when first needed. The result stays
    /// true of every worker that has not run since the scan.
    pub(super) confirmed: OnceCell<HashSet<EntryId>>,
}

/// One scan of all pools.
#[derive(Debug, Default)]
pub(crate) struct WorkerScan {
    pub(crate) observations: Vec<WorkerObservation>,
    /// The observed workers, by thread.
    pub(crate) busy: HashMap<EntryId, BusyWorker>,
    pub(super) pools: Vec<PoolScan>,
    /// The runtimes of which at least one worker is not parked now, or has never parked.
    pub(crate) busy_runtimes: Vec<RuntimeId>,
    /// The [`fingerprint`] before anything else was read.
    pub(crate) fingerprint: u64,
}

/// Returns a sum that changes whenever a worker parks or unparks.
pub(crate) fn fingerprint(meter: &Meter) -> u64 {
    let pools = meter.runtimes.all().into_iter().filter_map(|runtime| runtime.worker_threads());
    pools.fold(0, |sum, pool| sum.wrapping_add(pool.fingerprint()))
}

impl Workers {
    /// Scans all pools. That reads two words of each thread, and the CPU clocks of the threads that
    /// are no workers and of the workers that have not parked.
    pub(crate) fn scan(&mut self, meter: &Meter) -> WorkerScan {
        let mut scan = WorkerScan { fingerprint: fingerprint(meter), ..WorkerScan::default() };
        for runtime in meter.runtimes.all() {
            let Some((pool, metrics)) = runtime.worker_threads().zip(runtime.metrics()) else { continue };
            let entries = pool.entries();
            let (workers, others) = by_role(&entries);
            // A worker parks as soon as it is idle. One that no thread has published has been busy
            // since the runtime was built.
            let has_unpublished = workers.len() < metrics.num_workers() && !pool.is_incomplete();
            if has_unpublished || workers.iter().any(|worker| !worker.event.is_parked()) {
                scan.busy_runtimes.push(runtime.id);
            }
            let mut pool = PoolScan::new(pool, &workers, entries, others);
            pool.runtime = runtime.id;
            pool.workers = metrics.num_workers();
            for worker in workers {
                if worker.event.is_parked() {
                    pool.parked = Some(worker);
                    continue;
                }
                pool.earliest_unpark = pool.earliest_unpark.min(worker.event.at());
                scan.observe_worker(meter, &runtime, &metrics, worker);
            }
            scan.pools.push(pool);
        }
        self.update_others(meter, &scan);
        scan
    }

    /// Reads which of the threads that are no workers have run since the previous scan.
    fn update_others(&mut self, meter: &Meter, scan: &WorkerScan) {
        let small = scan.pools.iter().filter(|pool| pool.others.len() <= MAX_OTHERS);
        let others: Vec<&Arc<ThreadEntry>> = small.flat_map(|pool| &pool.others).collect();
        let mut updated = HashMap::with_capacity(others.len());
        for entry in others {
            let Some(cpu) = entry.tid.and_then(procfs::cpu_time) else { continue };
            let unchanged = self.others.get(&id(entry)).filter(|idle| idle.cpu == cpu);
            updated.insert(id(entry), *unchanged.unwrap_or(&IdleSince { cpu, since: meter.clock.now() }));
        }
        self.others = updated;
        let listed: HashSet<EntryId> =
            scan.pools.iter().flat_map(|pool| &pool.entries).map(|entry| id(entry)).collect();
        self.roles.retain(|thread| listed.contains(&thread));
        self.depths.retain(|thread| listed.contains(&thread));
        self.detached.retain(|thread, _| listed.contains(thread) || self.current.has(*thread));
        self.parked_stacks.retain(|id, _| scan.pools.iter().any(|pool| pool.pool.id == *id));
    }

    /// Captures the stack of a parked worker of each pool, once. A failed capture is repeated after
    /// a while.
    pub(crate) fn capture_parked_stacks(&mut self, scan: &WorkerScan, now: Nanos, examiner: &mut Examiner) {
        for pool in &scan.pools {
            match self.parked_stacks.get(&pool.pool.id) {
                Some(ParkedStack::Known(_)) => continue,
                Some(ParkedStack::RetryAt(next)) if now < *next => continue,
                _ => {}
            }
            let Some(WorkerThread { entry, event }) = &pool.parked else { continue };
            let Some(state) = entry.state() else { continue };
            let period = BusyPeriod { event: event.packed, slot_version: state.slot.version() };
            let worker = BlockedWorker { entry: entry.clone(), period, cpu: None };
            let stack = match examiner.addresses(state, &StallIdentity::Worker(worker)) {
                Some(addresses) => {
                    self.roles.observe(&addresses);
                    ParkedStack::Known(addresses.into())
                }
                None => ParkedStack::RetryAt(now + CAPTURE_INTERVAL),
            };
            self.parked_stacks.insert(pool.pool.id, stack);
        }
    }
}

impl PoolScan {
    fn new(
        pool: Arc<WorkerThreads>,
        workers: &[WorkerThread],
        entries: Vec<Arc<ThreadEntry>>,
        others: Vec<Arc<ThreadEntry>>,
    ) -> PoolScan {
        let depth = workers.iter().filter_map(|worker| worker.entry.parked_depth()).min().unwrap_or(0);
        PoolScan {
            runtime: RuntimeId::OTHER,
            pool,
            workers: 0,
            entries,
            publishers: workers.iter().map(|worker| worker.entry.clone()).collect(),
            others,
            parked: None,
            earliest_unpark: Ticks(u64::MAX),
            max_shallow: depth * SHALLOW.0 / SHALLOW.1,
            confirmed: OnceCell::new(),
        }
    }

    /// Returns whether a stack down to this stack pointer is too shallow to run a worker.
    pub(super) fn is_shallow(&self, entry: &ThreadEntry, sp: u64) -> bool {
        self.is_shallow_depth(entry.depth(sp))
    }

    /// Returns whether a stack of this depth is too shallow to run a worker.
    pub(super) fn is_shallow_depth(&self, depth: usize) -> bool {
        depth <= self.max_shallow
    }

    /// Returns whether a thread waits and is too shallow to run a worker.
    pub(super) fn waits_shallow(&self, entry: &ThreadEntry, tid: Tid) -> bool {
        matches!(procfs::syscall(tid), Some(SyscallState::Waiting { sp, .. }) if self.is_shallow(entry, sp.get()))
    }
}

impl PoolScan {
    /// Returns whether a thread's last event was not a park.
    pub(super) fn is_busy(&self, entry: &ThreadEntry) -> bool {
        entry.last_event().is_some_and(|event| !event.is_parked())
    }
}

impl WorkerScan {
    /// Returns whether no runtime has workers that can be observed from outside.
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.observations.is_empty()
    }

    /// Returns the number of workers of a runtime that are parked at this moment; `None` where its
    /// threads do not publish their parks.
    pub(crate) fn parked_workers(&self, runtime: RuntimeId) -> Option<usize> {
        let pool = self.pools.iter().find(|pool| pool.runtime == runtime)?;
        let is_parked = |entry: &&Arc<ThreadEntry>| entry.last_event().is_some_and(ParkEvent::is_parked);
        Some(pool.publishers.iter().filter(is_parked).count())
    }

    /// Observes a worker that has not parked, if it is in no measured frame.
    fn observe_worker(&mut self, meter: &Meter, runtime: &Runtime, metrics: &RuntimeMetrics, worker: WorkerThread) {
        let WorkerThread { entry, event } = worker;
        let index = event.worker;
        let reading = entry.state().and_then(|state| state.slot.read());
        let (Some(state), Some(reading), Some(tid)) = (entry.state().cloned(), reading, entry.tid) else { return };
        if !reading.frames().is_empty() || index.index() >= metrics.num_workers() {
            return;
        }
        let published = published(metrics, index);
        let Some(cpu) = procfs::cpu_time(tid) else { return };
        // Both readings are of one moment if the metrics are unchanged. Otherwise the worker runs,
        // and is not observed in this scan.
        if published != self::published(metrics, index) {
            return;
        }
        let at = meter.clock.moment();
        let period = BusyPeriod { event: event.packed, slot_version: reading.version };
        let thread = id(&entry);
        self.observations.push(WorkerObservation { thread, period, published, cpu, at });
        let identity = BlockedWorker { entry, period, cpu: Some(cpu) };
        let pool = self.pools.len();
        self.busy.insert(
            thread,
            BusyWorker { runtime: runtime.id, index: Some(index), state, identity, tid, pool: Some(pool) },
        );
    }
}

pub(super) fn id(entry: &ThreadEntry) -> EntryId {
    EntryId(entry.id)
}

/// Returns the sum of the metrics that tokio publishes of a worker. Parks and busy time only grow,
/// so that the sum changes with either.
pub(crate) fn published(metrics: &RuntimeMetrics, worker: WorkerIndex) -> u64 {
    let busy = metrics.worker_total_busy_duration(worker.index()).as_nanos() as u64;
    metrics.worker_park_unpark_count(worker.index()).wrapping_add(busy)
}

/// Returns the last publisher of each worker, and all other threads.
pub(super) fn by_role(entries: &[Arc<ThreadEntry>]) -> (Vec<WorkerThread>, Vec<Arc<ThreadEntry>>) {
    let mut publishers: HashMap<WorkerIndex, (usize, ParkEvent)> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let Some(event) = entry.last_event() else { continue };
        match publishers.get(&event.worker) {
            Some((_, other)) if other.at() >= event.at() => {}
            _ => drop(publishers.insert(event.worker, (i, event))),
        }
    }
    let indexes: HashSet<usize> = publishers.values().map(|(i, _)| *i).collect();
    let others = (0..entries.len()).filter(|i| !indexes.contains(i)).map(|i| entries[i].clone()).collect();
    let worker = |&(i, event): &(usize, ParkEvent)| WorkerThread { entry: entries[i].clone(), event };
    (publishers.values().map(worker).collect(), others)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
