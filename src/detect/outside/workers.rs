//! What the threads of a runtime's workers do, read from outside, and what the
//! [detector](super::detector) asks about them.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pollwatch_stack::{Address, Tid};
use tokio::runtime::RuntimeMetrics;

use super::detector::{BlockedIn, Inspector, WorkerObservation};
use crate::detect::examine::Examiner;
use crate::detect::identity::{BlockedWorker, StallIdentity};
use crate::detect::procfs::{self, SyscallState as Syscall};
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::{ParkEvent, ThreadEntry, WorkerThreads};
use crate::measure::thread::ThreadState;
use crate::model::id::RuntimeId;
use crate::sys;

/// The number of threads of a pool, beside its workers, that are observed. With more of them
/// nothing is certain.
const MAX_SPARE: usize = 64;
/// A stack that is at most this share as deep as a parked worker's runs no worker: a worker's stack
/// holds the worker's loop and, within that, what it polls. A thread that waits in the pool has
/// next to no stack, a call in `spawn_blocking` a third.
const SHALLOW: (usize, usize) = (3, 5);
/// The interval, in nanoseconds, at which the stack of a parked worker is tried to be captured,
/// until it is known.
const LEARN_INTERVAL: u64 = 100_000_000;
/// The number of functions, from the worker's loop inwards, that make up a location: they include
/// the type of the polled task.
const LOCATION_DEPTH: usize = 3;

/// What is kept of all workers from one scan to the next.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    /// Threads that are no workers, by the id of their seat.
    spare: HashMap<u64, IdleSince>,
    /// By the id of the pool: the addresses in the stack of a parked worker, outermost first; or
    /// when to try again.
    parked_stacks: HashMap<u64, Result<Arc<[Address]>, u64>>,
}

/// A thread that is no worker as far as is known. If it has run since, it may have been handed one.
#[derive(Clone, Copy, Debug)]
struct IdleSince {
    cpu: u64,
    /// A clock reading since which the thread has not run.
    since: u64,
}

/// A worker that has not parked.
#[derive(Clone, Debug)]
pub(crate) struct BusyWorker {
    pub(crate) runtime: RuntimeId,
    pub(crate) index: u16,
    pub(crate) state: Arc<ThreadState>,
    pub(crate) identity: BlockedWorker,
    tid: Tid,
    /// The index of its pool in the scan.
    pool: usize,
}

/// One pool in a scan.
#[derive(Debug)]
struct PoolScan {
    pool: Arc<WorkerThreads>,
    /// All threads of the pool.
    seats: Vec<Arc<ThreadEntry>>,
    /// Those that are no workers.
    spare: Vec<Arc<ThreadEntry>>,
    /// A worker that is parked.
    parked: Option<(Arc<ThreadEntry>, ParkEvent)>,
    /// The earliest clock reading at which one of the workers that have not parked was unparked.
    earliest_unpark: u64,
    /// A stack of at most so many bytes runs no worker.
    shallow: usize,
    /// The threads that are workers of this pool for certain, computed when somebody asks. The
    /// answer stays true of every worker that has not run since the scan.
    certain: OnceCell<HashSet<u64>>,
}

/// One scan of all pools.
#[derive(Debug, Default)]
pub(crate) struct WorkerScan {
    pub(crate) observations: Vec<WorkerObservation>,
    /// The observed workers, by thread.
    pub(crate) busy: HashMap<u64, BusyWorker>,
    pools: Vec<PoolScan>,
    /// The runtimes of which some worker has not parked.
    pub(crate) busy_runtimes: Vec<RuntimeId>,
    /// The [`fingerprint`] before anything else was read.
    pub(crate) fingerprint: u64,
}

impl WorkerScan {
    /// Returns whether no runtime has workers that can be observed from outside.
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }
}

/// Returns a sum that changes whenever a worker parks or unparks.
pub(crate) fn fingerprint(meter: &Meter) -> u64 {
    let pools = meter.runtimes.all().into_iter().filter_map(|runtime| runtime.worker_threads());
    pools.fold(0, |sum, pool| sum.wrapping_add(pool.fingerprint()))
}

impl Workers {
    /// Scans all pools. That reads two words of each thread, and the CPU clock of the spare ones
    /// and of workers that have not parked.
    pub(crate) fn scan(&mut self, meter: &Meter) -> WorkerScan {
        let mut scan = WorkerScan { fingerprint: fingerprint(meter), ..WorkerScan::default() };
        for runtime in meter.runtimes.all() {
            let Some((pool, metrics)) = runtime.worker_threads().zip(runtime.metrics()) else { continue };
            let seats = pool.entries();
            let (workers, spare) = sort(&seats);
            let depth = workers.iter().filter_map(|(seat, _)| seat.parked_depth()).min().unwrap_or(0);
            let shallow = depth * SHALLOW.0 / SHALLOW.1;
            let certain = OnceCell::new();
            let mut in_pool =
                PoolScan { pool, seats, spare, parked: None, earliest_unpark: u64::MAX, shallow, certain };
            if workers.iter().any(|(_, event)| !event.is_parked()) {
                scan.busy_runtimes.push(runtime.id);
            }
            for (seat, event) in workers {
                if event.is_parked() {
                    in_pool.parked = Some((seat, event));
                    continue;
                }
                in_pool.earliest_unpark = in_pool.earliest_unpark.min(event.at().0);
                scan.observe_worker(meter, &runtime, &metrics, seat, event);
            }
            scan.pools.push(in_pool);
        }
        self.update_spare(meter, &scan);
        scan
    }

    /// Finds out which of the spare threads have run since the previous scan.
    fn update_spare(&mut self, meter: &Meter, scan: &WorkerScan) {
        let small = scan.pools.iter().filter(|pool| pool.spare.len() <= MAX_SPARE);
        let spare: Vec<&Arc<ThreadEntry>> = small.flat_map(|pool| &pool.spare).collect();
        let mut now = HashMap::with_capacity(spare.len());
        for seat in spare {
            let Some(cpu) = seat.tid.and_then(sys::thread_cpu_nanos) else { continue };
            let known = self.spare.get(&seat.id).filter(|idle| idle.cpu == cpu);
            now.insert(seat.id, *known.unwrap_or(&IdleSince { cpu, since: meter.clock.now().0 }));
        }
        self.spare = now;
        self.parked_stacks.retain(|id, _| scan.pools.iter().any(|pool| pool.pool.id == *id));
    }

    /// Captures the stack of a parked worker of each pool, once. Where that fails, it is tried
    /// again from time to time.
    pub(crate) fn learn_parked_stacks(&mut self, scan: &WorkerScan, now: u64, examiner: &mut Examiner) {
        for in_pool in &scan.pools {
            match self.parked_stacks.get(&in_pool.pool.id) {
                Some(Ok(_)) => continue,
                Some(Err(next)) if now < *next => continue,
                _ => {}
            }
            let Some((seat, event)) = &in_pool.parked else { continue };
            let Some(state) = seat.state() else { continue };
            let worker = BlockedWorker { seat: seat.clone(), mark: (event.packed, state.slot.version()), cpu: None };
            let addresses = examiner.addresses(state, &StallIdentity::Worker(worker));
            self.parked_stacks.insert(in_pool.pool.id, addresses.map(Arc::from).ok_or(now + LEARN_INTERVAL));
        }
    }

    /// Returns the threads that are workers for certain.
    ///
    /// Each worker's core is held by one thread, or waits for one to take it. A worker that is
    /// handed on goes to a thread that holds none. So if no spare thread holds a worker, the
    /// holders are those that say so. A spare thread holds none if its stack is too short for that,
    /// now and as long as it does not run; or if it has not run since the earliest unpark of a
    /// worker that has not parked.
    fn certain(&self, in_pool: &PoolScan) -> HashSet<u64> {
        let holds_none = |seat: &Arc<ThreadEntry>| {
            let idle = self.spare.get(&seat.id);
            idle.is_some_and(|idle| idle.since <= in_pool.earliest_unpark)
                || seat.tid.is_some_and(|tid| waits_shallow(in_pool, seat, tid))
        };
        // All of this is true of one moment: none of them has run since the scan. None is about to
        // run either: a thread that was handed a worker waits for nothing but a CPU.
        let stays_idle = |seat: &Arc<ThreadEntry>| {
            seat.tid.zip(self.spare.get(&seat.id)).is_some_and(|(tid, idle)| {
                sys::thread_cpu_nanos(tid) == Some(idle.cpu)
                    && matches!(procfs::syscall(tid), Some(Syscall::Waiting { .. }))
            })
        };
        let is_unknown = in_pool.spare.len() > MAX_SPARE || in_pool.pool.is_incomplete();
        if is_unknown || !in_pool.spare.iter().all(holds_none) || !in_pool.spare.iter().all(stays_idle) {
            return HashSet::new();
        }
        // No thread has joined the pool since, or is about to, and none has published another
        // worker.
        let seats = in_pool.pool.entries();
        let known: HashSet<u64> = in_pool.seats.iter().map(|seat| seat.id).collect();
        let tids: HashSet<Tid> = seats.iter().filter_map(|seat| seat.tid).collect();
        if !seats.iter().all(|seat| known.contains(&seat.id)) || procfs::is_one_starting(&tids) {
            return HashSet::new();
        }
        sort(&seats).0.into_iter().map(|(seat, _)| seat.id).collect()
    }
}

impl WorkerScan {
    /// Observes a worker that has not parked, if it is in no measured frame.
    fn observe_worker(
        &mut self,
        meter: &Meter,
        runtime: &Runtime,
        metrics: &RuntimeMetrics,
        seat: Arc<ThreadEntry>,
        event: ParkEvent,
    ) {
        let index = usize::from(event.worker);
        let reading = seat.state().and_then(|state| state.slot.read());
        let (Some(state), Some(reading), Some(tid)) = (seat.state().cloned(), reading, seat.tid) else { return };
        if !reading.frames().is_empty() || index >= metrics.num_workers() {
            return;
        }
        let progress = progress(metrics, index);
        let Some(cpu) = sys::thread_cpu_nanos(tid) else { return };
        // The figures have to be of the moment of the CPU clock; else the worker has moved on.
        if progress != self::progress(metrics, index) {
            return;
        }
        let at = meter.clock.nanos(meter.clock.now()).0;
        let mark = (event.packed, reading.version);
        self.observations.push(WorkerObservation { thread: seat.id, mark, progress, cpu, at });
        let identity = BlockedWorker { seat: seat.clone(), mark, cpu: Some(cpu) };
        let pool = self.pools.len();
        let busy = BusyWorker { runtime: runtime.id, index: event.worker, state, identity, tid, pool };
        self.busy.insert(seat.id, busy);
    }
}

/// A worker's thread, and the last event that it published.
type WorkerThread = (Arc<ThreadEntry>, ParkEvent);

/// Returns what the runtime publishes of a worker. Parks and busy time only grow, so their sum
/// moves with either.
fn progress(metrics: &RuntimeMetrics, worker: usize) -> u64 {
    let busy = metrics.worker_total_busy_duration(worker).as_nanos() as u64;
    metrics.worker_park_unpark_count(worker).wrapping_add(busy)
}

/// Returns whether the stack below a stack pointer is too short for a worker.
fn is_shallow(in_pool: &PoolScan, seat: &ThreadEntry, sp: u64) -> bool {
    seat.depth(sp) <= in_pool.shallow
}

/// Returns the threads that are workers as far as they have published, with their last events; and
/// all others.
///
/// The thread that published a worker last is that worker: when another thread does, the worker has
/// been handed on.
fn sort(seats: &[Arc<ThreadEntry>]) -> (Vec<WorkerThread>, Vec<Arc<ThreadEntry>>) {
    let mut workers: HashMap<u16, (usize, ParkEvent)> = HashMap::new();
    for (i, seat) in seats.iter().enumerate() {
        let Some(event) = seat.last_event() else { continue };
        match workers.get(&event.worker) {
            Some((_, other)) if other.at() >= event.at() => {}
            _ => drop(workers.insert(event.worker, (i, event))),
        }
    }
    let of_workers: HashSet<usize> = workers.values().map(|(i, _)| *i).collect();
    let spare = (0..seats.len()).filter(|i| !of_workers.contains(i)).map(|i| seats[i].clone()).collect();
    (workers.values().map(|(i, event)| (seats[*i].clone(), *event)).collect(), spare)
}

fn waits_shallow(in_pool: &PoolScan, seat: &ThreadEntry, tid: Tid) -> bool {
    matches!(procfs::syscall(tid), Some(Syscall::Waiting { sp, .. }) if is_shallow(in_pool, seat, sp.get()))
}

/// Answers the detector's questions about the workers of one scan.
pub(crate) struct ThreadInspector<'a> {
    pub(crate) scan: &'a WorkerScan,
    pub(crate) workers: &'a Workers,
    pub(crate) examiner: &'a mut Examiner,
}

impl Inspector for ThreadInspector<'_> {
    fn blocked_in(&mut self, thread: u64) -> Option<BlockedIn> {
        let busy = self.scan.busy.get(&thread)?;
        let at = procfs::syscall(busy.tid)?;
        let Syscall::Waiting { call, sp, ip } = at else { return None };
        let mut hasher = DefaultHasher::new();
        (call, sp, ip, procfs::ran(busy.tid)).hash(&mut hasher);
        // What was read is true only of a thread that has not run since it was observed.
        let is_current = busy.identity.is_current(&busy.state);
        let is_shallow = is_shallow(&self.scan.pools[busy.pool], &busy.identity.seat, sp.get());
        is_current.then(|| BlockedIn { digest: hasher.finish(), in_call: call.is_some(), is_shallow })
    }

    fn keeps_its_worker(&mut self, thread: u64) -> bool {
        let Some(busy) = self.scan.busy.get(&thread) else { return false };
        let in_pool = &self.scan.pools[busy.pool];
        in_pool.certain.get_or_init(|| self.workers.certain(in_pool)).contains(&thread)
    }

    fn run_delay(&mut self, thread: u64) -> u64 {
        self.scan.busy.get(&thread).and_then(|busy| procfs::run_delay(busy.tid)).unwrap_or(0)
    }

    fn location(&mut self, thread: u64) -> Option<u64> {
        let busy = self.scan.busy.get(&thread)?;
        let parked = self.workers.parked_stacks.get(&self.scan.pools[busy.pool].pool.id)?.as_ref().ok()?;
        let running = BlockedWorker { cpu: None, ..busy.identity.clone() };
        let addresses = self.examiner.addresses(&busy.state, &StallIdentity::Worker(running))?;
        // Both stacks have the functions down to the worker's loop. What follows is the task's,
        // where the worker does not park.
        let common = addresses.iter().zip(parked.iter()).take_while(|(here, there)| here == there).count();
        let task = addresses.get(common..).filter(|task| task.len() > LOCATION_DEPTH)?;
        let mut hasher = DefaultHasher::new();
        task[..LOCATION_DEPTH].hash(&mut hasher);
        Some(hasher.finish())
    }
}
