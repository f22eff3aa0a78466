//! The threads of a runtime in stable mode, and what each publishes through tokio's thread
//! callbacks: as which worker it last parked or unparked, and when.
//!
//! tokio keeps workers and the threads of `spawn_blocking` in one pool, and calls the callbacks on
//! both. Only a worker parks, so that a thread counts as a worker from its first park on. The
//! thread itself is the only writer.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use pollwatch_stack::Tid;

use crate::measure::primitives::clock::Clock;
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{self, ThreadState};
use crate::util::lock;

/// The number of threads that are listed. While there are more, nothing is certain.
const MAX_SEATS: usize = 4096;

/// The threads of one runtime. The callbacks that pollwatch installs hold it.
#[derive(Debug)]
pub(crate) struct WorkerThreads {
    /// Unique in the process.
    pub(crate) id: u64,
    meter: Weak<Meter>,
    clock: Clock,
    wake: Arc<Wake>,
    seats: Mutex<Vec<Arc<ThreadEntry>>>,
    unlisted: AtomicU64,
}

/// One thread of the pool.
#[derive(Debug)]
pub(crate) struct ThreadEntry {
    /// Unique in the process.
    pub(crate) id: u64,
    /// The kernel's thread id, where there is one.
    pub(crate) tid: Option<Tid>,
    /// The clock reading of the last park or unpark, and in the lowest bit whether it was a park; 0
    /// before the first. No two events have the same value.
    event: AtomicU64,
    /// The worker that the thread was at that event, plus 1.
    worker: AtomicU64,
    /// The state of the measured thread, from its first park on.
    state: OnceLock<Arc<ThreadState>>,
    /// The approximate stack pointer when the thread joined the pool, and when it last parked as
    /// another worker than before.
    joined: usize,
    parked: AtomicUsize,
}

/// The last park or unpark of a thread that has been a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The published value: no other event is equal.
    pub(crate) word: u64,
    pub(crate) worker: u16,
}

impl Event {
    /// Returns whether the event was a park.
    pub(crate) fn is_parked(self) -> bool {
        self.word & 1 == 1
    }

    /// Returns the clock reading of the event.
    pub(crate) fn at(self) -> u64 {
        self.word >> 1
    }
}

thread_local! {
    /// The pool's id and the thread's entry. A thread stays in one pool until it ends.
    static SEAT: RefCell<Option<(u64, Arc<ThreadEntry>)>> = const { RefCell::new(None) };
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Returns an address in the caller's stack frame.
#[inline(always)]
fn here() -> usize {
    let local = 0u8;
    std::hint::black_box(std::ptr::from_ref(&local)) as usize
}

/// Returns whether this thread has parked as a worker, and is in its pool still.
pub(crate) fn is_worker() -> bool {
    SEAT.try_with(|seat| {
        seat.try_borrow().is_ok_and(|seat| seat.as_ref().is_some_and(|(_, seat)| seat.state.get().is_some()))
    })
    .unwrap_or(false)
}

impl WorkerThreads {
    #[cfg_attr(not(all(not(tokio_unstable), target_os = "linux")), allow(dead_code))]
    pub(crate) fn new(meter: &Arc<Meter>) -> Arc<WorkerThreads> {
        Arc::new(WorkerThreads {
            id: next_id(),
            meter: Arc::downgrade(meter),
            clock: meter.clock.clone(),
            wake: meter.wake.clone(),
            seats: Mutex::default(),
            unlisted: AtomicU64::new(0),
        })
    }

    /// Adds the calling thread to the pool.
    pub(crate) fn enter(&self) {
        let seat = Arc::new(ThreadEntry {
            id: next_id(),
            tid: Tid::current(),
            event: AtomicU64::new(0),
            worker: AtomicU64::new(0),
            state: OnceLock::new(),
            joined: here(),
            parked: AtomicUsize::new(0),
        });
        {
            let mut seats = lock(&self.seats);
            if seats.len() >= MAX_SEATS {
                self.unlisted.fetch_add(1, Ordering::Relaxed);
                return;
            }
            seats.push(seat.clone());
        }
        let _ = SEAT.try_with(|own| own.replace(Some((self.id, seat))));
    }

    /// Removes the calling thread from the pool.
    pub(crate) fn leave(&self) {
        match SEAT.try_with(RefCell::take) {
            Ok(Some((_, seat))) => lock(&self.seats).retain(|other| other.id != seat.id),
            Ok(None) => {
                self.unlisted.fetch_sub(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Publishes that the calling thread is about to park, if it is a worker of this pool.
    #[inline]
    pub(crate) fn park(&self) {
        self.publish(1);
    }

    /// Publishes that the calling thread was unparked, if it is a worker of this pool, and wakes
    /// the watchdog if it sleeps.
    ///
    /// As with a poll, the store may still be in this CPU's store buffer when the flag is read: see
    /// [`Wake::fall_asleep`].
    #[inline]
    pub(crate) fn unpark(&self) {
        self.publish(0);
        compiler_fence(Ordering::SeqCst);
        self.wake.check();
    }

    #[inline]
    fn publish(&self, parked: u64) {
        let _ = SEAT.try_with(|own| {
            if let Ok(own) = own.try_borrow()
                && let Some((pool, seat)) = &*own
                && *pool == self.id
                && let Some(worker) = tokio::runtime::worker_index()
            {
                let worker = worker as u64 + 1;
                if seat.worker.load(Ordering::Relaxed) != worker {
                    self.claim_worker(seat, worker);
                }
                seat.event.store(self.clock.now().0 << 1 | parked, Ordering::Release);
            }
        });
    }

    /// Publishes another worker than before, or the first.
    #[cold]
    #[inline(never)]
    fn claim_worker(&self, seat: &ThreadEntry, worker: u64) {
        if let Some(meter) = self.meter.upgrade()
            && let Some(attached) = thread::local_handle(&meter)
        {
            let _ = seat.state.set(attached.state.clone());
        }
        seat.parked.store(here(), Ordering::Relaxed);
        // The event is 0 while the worker changes, so that no reader pairs a new worker with an old
        // event.
        seat.event.store(0, Ordering::Release);
        seat.worker.store(worker, Ordering::Release);
    }

    /// Returns the threads that are in the pool now.
    pub(crate) fn seats(&self) -> Vec<Arc<ThreadEntry>> {
        lock(&self.seats).clone()
    }

    /// Returns whether [`seats`](Self::seats) lacks a thread.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.unlisted.load(Ordering::Relaxed) > 0
    }

    /// Returns a value that changes whenever a worker parks or unparks.
    pub(crate) fn fingerprint(&self) -> u64 {
        lock(&self.seats).iter().fold(0, |sum, seat| sum.wrapping_add(seat.event.load(Ordering::Acquire)))
    }
}

impl ThreadEntry {
    /// Returns the last event; `None` for a thread that never was a worker.
    pub(crate) fn event(&self) -> Option<Event> {
        let word = self.event.load(Ordering::Acquire);
        let worker = self.worker.load(Ordering::Acquire);
        // The two belong together if the event is the same afterwards. Otherwise the thread runs,
        // and this scan reports nothing of it.
        let same = self.event.load(Ordering::Acquire) == word;
        (word != 0 && same).then_some(Event { word, worker: u16::try_from(worker.checked_sub(1)?).ok()? })
    }

    /// Returns the bytes of stack between the thread's start and a stack pointer.
    pub(crate) fn depth(&self, sp: u64) -> usize {
        self.joined.saturating_sub(sp as usize)
    }

    /// Returns the depth at which the thread parked as a worker; `None` if it never was one.
    pub(crate) fn parked_depth(&self) -> Option<usize> {
        match self.parked.load(Ordering::Relaxed) {
            0 => None,
            sp => Some(self.depth(sp as u64)),
        }
    }

    /// Returns the state of the measured thread; `None` for a thread that never was a worker, or
    /// when there are too many threads.
    pub(crate) fn state(&self) -> Option<&Arc<ThreadState>> {
        self.state.get()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn on_a_worker(f: impl FnOnce() + Send + 'static) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(runtime.spawn(async move { f() })).unwrap();
    }

    #[test]
    fn a_worker_is_known_from_its_first_park_on() {
        let meter = Meter::of(1_000_000, 10);
        let pool = WorkerThreads::new(&meter);
        let other = WorkerThreads::new(&meter);
        on_a_worker({
            let pool = pool.clone();
            move || {
                pool.enter();
                let seat = pool.seats().pop().unwrap();
                assert!(seat.event().is_none() && !is_worker());
                pool.park();
                let parked = seat.event().unwrap();
                assert!(parked.is_parked() && parked.worker == 0 && is_worker());
                assert!(seat.parked_depth().is_some() && seat.depth(here() as u64 - 4_096) > 0);
                let before = pool.fingerprint();
                pool.unpark();
                let unparked = seat.event().unwrap();
                assert!(!unparked.is_parked() && unparked.at() >= parked.at());
                assert_ne!(pool.fingerprint(), before);
                other.park();
                assert_eq!(seat.event(), Some(unparked), "another runtime that is driven on this thread");
                pool.leave();
                assert!(pool.seats().is_empty() && !is_worker());
            }
        });
    }

    #[test]
    fn no_worker_publishes_nothing() {
        let meter = Meter::of(1_000_000, 10);
        let pool = WorkerThreads::new(&meter);
        pool.enter();
        pool.park();
        assert!(pool.seats()[0].event().is_none(), "a thread of the pool that runs no worker");
        assert!(meter.threads().is_empty(), "nor is it measured");
        pool.leave();
        pool.park();
        assert!(pool.seats().is_empty());
    }

    #[test]
    fn too_many_threads_are_known_to_be_missing() {
        let pool = WorkerThreads::new(&Meter::of(1_000_000, 10));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..MAX_SEATS).for_each(|_| pool.enter());
                assert!(!pool.is_incomplete());
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.enter();
                assert!(pool.is_incomplete());
                pool.leave();
                assert!(!pool.is_incomplete());
            });
        });
    }
}
