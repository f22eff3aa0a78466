//! Observes the threads of a runtime's workers from outside, and inspects them for the
//! [detector](super::detector).
//!
//! Each thread of a runtime publishes its last park or unpark, and the worker that it drove then.
//! The other facts are read from the kernel and from tokio: CPU time, run delay, system call,
//! stack, and the metrics of the worker.
//!
//! **Which thread drives a worker** is an inference. The thread that published a worker last is
//! taken as its driver. That is wrong while a task is in `block_in_place`: tokio then hands the
//! worker on to another thread of the pool, which publishes nothing before its first park. A worker
//! is handed only to a thread that drives none. So if no other thread of the pool drives a worker,
//! no worker has been handed on, and each publisher still drives its own. A thread drives no worker
//! in either of these cases:
//!
//! - Its stack is too shallow, and it waits. The stack of a driver holds the worker's loop and, in
//!   that, what it polls. A parked worker's stack shows how deep the loop is.
//! - It has not run since before the earliest unpark of the workers that have not parked. A worker
//!   that was parked cannot have been handed on.
//!
//! The second case needs CPU times from earlier scans, so that [`Workers`] keeps them.
//!
//! **Where a worker computes** is read from its stack. The stack of a parked worker is captured
//! once for each runtime. The frames that it has in common with the stack of a busy worker are
//! those of the worker's loop. The frames after them name the task.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pollwatch_stack::{Address, Tid};
use tokio::runtime::RuntimeMetrics;

use super::observation::{BlockedIn, EntryId, Inspector, WorkerObservation};
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

/// The number of threads of a pool, beside its workers, that are read in a scan. With more of them
/// no driver is confirmed.
const MAX_OTHERS: usize = 64;
/// The depth of a shallow stack, as a share of the depth of a parked worker's: a numerator and a
/// denominator. A thread that idles in the pool has next to no stack, and a call in
/// `spawn_blocking` about a third.
const SHALLOW: (usize, usize) = (3, 5);
/// The interval at which a failed capture of a parked worker's stack is tried again.
const CAPTURE_INTERVAL: Nanos = Nanos::from_millis(100);
/// The number of functions, from the worker's loop inwards, that make up a location. They include
/// the type of the polled task.
const LOCATION_DEPTH: usize = 3;

/// The state that is kept of all workers from one scan to the next.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    /// The threads that do not drive a worker as far as is known.
    others: HashMap<EntryId, IdleSince>,
    /// The stacks of parked workers, by the id of the pool.
    parked_stacks: HashMap<u64, ParkedStack>,
}

/// The stack of a parked worker of a pool.
#[derive(Debug)]
enum ParkedStack {
    /// The addresses, outermost first.
    Known(Arc<[Address]>),
    /// The capture failed, and is tried again at this moment.
    RetryAt(Nanos),
}

/// The time since which a thread has not run. If it runs, it may have been handed a worker.
#[derive(Clone, Copy, Debug)]
struct IdleSince {
    cpu: Nanos,
    /// A reading of the clock, like [`ParkEvent::at`].
    since: Ticks,
}

/// A worker that has not parked.
#[derive(Clone, Debug)]
pub(crate) struct BusyWorker {
    pub(crate) runtime: RuntimeId,
    pub(crate) index: WorkerIndex,
    pub(crate) state: Arc<ThreadState>,
    pub(crate) identity: BlockedWorker,
    tid: Tid,
    /// The index of the worker's pool in the scan.
    pool: usize,
}

/// A thread, and the last event that it published as a worker.
#[derive(Clone, Debug)]
struct WorkerThread {
    entry: Arc<ThreadEntry>,
    event: ParkEvent,
}

/// One pool in a scan.
#[derive(Debug)]
struct PoolScan {
    pool: Arc<WorkerThreads>,
    /// All threads of the pool.
    entries: Vec<Arc<ThreadEntry>>,
    /// The threads that are not the last publisher of a worker.
    others: Vec<Arc<ThreadEntry>>,
    /// A worker that is parked.
    parked: Option<WorkerThread>,
    /// The earliest clock reading at which one of the workers that have not parked was unparked.
    earliest_unpark: Ticks,
    /// A stack of at most so many bytes runs no worker.
    max_shallow: usize,
    /// The threads that drive a worker for certain, computed when first needed. The result stays
    /// true of every worker that has not run since the scan.
    confirmed: OnceCell<HashSet<EntryId>>,
}

/// One scan of all pools.
#[derive(Debug, Default)]
pub(crate) struct WorkerScan {
    pub(crate) observations: Vec<WorkerObservation>,
    /// The observed workers, by thread.
    pub(crate) busy: HashMap<EntryId, BusyWorker>,
    pools: Vec<PoolScan>,
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
            let mut pool = PoolScan::new(pool, entries, others, &workers);
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
                Some(addresses) => ParkedStack::Known(addresses.into()),
                None => ParkedStack::RetryAt(now + CAPTURE_INTERVAL),
            };
            self.parked_stacks.insert(pool.pool.id, stack);
        }
    }

    /// Returns the threads that drive a worker for certain: all last publishers of a worker, or
    /// none where another thread may drive one. See the module's introduction.
    fn confirmed_drivers(&self, pool: &PoolScan) -> HashSet<EntryId> {
        let drives_none = |entry: &Arc<ThreadEntry>| {
            let idle = self.others.get(&id(entry));
            idle.is_some_and(|idle| idle.since <= pool.earliest_unpark)
                || entry.tid.is_some_and(|tid| pool.waits_shallow(entry, tid))
        };
        // The readings were made one after the other. They hold at one moment because none of these
        // threads has run since the scan. None is about to run either: a thread that was handed a
        // worker is ready to run, and waits in no call.
        let is_still_idle = |entry: &Arc<ThreadEntry>| {
            entry.tid.zip(self.others.get(&id(entry))).is_some_and(|(tid, idle)| {
                procfs::cpu_time(tid) == Some(idle.cpu)
                    && matches!(procfs::syscall(tid), Some(SyscallState::Waiting { .. }))
            })
        };
        let is_incomplete = pool.others.len() > MAX_OTHERS || pool.pool.is_incomplete();
        if is_incomplete || !pool.others.iter().all(drives_none) || !pool.others.iter().all(is_still_idle) {
            return HashSet::new();
        }
        // No thread has joined the pool since the scan or is about to, and the publishers are those
        // of this moment.
        let entries = pool.pool.entries();
        let scanned: HashSet<u64> = pool.entries.iter().map(|entry| entry.id).collect();
        let tids: HashSet<Tid> = entries.iter().filter_map(|entry| entry.tid).collect();
        if !entries.iter().all(|entry| scanned.contains(&entry.id)) || procfs::is_one_starting(&tids) {
            return HashSet::new();
        }
        by_role(&entries).0.iter().map(|worker| id(&worker.entry)).collect()
    }
}

impl PoolScan {
    fn new(
        pool: Arc<WorkerThreads>,
        entries: Vec<Arc<ThreadEntry>>,
        others: Vec<Arc<ThreadEntry>>,
        workers: &[WorkerThread],
    ) -> PoolScan {
        let depth = workers.iter().filter_map(|worker| worker.entry.parked_depth()).min().unwrap_or(0);
        PoolScan {
            pool,
            entries,
            others,
            parked: None,
            earliest_unpark: Ticks(u64::MAX),
            max_shallow: depth * SHALLOW.0 / SHALLOW.1,
            confirmed: OnceCell::new(),
        }
    }

    /// Returns whether a stack down to this stack pointer is too shallow to run a worker.
    fn is_shallow(&self, entry: &ThreadEntry, sp: u64) -> bool {
        entry.depth(sp) <= self.max_shallow
    }

    /// Returns whether a thread waits and is too shallow to run a worker.
    fn waits_shallow(&self, entry: &ThreadEntry, tid: Tid) -> bool {
        matches!(procfs::syscall(tid), Some(SyscallState::Waiting { sp, .. }) if self.is_shallow(entry, sp.get()))
    }
}

impl WorkerScan {
    /// Returns whether no runtime has workers that can be observed from outside.
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
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
        let at = meter.clock.nanos(meter.clock.now());
        let period = BusyPeriod { event: event.packed, slot_version: reading.version };
        let thread = id(&entry);
        self.observations.push(WorkerObservation { thread, period, published, cpu, at });
        let identity = BlockedWorker { entry, period, cpu: Some(cpu) };
        let pool = self.pools.len();
        self.busy.insert(thread, BusyWorker { runtime: runtime.id, index, state, identity, tid, pool });
    }
}

fn id(entry: &ThreadEntry) -> EntryId {
    EntryId(entry.id)
}

/// Returns the sum of the metrics that tokio publishes of a worker. Parks and busy time only grow,
/// so that the sum changes with either.
fn published(metrics: &RuntimeMetrics, worker: WorkerIndex) -> u64 {
    let busy = metrics.worker_total_busy_duration(worker.index()).as_nanos() as u64;
    metrics.worker_park_unpark_count(worker.index()).wrapping_add(busy)
}

/// Returns the last publisher of each worker, and all other threads.
fn by_role(entries: &[Arc<ThreadEntry>]) -> (Vec<WorkerThread>, Vec<Arc<ThreadEntry>>) {
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

/// Inspects the workers of one scan for the detector.
pub(crate) struct ThreadInspector<'a> {
    pub(crate) scan: &'a WorkerScan,
    pub(crate) workers: &'a Workers,
    pub(crate) examiner: &'a mut Examiner,
}

impl Inspector for ThreadInspector<'_> {
    fn blocked_in(&mut self, thread: EntryId) -> Option<BlockedIn> {
        let busy = self.scan.busy.get(&thread)?;
        let SyscallState::Waiting { call, sp, ip } = procfs::syscall(busy.tid)? else { return None };
        let mut hasher = DefaultHasher::new();
        (call, sp, ip, procfs::ran(busy.tid)).hash(&mut hasher);
        let is_shallow = self.scan.pools[busy.pool].is_shallow(&busy.identity.entry, sp.get());
        // The readings belong together only if the thread has not run since it was observed.
        let is_current = busy.identity.is_current(&busy.state);
        is_current.then(|| BlockedIn { digest: hasher.finish(), in_syscall: call.is_some(), is_shallow })
    }

    fn is_confirmed_owner(&mut self, thread: EntryId) -> bool {
        let Some(busy) = self.scan.busy.get(&thread) else { return false };
        let pool = &self.scan.pools[busy.pool];
        pool.confirmed.get_or_init(|| self.workers.confirmed_drivers(pool)).contains(&thread)
    }

    fn run_delay(&mut self, thread: EntryId) -> Nanos {
        self.scan.busy.get(&thread).and_then(|busy| procfs::run_delay(busy.tid)).unwrap_or_default()
    }

    fn location(&mut self, thread: EntryId) -> Option<u64> {
        let busy = self.scan.busy.get(&thread)?;
        let ParkedStack::Known(parked) = self.workers.parked_stacks.get(&self.scan.pools[busy.pool].pool.id)? else {
            return None;
        };
        let running = BlockedWorker { cpu: None, ..busy.identity.clone() };
        let addresses = self.examiner.addresses(&busy.state, &StallIdentity::Worker(running))?;
        // Both stacks start with the worker's loop. The first difference is where the loop polls
        // instead of parking.
        let common = addresses.iter().zip(parked.iter()).take_while(|(busy, parked)| busy == parked).count();
        let task = addresses.get(common..).filter(|task| task.len() > LOCATION_DEPTH)?;
        let mut hasher = DefaultHasher::new();
        task[..LOCATION_DEPTH].hash(&mut hasher);
        Some(hasher.finish())
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
