//! Worker ownership: which worker, if any, a poll blocks.
//!
//! A poll blocks a worker for as long as its thread runs that worker's index. It blocks none after
//! `block_in_place` has handed the index to another thread, nor on a thread that only called
//! `block_on`.

use tokio::runtime::RuntimeMetrics;

use crate::measure::primitives::frame::OwnershipRecord;
use crate::measure::thread::slot::Frame;
use crate::measure::thread::{LocalHandle, ThreadState};
use crate::model::id::RuntimeId;

pub(crate) use imp::{OwnershipCache, WorkerOwners, observe};

/// Returns the worker whose index `thread` holds right now, in the poll of `frame`. The frame holds
/// what the thread observed when the poll started. Takes locks inside tokio: for the watchdog and
/// the slow path only.
pub(crate) fn worker_of(
    metrics: &RuntimeMetrics,
    owners: &WorkerOwners,
    thread: &ThreadState,
    frame: &Frame,
) -> Option<u16> {
    imp::worker_of(metrics, owners, thread, frame)
}

/// tokio reports which thread runs which worker. But it takes the thread that built a
/// current-thread runtime for its worker until another one drives it. So a thread that only calls
/// `Handle::block_on` must be told apart.
#[cfg(tokio_unstable)]
mod imp {
    use super::*;
    use crate::measure::primitives::frame::MAX_RUNTIMES;
    use crate::measure::thread::slot::FrameKind;
    use std::cell::Cell;

    /// The runtimes for which wrappers have polled on this thread, a bit each, and those of them
    /// that are current-thread runtimes.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache {
        known: Cell<u64>,
        single: Cell<u64>,
    }

    impl OwnershipCache {
        /// Drops what is cached of an id, because another runtime may have it now.
        pub(crate) fn forget(&self, runtime: RuntimeId) {
            self.known.set(self.known.get() & !(1 << runtime.0));
        }
    }

    const _: () = assert!(MAX_RUNTIMES <= u64::BITS as usize);

    /// The thread does not drive the runtime.
    const NOT_DRIVING: OwnershipRecord = OwnershipRecord(1);

    /// Returns what the frame of a wrapper's poll records. Polls that the hooks see need no record:
    /// they run on a thread that drives the runtime.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: RuntimeId, _nested: bool) -> Option<OwnershipRecord> {
        let bit = 1 << runtime.0;
        if thread.ownership.known.get() & bit == 0 {
            learn(thread, runtime);
        }
        let is_guest = thread.ownership.single.get() & bit != 0 && tokio::runtime::worker_index().is_none();
        Some(if is_guest { NOT_DRIVING } else { OwnershipRecord::default() })
    }

    #[cold]
    #[inline(never)]
    fn learn(thread: &LocalHandle, runtime: RuntimeId) {
        let OwnershipCache { known, single } = &thread.ownership;
        known.set(known.get() | 1 << runtime.0);
        let is_single = thread.runtime(runtime).is_some_and(|entry| !entry.is_multi_thread());
        single.set(single.get() & !(1 << runtime.0) | u64::from(is_single) << runtime.0);
    }

    /// Empty, because tokio reports the owner of a worker.
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
        // The frame of a task still has the field of the last wrapper's frame at this depth.
        if frame.ownership == NOT_DRIVING && frame.tag.unpack().kind == FrameKind::Watched {
            return None;
        }
        (0..metrics.num_workers())
            .find(|&worker| metrics.worker_thread_id(worker) == Some(thread.thread))
            .and_then(|worker| u16::try_from(worker).ok())
    }
}

/// Stable tokio reports to a thread its own worker index, and how long each worker was busy. It
/// updates the busy time only when a worker parks and every 61 ticks, never during one poll. If it
/// changed during a poll, another thread has taken over this worker index. A thread that took it
/// over and went straight into a long poll is known by that poll if it is watched; otherwise only
/// when it ends.
#[cfg(not(tokio_unstable))]
mod imp {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The runtime that this thread polled for last, which saves a poll the lock. A worker of a
    /// multi-thread runtime ends with it, so that the cache keeps nothing alive.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache(RefCell<Option<Cached>>);

    impl OwnershipCache {
        /// Drops what is cached of an id, because another runtime may have it now.
        pub(crate) fn forget(&self, runtime: RuntimeId) {
            if let Ok(mut cached) = self.0.try_borrow_mut() {
                cached.take_if(|cached| cached.runtime == runtime);
            }
        }
    }

    #[derive(Debug)]
    struct Cached {
        runtime: RuntimeId,
        /// The number of its workers.
        workers: usize,
        /// The metrics of a multi-thread runtime.
        metrics: Option<RuntimeMetrics>,
        owners: WorkerOwners,
    }

    /// For each worker of a multi-thread runtime, the thread that was last in a measured poll as
    /// it. Any thread before has handed the worker over. A thread writes only when it takes a
    /// worker over.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerOwners(Arc<[AtomicU64]>);

    impl WorkerOwners {
        pub(crate) fn of(workers: usize) -> WorkerOwners {
            WorkerOwners((0..workers).map(|_| AtomicU64::new(0)).collect())
        }

        /// Records that the calling thread, which has this id, polls as this worker. It is recorded
        /// before the poll is published, so that whoever sees the poll finds it.
        #[inline]
        fn take(&self, worker: usize, thread: u64) {
            // The store of the previous owner is visible here: the hand-over came after it.
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

    // The layout of the frame's word: worker + 1, whether the runtime is multi-threaded, busy time.
    const WORKER_MASK: u64 = 0xffff;
    const MULTI_THREAD: u64 = 1 << 16;
    const PROGRESS_SHIFT: u32 = 17;

    /// Returns the busy time of a worker, shifted into its bits of the word. (`as_nanos` would
    /// multiply 128 bits.)
    #[inline]
    fn progress(metrics: &RuntimeMetrics, worker: usize) -> u64 {
        let busy = metrics.worker_total_busy_duration(worker);
        (busy.as_secs() << 30 | u64::from(busy.subsec_nanos())) << PROGRESS_SHIFT
    }

    /// Returns the word for the frame of a poll that starts now; `Some(0)` off a worker.
    ///
    /// `block_on` of a multi-thread runtime does not change the thread's worker index. So in a poll
    /// that is `nested` in one of another runtime, the index belongs to that runtime. If the outer
    /// task is not watched, the two cannot be told apart.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: RuntimeId, nested: bool) -> Option<OwnershipRecord> {
        if nested && thread.runtime(runtime).is_none_or(|entry| entry.is_multi_thread()) {
            return Some(OwnershipRecord::default());
        }
        let word = tokio::runtime::worker_index().and_then(|worker| place(thread, runtime, worker));
        Some(OwnershipRecord(word.unwrap_or(0)))
    }

    #[inline]
    fn place(thread: &LocalHandle, runtime: RuntimeId, worker: usize) -> Option<u64> {
        let cached = thread.ownership.0.try_borrow().ok()?;
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
    fn place_cold(thread: &LocalHandle, runtime: RuntimeId, worker: usize) -> Option<u64> {
        let entry = thread.runtime(runtime)?;
        let metrics = if entry.is_multi_thread() { Some(entry.metrics()?) } else { None };
        let workers = metrics.as_ref().map_or(1, RuntimeMetrics::num_workers);
        let cached = Cached { runtime, workers, metrics, owners: entry.owners()? };
        let place = cached.place(worker, thread);
        *thread.ownership.0.try_borrow_mut().ok()? = Some(cached);
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
        let place = frame.ownership.0;
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
    use crate::measure::primitives::frame::OwnershipRecord;
    use crate::model::id::RuntimeId;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::runtime::Builder;

    use crate::measure::entry::future::Watched;
    use crate::measure::runtime::meter::Meter;

    /// Our id, and what a poll on a thread that does not drive the runtime publishes of its place.
    fn polled_by_a_guest(meter: &std::sync::Arc<Meter>, builder: &mut Builder) -> (RuntimeId, OwnershipRecord) {
        let runtime = builder.build().unwrap();
        let _entered = runtime.enter();
        let inside = meter.clone();
        let place = Watched::new(meter, async move { inside.threads()[0].slot.read().unwrap().frames()[0].ownership });
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
