//! The threads of a runtime in stable mode, and the last park or unpark that each has published.
//!
//! What tokio does: it runs its workers and the closures of `spawn_blocking` on the same pool of
//! threads. It calls the callbacks for the start and the end of a thread on every thread of the
//! pool, and those for a park and an unpark on a thread that runs a worker, around the park. A
//! worker is not bound to its thread: `block_in_place` hands the worker's core (the scheduler's
//! state of one worker) to another thread of the pool.
//!
//! What follows from it:
//!
//! - A thread counts as a worker from its first park or unpark on.
//! - From an unpark until the next park the thread runs that worker, or has handed its core on.
//! - A worker that blocks publishes nothing. Its last event stays an unpark, and does not change.
//!
//! What is stored: a [`ThreadEntry`] for each thread of the pool. It holds the thread's kernel id,
//! the worker index and the time of the last event, and two stack pointers, which show how much
//! stack the worker loop takes. The thread itself is the only writer of its entry.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use pollwatch_stack::{Target, Tid};

use crate::measure::primitives::clock::{Clock, Ticks};
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{self, ThreadState};
use crate::model::id::WorkerIndex;
use crate::util::lock;

/// The number of threads that are listed. While there are more, the list is incomplete and no
/// conclusion is drawn from it.
const MAX_ENTRIES: usize = 4096;

/// The threads of one runtime. The callbacks that pollwatch installs hold it.
#[derive(Debug)]
pub(crate) struct WorkerThreads {
    /// Unique in the process.
    pub(crate) id: u64,
    meter: Weak<Meter>,
    clock: Clock,
    wake: Arc<Wake>,
    entries: Mutex<Vec<Arc<ThreadEntry>>>,
    /// The number of living threads that are not in `entries`.
    unlisted: AtomicU64,
}

/// One thread of the pool.
#[derive(Debug)]
pub(crate) struct ThreadEntry {
    /// Unique in the process.
    pub(crate) id: u64,
    /// The kernel's thread id, where there is one.
    pub(crate) tid: Option<Tid>,
    /// The thread's name.
    pub(crate) name: Arc<str>,
    /// The thread as the target of captures, where stacks can be captured.
    target: Option<Target>,
    /// `true` once the thread has ended, or is about to. Its ids may be those of another thread
    /// then, and its stack may be unmapped.
    has_ended: AtomicBool,
    /// The last event, as [`ParkEvent::packed`] has it; 0 before the first one.
    event: AtomicU64,
    /// The worker index at that event, plus 1.
    worker: AtomicU64,
    /// The state of the measured thread, from its first park on.
    state: OnceLock<Arc<ThreadState>>,
    /// The approximate stack pointer when the thread started.
    start_sp: usize,
    /// The approximate stack pointer at the first event as the current worker; 0 before that.
    parked_sp: AtomicUsize,
}

/// The last park or unpark of a thread that has been a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParkEvent {
    /// The clock reading of the event, shifted left by one, with the lowest bit set for a park.
    /// Unique among the events of a thread.
    pub(crate) packed: u64,
    /// The index of the worker that the thread ran.
    pub(crate) worker: WorkerIndex,
}

impl ParkEvent {
    /// Returns whether the event was a park.
    pub(crate) fn is_parked(self) -> bool {
        self.packed & 1 == 1
    }

    /// Returns the clock reading of the event.
    pub(crate) fn at(self) -> Ticks {
        Ticks(self.packed >> 1)
    }
}

/// The registration of a thread with its runtime.
struct Registration {
    /// The id of the [`WorkerThreads`] that lists the thread.
    worker_threads: u64,
    entry: Arc<ThreadEntry>,
}

thread_local! {
    /// The registration of this thread. A thread stays in one pool until it ends.
    static REGISTRATION: RefCell<Option<Registration>> = const { RefCell::new(None) };
}

/// The entries of a thread that are to know of its end.
struct OwnEntries(RefCell<Vec<Weak<ThreadEntry>>>);

thread_local! {
    static OWN_ENTRIES: OwnEntries = const { OwnEntries(RefCell::new(Vec::new())) };
}

impl Drop for OwnEntries {
    fn drop(&mut self) {
        let entries = self.0.get_mut().iter().filter_map(Weak::upgrade);
        entries.for_each(|entry| entry.has_ended.store(true, Ordering::Release));
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Returns an address in the caller's stack frame.
#[inline(always)]
fn stack_pointer() -> usize {
    let local = 0u8;
    std::hint::black_box(std::ptr::from_ref(&local)) as usize
}

/// Returns whether this thread is listed and has published a park or unpark as a worker.
pub(crate) fn is_worker() -> bool {
    let has_state = |registration: &Registration| registration.entry.state.get().is_some();
    REGISTRATION
        .try_with(|registration| registration.try_borrow().is_ok_and(|own| own.as_ref().is_some_and(has_state)))
        .unwrap_or(false)
}

impl WorkerThreads {
    pub(crate) fn new(meter: &Arc<Meter>) -> Arc<WorkerThreads> {
        Arc::new(WorkerThreads {
            id: next_id(),
            meter: Arc::downgrade(meter),
            clock: meter.clock.clone(),
            wake: meter.wake.clone(),
            entries: Mutex::default(),
            unlisted: AtomicU64::new(0),
        })
    }

    /// Lists the calling thread, which has just started.
    pub(crate) fn register(&self) {
        let entry = ThreadEntry::current();
        {
            let mut entries = lock(&self.entries);
            if entries.len() >= MAX_ENTRIES {
                self.unlisted.fetch_add(1, Ordering::Relaxed);
                return;
            }
            entries.push(entry.clone());
        }
        let _ = REGISTRATION.try_with(|own| own.replace(Some(Registration { worker_threads: self.id, entry })));
    }

    /// Removes the calling thread, which is about to end, from the list.
    pub(crate) fn unregister(&self) {
        match REGISTRATION.try_with(RefCell::take) {
            Ok(Some(own)) => {
                own.entry.has_ended.store(true, Ordering::Release);
                lock(&self.entries).retain(|other| other.id != own.entry.id);
            }
            Ok(None) => {
                self.unlisted.fetch_sub(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Publishes that the calling thread is about to park, if it runs a worker of this runtime.
    #[inline]
    pub(crate) fn publish_park(&self) {
        self.publish(true);
    }

    /// Publishes that the calling thread was unparked, if it runs a worker of this runtime, and
    /// wakes the watchdog if it sleeps.
    ///
    /// As with a poll, the store may still be in this CPU's store buffer when the flag is read: see
    /// [`Wake::fall_asleep`].
    #[inline]
    pub(crate) fn publish_unpark(&self) {
        self.publish(false);
        compiler_fence(Ordering::SeqCst);
        self.wake.check();
    }

    #[inline]
    fn publish(&self, is_park: bool) {
        let _ = REGISTRATION.try_with(|own| {
            if let Ok(own) = own.try_borrow()
                && let Some(Registration { worker_threads, entry }) = &*own
                && *worker_threads == self.id
                && let Some(worker) = tokio::runtime::worker_index()
            {
                let worker = worker as u64 + 1;
                if entry.worker.load(Ordering::Relaxed) != worker {
                    self.claim_worker(entry, worker);
                }
                entry.event.store(self.clock.now().0 << 1 | u64::from(is_park), Ordering::Release);
            }
        });
    }

    /// Publishes that the calling thread runs another worker than before, or its first one.
    #[cold]
    #[inline(never)]
    fn claim_worker(&self, entry: &ThreadEntry, worker: u64) {
        if let Some(meter) = self.meter.upgrade()
            && let Some(attached) = thread::local_handle(&meter)
        {
            let _ = entry.state.set(attached.state.clone());
        }
        entry.parked_sp.store(stack_pointer(), Ordering::Relaxed);
        // The event is 0 while the worker changes, so that no reader pairs a new worker with an old
        // event.
        entry.event.store(0, Ordering::Release);
        entry.worker.store(worker, Ordering::Release);
    }

    /// Returns the listed threads.
    pub(crate) fn entries(&self) -> Vec<Arc<ThreadEntry>> {
        lock(&self.entries).clone()
    }

    /// Returns whether [`entries`](Self::entries) lacks a thread, because there are too many.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.unlisted.load(Ordering::Relaxed) > 0
    }

    /// Returns a value that changes whenever a worker parks or unparks.
    pub(crate) fn fingerprint(&self) -> u64 {
        lock(&self.entries).iter().fold(0, |sum, entry| sum.wrapping_add(entry.event.load(Ordering::Acquire)))
    }
}

impl ThreadEntry {
    /// Returns an entry for the calling thread, which has published nothing.
    pub(crate) fn current() -> Arc<ThreadEntry> {
        let thread = std::thread::current();
        Arc::new(ThreadEntry {
            start_sp: stack_pointer(),
            ..ThreadEntry::new(Tid::current(), thread.name().unwrap_or("unnamed").into(), Target::current())
        })
    }

    /// Returns an entry for a measured thread that publishes nothing.
    #[cfg(tokio_unstable)]
    pub(crate) fn of(thread: &ThreadState) -> Arc<ThreadEntry> {
        let target = thread.tid.zip(thread.stack).map(|(tid, stack)| Target { tid, stack });
        Arc::new(ThreadEntry::new(thread.tid, thread.name.clone(), target))
    }

    fn new(tid: Option<Tid>, name: Arc<str>, target: Option<Target>) -> ThreadEntry {
        ThreadEntry {
            id: next_id(),
            tid,
            name,
            target,
            has_ended: AtomicBool::new(false),
            event: AtomicU64::new(0),
            worker: AtomicU64::new(0),
            state: OnceLock::new(),
            start_sp: 0,
            parked_sp: AtomicUsize::new(0),
        }
    }

    /// Returns an entry for the calling thread, which knows when the thread has ended.
    pub(super) fn current_until_end() -> Arc<ThreadEntry> {
        let entry = ThreadEntry::current();
        // A thread that is ending can no longer add to its list.
        let is_listed = OWN_ENTRIES.try_with(|own| {
            let mut own = own.0.borrow_mut();
            own.retain(|entry| entry.strong_count() > 0);
            own.push(Arc::downgrade(&entry));
        });
        entry.has_ended.store(is_listed.is_err(), Ordering::Release);
        entry
    }

    /// Returns the thread as the target of captures, until it has ended.
    pub(crate) fn target(&self) -> Option<Target> {
        self.target.filter(|_| !self.has_ended())
    }

    /// Returns whether the thread is known to have ended, or to be about to.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Returns the last event, or `None` for a thread that never was a worker.
    pub(crate) fn last_event(&self) -> Option<ParkEvent> {
        let packed = self.event.load(Ordering::Acquire);
        let worker = self.worker.load(Ordering::Acquire);
        // The worker belongs to the event if the event is the same afterwards. Otherwise the thread
        // is running, and this scan finds no event of it.
        let is_unchanged = self.event.load(Ordering::Acquire) == packed;
        let worker = WorkerIndex(u16::try_from(worker.checked_sub(1)?).ok()?);
        (packed != 0 && is_unchanged).then_some(ParkEvent { packed, worker })
    }

    /// Returns the bytes of stack between the thread's start and a stack pointer.
    pub(crate) fn depth(&self, sp: u64) -> usize {
        self.start_sp.saturating_sub(sp as usize)
    }

    /// Returns the depth at which the thread parked as a worker, or `None` if it never was one.
    pub(crate) fn parked_depth(&self) -> Option<usize> {
        match self.parked_sp.load(Ordering::Relaxed) {
            0 => None,
            sp => Some(self.depth(sp as u64)),
        }
    }

    /// Returns the state of the measured thread, or `None` for a thread that never was a worker or
    /// that was not registered with the meter because there are too many threads.
    pub(crate) fn state(&self) -> Option<&Arc<ThreadState>> {
        self.state.get()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
