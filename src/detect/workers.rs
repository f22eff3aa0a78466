//! The workers of stable mode as they are seen from outside, and what is asked of them: the senses of [`suspect`](super::suspect).

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pollwatch_stack::{Address, Tid};
use tokio::runtime::RuntimeMetrics;

use super::procfs::{self, SyscallState as Syscall};
use super::still::{self, Still};
use super::suspect::{Senses, Sighting, Wait};
use crate::measure::meter::Meter;
use crate::measure::pool::{Event, Pool, Seat};
use crate::measure::thread::ThreadState;
use crate::report::reporter::Reporter;
use crate::sys;

/// Threads of a pool, beside its workers, that are looked at; while there are more, nothing is certain.
const MAX_SPARE: usize = 64;
/// A stack of at most this share of what it is at a park is too short for one that runs a worker: the worker's loop is in it, and
/// within that, what it polls. What waits in the pool has next to none, a call in `spawn_blocking` a third.
const SHALLOW: (usize, usize) = (3, 5);
/// Where workers park is asked for this often (nanoseconds), until it is known.
const LEARN_EVERY: u64 = 100_000_000;
/// Functions from the worker's loop inwards that make a place: with them goes which kind of task is polled.
const DEPTH: usize = 3;

/// What is kept from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    /// By id of the seat.
    spare: HashMap<u64, Rest>,
    /// By id of the pool: the addresses in the stack of a worker that was parked, outermost first; or when to try again.
    parked: HashMap<u64, Result<Arc<[Address]>, u64>>,
}

/// A thread that is no worker, as far as is known: it may run one that was handed on, if it has run since.
#[derive(Clone, Copy, Debug)]
struct Rest {
    cpu: u64,
    /// A clock reading since which it has not run.
    since: u64,
}

/// A worker that has not parked.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    pub(crate) runtime: u16,
    pub(crate) index: u16,
    pub(crate) state: Arc<ThreadState>,
    pub(crate) still: still::Worker,
    tid: Tid,
    pool: usize,
}

/// One pool.
#[derive(Debug)]
struct Sight {
    pool: Arc<Pool>,
    /// Of all threads.
    seats: Vec<Arc<Seat>>,
    spare: Vec<Arc<Seat>>,
    /// A worker that is parked.
    parked: Option<(Arc<Seat>, Event)>,
    /// Of those that are not, the earliest reading at which one was unparked.
    earliest: u64,
    /// A stack of so many bytes runs no worker.
    shallow: usize,
    /// The threads that are its workers for certain, once somebody asks: of no worker that has not run since the look another is true.
    certain: OnceCell<HashSet<u64>>,
}

/// A look at all pools.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) busy: HashMap<u64, Busy>,
    pools: Vec<Sight>,
    /// Some worker has not parked.
    pub(crate) is_busy: bool,
    /// As [`fingerprint`] was before anything else was read.
    pub(crate) fingerprint: u64,
}

impl Look {
    /// Whether there is anything to look at.
    pub(crate) fn is_blind(&self) -> bool {
        self.pools.is_empty()
    }
}

/// Changes whenever a worker parks or unparks.
pub(crate) fn fingerprint(meter: &Meter) -> u64 {
    let pools = meter.runtimes.all().into_iter().filter_map(|runtime| runtime.pool());
    pools.fold(0, |sum, pool| sum.wrapping_add(pool.fingerprint()))
}

impl Workers {
    /// Looks at all pools: two words a thread, and the CPU clock of those that have not parked and of the spare ones.
    pub(crate) fn look(&mut self, meter: &Meter) -> Look {
        let mut look = Look { fingerprint: fingerprint(meter), ..Look::default() };
        for runtime in meter.runtimes.all() {
            let Some((pool, metrics)) = runtime.pool().zip(runtime.metrics()) else { continue };
            let seats = pool.seats();
            let (workers, spare) = sort(&seats);
            let depth = workers.iter().filter_map(|(seat, _)| seat.parked_depth()).min().unwrap_or(0);
            let shallow = depth * SHALLOW.0 / SHALLOW.1;
            let mut sight =
                Sight { pool, seats, spare, parked: None, earliest: u64::MAX, shallow, certain: OnceCell::new() };
            for (seat, event) in workers {
                if event.is_parked() {
                    sight.parked = Some((seat, event));
                    continue;
                }
                look.is_busy = true;
                sight.earliest = sight.earliest.min(event.at());
                let index = usize::from(event.worker);
                let reading = seat.state().and_then(|state| state.slot.read());
                let (Some(state), Some(reading), Some(tid)) = (seat.state().cloned(), reading, seat.tid) else {
                    continue;
                };
                if !reading.frames().is_empty() || index >= metrics.num_workers() {
                    continue;
                }
                let progress = progress(&metrics, index);
                let Some(cpu) = sys::thread_cpu_nanos(tid) else { continue };
                // Its figures are of the moment of its clock, or it goes on just now.
                if progress != self::progress(&metrics, index) {
                    continue;
                }
                let at = meter.clock.nanos(meter.clock.now());
                let mark = (event.word, reading.state);
                look.sightings.push(Sighting { thread: seat.id, mark, progress, cpu, at });
                let still = still::Worker { seat: seat.clone(), mark, cpu: Some(cpu) };
                let pool = look.pools.len();
                look.busy.insert(seat.id, Busy { runtime: runtime.id, index: event.worker, state, still, tid, pool });
            }
            look.pools.push(sight);
        }
        self.rest(meter, &look);
        look
    }

    /// Which of the spare threads have run since the look before.
    fn rest(&mut self, meter: &Meter, look: &Look) {
        let few = look.pools.iter().filter(|sight| sight.spare.len() <= MAX_SPARE);
        let spare: Vec<&Arc<Seat>> = few.flat_map(|sight| &sight.spare).collect();
        let mut now = HashMap::with_capacity(spare.len());
        for seat in spare {
            let Some(cpu) = seat.tid.and_then(sys::thread_cpu_nanos) else { continue };
            let known = self.spare.get(&seat.id).filter(|rest| rest.cpu == cpu);
            now.insert(seat.id, *known.unwrap_or(&Rest { cpu, since: meter.clock.now() }));
        }
        self.spare = now;
        self.parked.retain(|id, _| look.pools.iter().any(|sight| sight.pool.id == *id));
    }

    /// Notes where a worker of each pool parks, once; where that cannot be told, it is asked again from time to time.
    pub(crate) fn learn(&mut self, look: &Look, now: u64, reporter: &mut Reporter) {
        for sight in &look.pools {
            match self.parked.get(&sight.pool.id) {
                Some(Ok(_)) => continue,
                Some(Err(next)) if now < *next => continue,
                _ => {}
            }
            let Some((seat, event)) = &sight.parked else { continue };
            let Some(state) = seat.state() else { continue };
            let still = still::Worker { seat: seat.clone(), mark: (event.word, state.slot.state()), cpu: None };
            let addresses = reporter.addresses(state, &Still::Worker(still));
            self.parked.insert(sight.pool.id, addresses.map(Arc::from).ok_or(now + LEARN_EVERY));
        }
    }

    /// The threads that are workers for certain.
    ///
    /// Each worker's core is held by one thread, or waits for one to take it, and one that is handed on goes to a thread that holds
    /// none. The threads that are no workers, as far as is known, hold none: their stacks are too short for that, now and as long as
    /// they do not run; or they have not run since the earliest unpark of a worker that has not parked, and have taken none since.
    /// Then the holders are who they said that they are.
    fn certain(&self, sight: &Sight) -> HashSet<u64> {
        let holds_none = |seat: &Arc<Seat>| {
            let rest = self.spare.get(&seat.id);
            rest.is_some_and(|rest| rest.since <= sight.earliest)
                || seat.tid.is_some_and(|tid| waits_shallow(sight, seat, tid))
        };
        // All of this is of one moment: none of them has run since the look. Nor is one about to: a worker that was handed to it waits
        // for nothing but a CPU.
        let rests = |seat: &Arc<Seat>| {
            seat.tid.zip(self.spare.get(&seat.id)).is_some_and(|(tid, rest)| {
                sys::thread_cpu_nanos(tid) == Some(rest.cpu)
                    && matches!(procfs::syscall(tid), Some(Syscall::Waiting { .. }))
            })
        };
        let unknown = sight.spare.len() > MAX_SPARE || sight.pool.is_incomplete();
        if unknown || !sight.spare.iter().all(holds_none) || !sight.spare.iter().all(rests) {
            return HashSet::new();
        }
        // Nobody has come since, or is about to, and nobody speaks for another's worker.
        let seats = sight.pool.seats();
        let known: HashSet<u64> = sight.seats.iter().map(|seat| seat.id).collect();
        let tids: HashSet<Tid> = seats.iter().filter_map(|seat| seat.tid).collect();
        if !seats.iter().all(|seat| known.contains(&seat.id)) || procfs::is_one_starting(&tids) {
            return HashSet::new();
        }
        sort(&seats).0.into_iter().map(|(seat, _)| seat.id).collect()
    }
}

/// A worker's thread, and what it said last.
type Spoken = (Arc<Seat>, Event);

/// What the runtime publishes of a worker: parks and busy time only grow, so their sum moves with either.
fn progress(metrics: &RuntimeMetrics, worker: usize) -> u64 {
    let busy = metrics.worker_total_busy_duration(worker).as_nanos() as u64;
    metrics.worker_park_unpark_count(worker).wrapping_add(busy)
}

/// Whether a stack pointer leaves no room for a worker.
fn is_shallow(sight: &Sight, seat: &Seat, sp: u64) -> bool {
    seat.depth(sp) <= sight.shallow
}

/// The threads that are workers, as far as they say, with what they said last; and all others.
///
/// A worker is whoever spoke for it last: when another thread does, it has been handed on.
fn sort(seats: &[Arc<Seat>]) -> (Vec<Spoken>, Vec<Arc<Seat>>) {
    let mut workers: HashMap<u16, (usize, Event)> = HashMap::new();
    for (i, seat) in seats.iter().enumerate() {
        let Some(event) = seat.event() else { continue };
        match workers.get(&event.worker) {
            Some((_, other)) if other.at() >= event.at() => {}
            _ => drop(workers.insert(event.worker, (i, event))),
        }
    }
    let of_workers: HashSet<usize> = workers.values().map(|(i, _)| *i).collect();
    let spare = (0..seats.len()).filter(|i| !of_workers.contains(i)).map(|i| seats[i].clone()).collect();
    (workers.values().map(|(i, event)| (seats[*i].clone(), *event)).collect(), spare)
}

fn waits_shallow(sight: &Sight, seat: &Seat, tid: Tid) -> bool {
    matches!(procfs::syscall(tid), Some(Syscall::Waiting { sp, .. }) if is_shallow(sight, seat, sp.get()))
}

/// The senses at one look.
pub(crate) struct Eyes<'a> {
    pub(crate) look: &'a Look,
    pub(crate) workers: &'a Workers,
    pub(crate) reporter: &'a mut Reporter,
}

impl Senses for Eyes<'_> {
    fn wait(&mut self, thread: u64) -> Option<Wait> {
        let busy = self.look.busy.get(&thread)?;
        let at = procfs::syscall(busy.tid)?;
        let Syscall::Waiting { call, sp, ip } = at else { return None };
        let mut hasher = DefaultHasher::new();
        (call, sp, ip, procfs::ran(busy.tid)).hash(&mut hasher);
        // What was read is of a thread that has not run since it was sighted.
        let holds = busy.still.holds(&busy.state);
        let is_shallow = is_shallow(&self.look.pools[busy.pool], &busy.still.seat, sp.get());
        holds.then(|| Wait { digest: hasher.finish(), in_call: call.is_some(), is_shallow })
    }

    fn keeps_its_worker(&mut self, thread: u64) -> bool {
        let Some(busy) = self.look.busy.get(&thread) else { return false };
        let sight = &self.look.pools[busy.pool];
        sight.certain.get_or_init(|| self.workers.certain(sight)).contains(&thread)
    }

    fn starved(&mut self, thread: u64) -> u64 {
        self.look.busy.get(&thread).and_then(|busy| procfs::run_delay(busy.tid)).unwrap_or(0)
    }

    fn place(&mut self, thread: u64) -> Option<u64> {
        let busy = self.look.busy.get(&thread)?;
        let parked = self.workers.parked.get(&self.look.pools[busy.pool].pool.id)?.as_ref().ok()?;
        let still = still::Worker { cpu: None, ..busy.still.clone() };
        let addresses = self.reporter.addresses(&busy.state, &Still::Worker(still))?;
        // What both have is the worker's way to its loop. From there on it is the task's, where it does not park.
        let common = addresses.iter().zip(parked.iter()).take_while(|(here, there)| here == there).count();
        let task = addresses.get(common..).filter(|task| task.len() > DEPTH)?;
        let mut hasher = DefaultHasher::new();
        task[..DEPTH].hash(&mut hasher);
        Some(hasher.finish())
    }
}
