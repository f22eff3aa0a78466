//! Whether a poll blocks a worker, and which.
//!
//! A poll blocks a worker as long as its thread runs that worker's index: not after `block_in_place` has handed the index
//! to another thread, and never on a thread that only called `block_on`.

use tokio::runtime::RuntimeMetrics;

use crate::measure::thread::slot::Frame;
use crate::measure::thread::{LocalHandle, ThreadState};

pub(crate) use imp::{OwnershipCache, WorkerOwners, observe};

/// The worker whose index `thread` holds right now, in the poll of `frame`, which tells what the thread itself observed at its
/// begin. Takes locks of tokio's: for the watchdog and the slow path only.
pub(crate) fn worker_of(
    metrics: &RuntimeMetrics,
    owners: &WorkerOwners,
    thread: &ThreadState,
    frame: &Frame,
) -> Option<u16> {
    imp::worker_of(metrics, owners, thread, frame)
}

/// tokio tells which thread runs which worker. But the one worker of a current-thread runtime is the thread that built it until
/// another drives it: one that only calls `Handle::block_on` has to be told apart.
#[cfg(tokio_unstable)]
mod imp {
    use super::*;
    use crate::measure::primitives::frame::MAX_RUNTIMES;
    use crate::measure::thread::slot::{Kind, What};
    use std::cell::Cell;

    /// The runtimes that wrappers have polled for on this thread, a bit each, and those of them that are no multi-thread ones.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache {
        known: Cell<u64>,
        single: Cell<u64>,
    }

    impl OwnershipCache {
        /// Another runtime may go by this id now.
        pub(crate) fn forget(&self, runtime: u16) {
            self.known.set(self.known.get() & !(1 << runtime));
        }
    }

    const _: () = assert!(MAX_RUNTIMES <= u64::BITS as usize);

    /// The thread does not drive the runtime.
    const NOT_DRIVING: u64 = 1;

    /// For wrappers: the polls that the hooks see are a driving thread's.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: u16, _nested: bool) -> Option<u64> {
        let bit = 1 << runtime;
        if thread.place.known.get() & bit == 0 {
            learn(thread, runtime);
        }
        let is_guest = thread.place.single.get() & bit != 0 && tokio::runtime::worker_index().is_none();
        Some(if is_guest { NOT_DRIVING } else { 0 })
    }

    #[cold]
    #[inline(never)]
    fn learn(thread: &LocalHandle, runtime: u16) {
        let OwnershipCache { known, single } = &thread.place;
        known.set(known.get() | 1 << runtime);
        let is_single = thread.runtime(runtime).is_some_and(|entry| !entry.is_multi_thread());
        single.set(single.get() & !(1 << runtime) | u64::from(is_single) << runtime);
    }

    /// tokio tells who holds a worker.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerOwners;

    impl WorkerOwners {
        pub(crate) fn of(_workers: usize) -> WorkerOwners {
            WorkerOwners
        }
    }

    pub(super) fn worker_of(
        metrics: &RuntimeMetrics,
        _owners: &WorkerOwners,
        thread: &ThreadState,
        frame: &Frame,
    ) -> Option<u16> {
        // The frame of a task has what the last wrapper's left there.
        if frame.place == NOT_DRIVING && What::unpack(frame.what).kind == Kind::Watched {
            return None;
        }
        (0..metrics.num_workers())
            .find(|&worker| metrics.worker_thread_id(worker) == Some(thread.thread))
            .and_then(|worker| u16::try_from(worker).ok())
    }
}

/// Stable tokio tells a thread its own worker index, and how long a worker was busy (published at a park, which looking for work
/// comes before, and every 61 ticks). That cannot move during a poll of the worker's: when it has, another thread has the index.
/// One that got it and went straight into a long poll of its own is told by that poll, where it is watched; where it is not, it is
/// not told apart until that ends.
#[cfg(not(tokio_unstable))]
mod imp {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The runtime that this thread last polled for; no lock in a poll. A worker of a multi-thread runtime ends with it, so nothing
    /// is kept alive.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache(RefCell<Option<Cached>>);

    impl OwnershipCache {
        /// Another runtime may go by this id now.
        pub(crate) fn forget(&self, runtime: u16) {
            if let Ok(mut cached) = self.0.try_borrow_mut() {
                cached.take_if(|cached| cached.runtime == runtime);
            }
        }
    }

    #[derive(Debug)]
    struct Cached {
        runtime: u16,
        /// How many workers it has, with its metrics if it is a multi-thread one.
        workers: usize,
        metrics: Option<RuntimeMetrics>,
        owners: WorkerOwners,
    }

    /// Which thread was in a measured poll last as each worker of a multi-thread runtime: who was in one before has handed it on,
    /// whatever is published of it. A thread writes only when it comes to a worker, else it reads.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerOwners(Arc<[AtomicU64]>);

    impl WorkerOwners {
        pub(crate) fn of(workers: usize) -> WorkerOwners {
            WorkerOwners((0..workers).map(|_| AtomicU64::new(0)).collect())
        }

        /// The calling thread, which has this id, polls as this worker. Comes before the poll is published: who sees that finds this.
        #[inline]
        fn take(&self, worker: usize, thread: u64) {
            // What another thread wrote is known to it: it was handed the worker after that.
            if let Some(holder) = self.0.get(worker)
                && holder.load(Ordering::Relaxed) != thread + 1
            {
                holder.store(thread + 1, Ordering::Relaxed);
            }
        }

        fn is(&self, worker: usize, thread: u64) -> bool {
            self.0.get(worker).is_none_or(|holder| holder.load(Ordering::Relaxed) == thread + 1)
        }
    }

    /// A word: worker + 1, whether its runtime is a multi-thread one, and how far the worker is.
    const WORKER_MASK: u64 = 0xffff;
    const MULTI_THREAD: u64 = 1 << 16;
    const PROGRESS_SHIFT: u32 = 17;

    /// Busy nanoseconds, the bits that the word has room for. (`as_nanos` would multiply 128 bits.)
    #[inline]
    fn progress(metrics: &RuntimeMetrics, worker: usize) -> u64 {
        let busy = metrics.worker_total_busy_duration(worker);
        (busy.as_secs() << 30 | u64::from(busy.subsec_nanos())) << PROGRESS_SHIFT
    }

    /// The worker index + 1 and, on a multi-thread runtime, how far it is at this moment; `Some(0)` off a worker.
    ///
    /// The `block_on` of a multi-thread runtime leaves the index of whatever runtime it is called on: `nested` in a poll of another
    /// one that was seen, the index is that one's. Where the outer task is not watched, that cannot be told.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: u16, nested: bool) -> Option<u64> {
        if nested && thread.runtime(runtime).is_none_or(|entry| entry.is_multi_thread()) {
            return Some(0);
        }
        Some(tokio::runtime::worker_index().and_then(|worker| place(thread, runtime, worker)).unwrap_or(0))
    }

    #[inline]
    fn place(thread: &LocalHandle, runtime: u16, worker: usize) -> Option<u64> {
        let cached = thread.place.0.try_borrow().ok()?;
        match &*cached {
            Some(cached) if cached.runtime == runtime => cached.place(worker, thread),
            _ => {
                drop(cached);
                place_cold(thread, runtime, worker)
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn place_cold(thread: &LocalHandle, runtime: u16, worker: usize) -> Option<u64> {
        let entry = thread.runtime(runtime)?;
        let metrics = if entry.is_multi_thread() { Some(entry.metrics()?) } else { None };
        let workers = metrics.as_ref().map_or(1, RuntimeMetrics::num_workers);
        let cached = Cached { runtime, workers, metrics, owners: entry.owners()? };
        let place = cached.place(worker, thread);
        *thread.place.0.try_borrow_mut().ok()? = Some(cached);
        place
    }

    impl Cached {
        #[inline]
        fn place(&self, worker: usize, thread: &LocalHandle) -> Option<u64> {
            let word = worker as u64 + 1;
            match &self.metrics {
                None => Some(word),
                Some(metrics) if worker < self.workers => {
                    self.owners.take(worker, thread.state.id);
                    Some(progress(metrics, worker) | MULTI_THREAD | word)
                }
                Some(_) => None,
            }
        }
    }

    pub(super) fn worker_of(
        metrics: &RuntimeMetrics,
        owners: &WorkerOwners,
        thread: &ThreadState,
        frame: &Frame,
    ) -> Option<u16> {
        let place = frame.place;
        let worker = (place & WORKER_MASK).checked_sub(1)?;
        // The one worker of a current-thread runtime never hands its index on.
        if worker as usize >= metrics.num_workers() {
            return None;
        }
        let kept = place & MULTI_THREAD == 0
            || owners.is(worker as usize, thread.id)
                && progress(metrics, worker as usize) == place >> PROGRESS_SHIFT << PROGRESS_SHIFT;
        kept.then_some(worker as u16)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::runtime::Builder;

    use crate::measure::entry::future::Watched;
    use crate::measure::runtime::meter::Meter;

    /// Our id, and what a poll on a thread that does not drive the runtime publishes of its place.
    fn polled_by_a_guest(meter: &std::sync::Arc<Meter>, builder: &mut Builder) -> (u16, u64) {
        let runtime = builder.build().unwrap();
        let _entered = runtime.enter();
        let inside = meter.clone();
        let place = Watched::new(meter, async move { inside.threads()[0].slot.read().unwrap().frames()[0].place });
        let std::task::Poll::Ready(place) = pin!(place).poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
        let id = meter.runtimes.find(runtime.handle().id()).unwrap().id;
        (id, place)
    }

    /// A thread remembers what a runtime is like, and the next one of its name has its id.
    #[test]
    fn the_next_runtime_of_an_id_is_not_taken_for_the_last() {
        let meter = Meter::of(1_000_000_000, 10);
        let single = polled_by_a_guest(&meter, &mut Builder::new_current_thread());
        let multi = polled_by_a_guest(&meter, Builder::new_multi_thread().worker_threads(1));
        assert_eq!(single.0, multi.0, "the id is used again");
        // In stable mode neither is on a worker.
        assert_eq!(single.1 != multi.1, cfg!(tokio_unstable), "{single:?} {multi:?}");
        assert_eq!(polled_by_a_guest(&meter, &mut Builder::new_current_thread()), single);
    }
}
