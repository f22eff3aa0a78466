//! Worker ownership: which worker, if any, a poll blocks.
//!
//! What tokio does: a worker is an index and a core, which is the scheduler's state of that worker.
//! The thread that owns the core runs the worker. `block_in_place` gives the core back, and another
//! thread may take it while the first one continues its poll. A thread that calls
//! `Handle::block_on` polls a future without owning a core.
//!
//! What follows from it: a poll blocks a worker for as long as its thread owns that worker's core.
//! It blocks none after another thread has taken the core, nor on a thread that only called
//! `block_on`. The thread's own observation at the start of a poll is therefore not enough: it has
//! to be checked again when the stall is reported.
//!
//! What is stored: an [`OwnershipRecord`] in the frame of each poll that a wrapper measures. It
//! holds what the thread observed at the start of the poll, as far as [`worker_of`] cannot find it
//! out later. How much that is depends on the mode; both modes are described below.

use tokio::runtime::RuntimeMetrics;

use crate::measure::primitives::frame::OwnershipRecord;
use crate::measure::thread::slot::Frame;
use crate::measure::thread::{LocalHandle, ThreadState};
use crate::model::id::{RuntimeId, WorkerIndex};

pub(crate) use imp::{OwnershipCache, WorkerOwners, observe};

/// Returns the worker that `thread` owns now, in the poll of `frame`; `None` if it owns none.
///
/// Any thread may call this. It takes locks inside tokio: for the watchdog and the slow path only.
pub(crate) fn worker_of(
    metrics: &RuntimeMetrics,
    owners: &WorkerOwners,
    thread: &ThreadState,
    frame: &Frame,
) -> Option<WorkerIndex> {
    imp::worker_of(metrics, owners, thread, frame)
}

/// Returns whether the poll of `frame` started on a worker of a multi-thread runtime, as far as the
/// frame shows it. If its thread owns none now, another thread has taken the worker over.
pub(crate) fn started_on_worker(frame: &Frame) -> bool {
    imp::started_on_worker(frame)
}

/// Ownership with `tokio_unstable`.
///
/// tokio publishes the id of the thread that runs each worker, so that [`worker_of`] reads it. One
/// case is wrong there: a current-thread runtime names the thread that built it until another
/// thread drives it. A thread that builds one and then only calls `Handle::block_on` would count as
/// its worker. So the record of a poll on a current-thread runtime says whether its thread drives
/// the runtime. Polls that the hooks report need no record: they run on a thread that does.
#[cfg(tokio_unstable)]
mod imp {
    use super::*;
    use crate::measure::primitives::frame::MAX_RUNTIMES;
    use crate::measure::thread::slot::FrameKind;
    use std::cell::Cell;

    /// A thread's knowledge of the runtimes for which wrappers have polled on it, as sets of
    /// runtime ids with a bit for each.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache {
        /// The runtimes whose flavour is known.
        known: Cell<u64>,
        /// Those of them that are current-thread runtimes.
        current_thread: Cell<u64>,
    }

    impl OwnershipCache {
        /// Drops what is cached of an id, because another runtime may have it now.
        pub(crate) fn forget(&self, runtime: RuntimeId) {
            self.known.set(self.known.get() & !(1 << runtime.0));
        }
    }

    const _: () = assert!(MAX_RUNTIMES <= u64::BITS as usize);

    /// The record of a thread that does not drive the current-thread runtime of its poll.
    const NOT_DRIVING: OwnershipRecord = OwnershipRecord(1);

    /// Returns the record for the frame of a wrapper's poll that starts now. Cost: one bit of the
    /// thread's cache, and a thread-local of tokio's for a current-thread runtime.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: RuntimeId, _nested: bool) -> OwnershipRecord {
        let bit = 1 << runtime.0;
        if thread.ownership.known.get() & bit == 0 {
            cache_flavor(thread, runtime);
        }
        let is_current_thread = thread.ownership.current_thread.get() & bit != 0;
        let is_driving = !is_current_thread || tokio::runtime::worker_index().is_some();
        if is_driving { OwnershipRecord::default() } else { NOT_DRIVING }
    }

    #[cold]
    #[inline(never)]
    fn cache_flavor(thread: &LocalHandle, runtime: RuntimeId) {
        let OwnershipCache { known, current_thread } = &thread.ownership;
        let bit = 1 << runtime.0;
        known.set(known.get() | bit);
        let is_current_thread = thread.runtime(runtime).is_some_and(|entry| !entry.is_multi_thread());
        let others = current_thread.get() & !bit;
        current_thread.set(if is_current_thread { others | bit } else { others });
    }

    /// Empty, because tokio publishes the owner of each worker.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerOwners;

    impl WorkerOwners {
        pub(crate) fn of(_workers: usize) -> WorkerOwners {
            WorkerOwners
        }
    }

    /// A poll that the hooks report starts on a worker. The record of a watched future does not
    /// show whether its poll started on a worker, or in `Handle::block_on` on another thread.
    pub(super) fn started_on_worker(frame: &Frame) -> bool {
        frame.tag.unpack().kind == FrameKind::Task
    }

    pub(super) fn worker_of(
        metrics: &RuntimeMetrics,
        _owners: &WorkerOwners,
        thread: &ThreadState,
        frame: &Frame,
    ) -> Option<WorkerIndex> {
        // The frame of a task has no record of its own: its field is that of the last wrapper's
        // frame at this depth.
        if frame.ownership == NOT_DRIVING && frame.tag.unpack().kind == FrameKind::Watched {
            return None;
        }
        (0..metrics.num_workers())
            .find(|&worker| metrics.worker_thread_id(worker) == Some(thread.thread))
            .and_then(|worker| u16::try_from(worker).ok().map(WorkerIndex))
    }
}

/// Ownership in stable mode.
///
/// tokio returns the worker of a thread only to that thread (`worker_index`), and publishes how
/// long each worker was busy. It updates the busy time when a worker parks and every 61 ticks of
/// its scheduler, never during a poll. So if the busy time of a worker changes during a poll,
/// another thread has taken its core over.
///
/// A thread that has taken the core over and is still in its first poll has not changed the busy
/// time. If that poll is measured, the thread has entered itself in [`WorkerOwners`]. Otherwise the
/// first thread counts as the owner until the poll of the second one ends.
#[cfg(not(tokio_unstable))]
mod imp {
    use super::*;
    use crate::model::id::ThreadNumber;
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The runtime for which this thread polled last, which saves a poll the lock of its entry.
    ///
    /// It keeps tokio's handle of a multi-thread runtime alive, at most for as long as the thread
    /// is a worker there: the thread ends with its runtime.
    #[derive(Debug, Default)]
    pub(crate) struct OwnershipCache(RefCell<Option<CachedRuntime>>);

    impl OwnershipCache {
        /// Drops what is cached of an id, because another runtime may have it now.
        pub(crate) fn forget(&self, runtime: RuntimeId) {
            if let Ok(mut cached) = self.0.try_borrow_mut() {
                cached.take_if(|cached| cached.runtime == runtime);
            }
        }
    }

    #[derive(Debug)]
    struct CachedRuntime {
        runtime: RuntimeId,
        /// The number of its workers.
        workers: usize,
        /// The metrics of a multi-thread runtime; `None` for a current-thread runtime.
        metrics: Option<RuntimeMetrics>,
        owners: WorkerOwners,
    }

    /// For each worker of a multi-thread runtime, the thread that was last in a measured poll as
    /// that worker: its number within the watchdog plus 1, or 0. An earlier owner has handed the
    /// core over. A thread writes only when it takes a core over.
    #[derive(Clone, Debug)]
    pub(crate) struct WorkerOwners(Arc<[AtomicU64]>);

    impl WorkerOwners {
        pub(crate) fn of(workers: usize) -> WorkerOwners {
            WorkerOwners((0..workers).map(|_| AtomicU64::new(0)).collect())
        }

        /// Records that the calling thread, which has this number, polls as this worker. This comes
        /// before the poll is published, so that a reader of the poll's frame finds the record.
        #[inline]
        fn claim(&self, worker: usize, thread: ThreadNumber) {
            // The store of the previous owner is visible here: the core was handed over after it.
            if let Some(owner) = self.0.get(worker)
                && owner.load(Ordering::Relaxed) != thread.0 + 1
            {
                owner.store(thread.0 + 1, Ordering::Relaxed);
            }
        }

        /// Returns whether a thread was the last in a measured poll as one of the workers.
        pub(crate) fn contains(&self, thread: ThreadNumber) -> bool {
            self.0.iter().any(|owner| owner.load(Ordering::Relaxed) == thread.0 + 1)
        }

        /// Returns whether no other thread has been in a measured poll as this worker since this
        /// thread was.
        fn is_owner(&self, worker: usize, thread: ThreadNumber) -> bool {
            self.0.get(worker).is_none_or(|owner| owner.load(Ordering::Relaxed) == thread.0 + 1)
        }
    }

    // The bits of a record. The lowest ones hold the worker's index plus 1, or 0 for a thread that
    // is no worker. The flag says that the runtime is multi-threaded. The others hold the worker's
    // busy time at the start of the poll.
    const WORKER_MASK: u64 = 0xffff;
    const MULTI_THREAD: u64 = 1 << 16;
    const BUSY_SHIFT: u32 = 17;

    /// Returns the busy time of a worker in its bits of a record. Only equality matters, so that
    /// the highest bits may be lost. Seconds and nanoseconds stay apart, because `as_nanos` would
    /// multiply 128 bits.
    #[inline]
    fn busy_bits(metrics: &RuntimeMetrics, worker: usize) -> u64 {
        let busy = metrics.worker_total_busy_duration(worker);
        (busy.as_secs() << 30 | u64::from(busy.subsec_nanos())) << BUSY_SHIFT
    }

    /// Returns the record for the frame of a wrapper's poll that starts now.
    ///
    /// `block_on` of a multi-thread runtime does not change the thread's worker index. So in a poll
    /// that is `nested` in one of another runtime, the index belongs to that other runtime. If the
    /// outer task is not watched, the two cases look alike.
    #[inline]
    pub(crate) fn observe(thread: &LocalHandle, runtime: RuntimeId, nested: bool) -> OwnershipRecord {
        if nested && thread.runtime(runtime).is_none_or(|entry| entry.is_multi_thread()) {
            return OwnershipRecord::default();
        }
        let record = tokio::runtime::worker_index().and_then(|worker| record_worker(thread, runtime, worker));
        record.unwrap_or_default()
    }

    #[inline]
    fn record_worker(thread: &LocalHandle, runtime: RuntimeId, worker: usize) -> Option<OwnershipRecord> {
        let cached = thread.ownership.0.try_borrow().ok()?;
        match &*cached {
            Some(cached) if cached.runtime == runtime => cached.record_worker(worker, thread),
            _ => {
                drop(cached);
                record_worker_cold(thread, runtime, worker)
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn record_worker_cold(thread: &LocalHandle, runtime: RuntimeId, worker: usize) -> Option<OwnershipRecord> {
        let entry = thread.runtime(runtime)?;
        let (metrics, owners) = entry.worker_readings()?;
        let metrics = entry.is_multi_thread().then_some(metrics);
        let workers = metrics.as_ref().map_or(1, RuntimeMetrics::num_workers);
        let cached = CachedRuntime { runtime, workers, metrics, owners };
        let record = cached.record_worker(worker, thread);
        *thread.ownership.0.try_borrow_mut().ok()? = Some(cached);
        record
    }

    impl CachedRuntime {
        /// Returns the record of a thread whose worker index is `worker`; `None` if this runtime
        /// has no such worker.
        #[inline]
        fn record_worker(&self, worker: usize, thread: &LocalHandle) -> Option<OwnershipRecord> {
            let worker_bits = worker as u64 + 1;
            match &self.metrics {
                None => Some(OwnershipRecord(worker_bits)),
                Some(metrics) if worker < self.workers => {
                    self.owners.claim(worker, thread.state.id);
                    Some(OwnershipRecord(busy_bits(metrics, worker) | MULTI_THREAD | worker_bits))
                }
                Some(_) => None,
            }
        }
    }

    pub(super) fn started_on_worker(frame: &Frame) -> bool {
        frame.ownership.0 & MULTI_THREAD != 0
    }

    pub(super) fn worker_of(
        metrics: &RuntimeMetrics,
        owners: &WorkerOwners,
        thread: &ThreadState,
        frame: &Frame,
    ) -> Option<WorkerIndex> {
        let record = frame.ownership.0;
        let worker = (record & WORKER_MASK).checked_sub(1)?;
        if worker as usize >= metrics.num_workers() {
            return None;
        }
        // The core of a current-thread runtime is never handed over within a poll.
        let is_owner = record & MULTI_THREAD == 0
            || owners.is_owner(worker as usize, thread.id)
                && busy_bits(metrics, worker as usize) == record >> BUSY_SHIFT << BUSY_SHIFT;
        is_owner.then_some(WorkerIndex(worker as u16))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use tokio::runtime::Builder;

    use crate::measure::entry::future::Watched;
    use crate::measure::primitives::frame::OwnershipRecord;
    use crate::measure::runtime::meter::Meter;
    use crate::model::id::RuntimeId;
    use crate::model::time::Nanos;

    /// Polls once on a thread that does not drive the runtime. Returns pollwatch's id of the
    /// runtime, and the record that the poll published.
    fn poll_without_driving(meter: &Arc<Meter>, builder: &mut Builder) -> (RuntimeId, OwnershipRecord) {
        let runtime = builder.build().unwrap();
        let _entered = runtime.enter();
        let inside = meter.clone();
        let record = Watched::new(meter, async move { inside.threads()[0].slot.read().unwrap().frames()[0].ownership });
        let Poll::Ready(record) = pin!(record).poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
        let id = meter.runtimes.find(runtime.handle().id()).unwrap().id;
        (id, record)
    }

    /// A thread caches the flavour of a runtime by its id, and the next runtime of that name has
    /// the same id.
    #[test]
    fn the_next_runtime_of_an_id_is_not_mistaken_for_the_last() {
        let meter = Meter::of(Nanos::from_secs(1), 10);
        let current_thread = poll_without_driving(&meter, &mut Builder::new_current_thread());
        let multi_thread = poll_without_driving(&meter, Builder::new_multi_thread().worker_threads(1));
        assert_eq!(current_thread.0, multi_thread.0, "the id is used again");
        // In stable mode the thread is no worker of either.
        let differ = current_thread.1 != multi_thread.1;
        assert_eq!(differ, cfg!(tokio_unstable), "{current_thread:?} {multi_thread:?}");
        assert_eq!(poll_without_driving(&meter, &mut Builder::new_current_thread()), current_thread);
    }
}
