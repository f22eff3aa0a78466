//! The current meter: that of the watchdog which watches the runtime of the calling thread, for
//! callers that were given no watchdog.
//!
//! Each thread caches its answer, together with the generation number of the process. The number
//! changes when a watchdog starts or stops, and when a runtime becomes watched. While it is the
//! same, an answer takes no lock: it compares the number and the runtime with those of the cache.
//!
//! An answer depends on the runtime of the caller ([`AnswerScope`]), which tokio's handle
//! identifies. It does not where no watchdog runs, or where the only one is process-wide.
//!
//! The spans of a thread belong to the poll that it is in. So within a measured poll they are
//! recorded for the meter of that poll ([`meter_id`]), whichever runtime is entered there.

#[cfg(feature = "spans")]
use std::cell::Cell;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::{Handle, Id};

use crate::measure::runtime::meter::Meter;
use crate::measure::thread;
use crate::util::lock;

/// The meter of a watchdog that runs.
#[derive(Clone)]
struct RunningMeter {
    id: u64,
    meter: Weak<Meter>,
    /// The meter also serves threads and runtimes that no watchdog watches.
    is_process_wide: bool,
}

/// The meters of all watchdogs that run, in the order of their starts.
static RUNNING: Mutex<Vec<RunningMeter>> = Mutex::new(Vec::new());

/// The generation number before the first watchdog starts. No answer is of generation 0.
const FIRST_GENERATION: u64 = 1;

/// The generation number.
static GENERATION: AtomicU64 = AtomicU64::new(FIRST_GENERATION);

/// The part of the process that an answer holds for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerScope {
    /// All threads: no watchdog runs, or the only one is process-wide.
    Process,
    /// Threads within this runtime of tokio's, which a watchdog watches.
    Watched(Id),
    /// Threads within this runtime, which no watchdog watches, or outside of any (`None`).
    Unwatched { runtime: Option<Id>, measuring: Option<u64> },
}

impl AnswerScope {
    /// Returns whether the calling thread is within the scope.
    fn is_current(self) -> bool {
        match self {
            AnswerScope::Process => true,
            AnswerScope::Watched(runtime) => current_runtime() == Some(runtime),
            AnswerScope::Unwatched { runtime, measuring } => {
                let current = current_runtime();
                current == runtime && thread::measuring_meter_within(current) == measuring
            }
        }
    }
}

/// Returns tokio's id of the runtime that the calling thread is in. This changes the reference
/// count of the runtime twice, which all its threads share: tokio has no other function for it.
fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// The answer that a thread caches.
#[derive(Clone)]
struct CachedMeter {
    generation: u64,
    scope: AnswerScope,
    /// The id of the meter, 0 for none.
    #[cfg(feature = "spans")]
    id: u64,
    meter: Weak<Meter>,
}

impl CachedMeter {
    /// No answer, which is never valid.
    const NONE: CachedMeter = CachedMeter {
        generation: 0,
        scope: AnswerScope::Process,
        #[cfg(feature = "spans")]
        id: 0,
        meter: Weak::new(),
    };

    fn is_valid(&self) -> bool {
        self.generation == generation() && self.scope.is_current()
    }
}

thread_local! {
    static CACHED: RefCell<CachedMeter> = const { RefCell::new(CachedMeter::NONE) };
}

/// Returns the generation number. As long as it stays the same, so does the answer for each
/// runtime.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Invalidates all cached answers, after a change that they depend on.
pub(crate) fn invalidate() {
    GENERATION.fetch_add(1, Ordering::Release);
}

/// Adds the meter of a watchdog that has started.
pub(crate) fn register(meter: &Arc<Meter>) {
    lock(&RUNNING).push(RunningMeter { id: meter.id, meter: Arc::downgrade(meter), is_process_wide: false });
    invalidate();
}

/// Lets a registered meter serve the whole process.
#[cfg(feature = "macros")]
pub(crate) fn make_process_wide(meter: &Meter) {
    for running in lock(&RUNNING).iter_mut().filter(|running| running.id == meter.id) {
        running.is_process_wide = true;
    }
    invalidate();
}

/// Removes the meter of a watchdog that stops.
pub(crate) fn deregister(meter: &Meter) {
    lock(&RUNNING).retain(|running| running.id != meter.id);
    invalidate();
}

/// The reason why a thread has no current meter.
#[cfg(feature = "tower")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMeter {
    /// No watchdog was started in this process.
    NeverStarted,
    /// All watchdogs have stopped.
    Stopped,
    /// Watchdogs run, and none of them watches the thread's runtime.
    ElsewhereOnly,
}

/// Returns why [`meter`] has returned `None`.
#[cfg(feature = "tower")]
#[cold]
pub(crate) fn why_no_meter() -> NoMeter {
    match (lock(&RUNNING).is_empty(), generation()) {
        (false, _) => NoMeter::ElsewhereOnly,
        (true, FIRST_GENERATION) => NoMeter::NeverStarted,
        (true, _) => NoMeter::Stopped,
    }
}

/// Returns the current meter. `None` when no watchdog watches the runtime of the calling thread,
/// and none is process-wide.
pub(crate) fn meter() -> Option<Arc<Meter>> {
    answer(|cached| cached.meter.upgrade())
}

/// Returns the id of the meter for the spans of the calling thread: that of the measured poll that
/// the thread is in, or else that of [`meter`].
///
/// Within a measured poll this writes to no shared memory. Elsewhere it costs what [`meter`] does,
/// unless the only watchdog is process-wide.
#[cfg(feature = "spans")]
pub(crate) fn meter_id() -> Option<u64> {
    match thread::measuring_meter() {
        Some(id) if is_running(id) => Some(id),
        _ => answer(|cached| Some(cached.id).filter(|id| *id != 0)),
    }
}

/// Returns the meter with this id, if its watchdog runs.
#[cfg(feature = "spans")]
#[cold]
pub(crate) fn meter_with_id(id: u64) -> Option<Arc<Meter>> {
    lock(&RUNNING).iter().find(|running| running.id == id)?.meter.upgrade()
}

/// Returns whether the watchdog of a meter runs. Each thread caches the last meter that does.
#[cfg(feature = "spans")]
#[inline]
fn is_running(id: u64) -> bool {
    thread_local! {
        static LAST: Cell<LastRunning> = const { Cell::new(LastRunning { generation: 0, id: 0 }) };
    }
    let now = LastRunning { generation: generation(), id };
    if LAST.get() == now {
        return true;
    }
    let is_running = lock(&RUNNING).iter().any(|running| running.id == id);
    if is_running {
        LAST.set(now);
    }
    is_running
}

/// A meter whose watchdog was running in a generation.
#[cfg(feature = "spans")]
#[derive(Clone, Copy, PartialEq, Eq)]
struct LastRunning {
    generation: u64,
    id: u64,
}

/// Reads the calling thread's answer, and renews it before if it is out of date.
#[inline]
fn answer<R>(read: impl Fn(&CachedMeter) -> Option<R>) -> Option<R> {
    let cached = CACHED.try_with(|cached| {
        let cached = cached.try_borrow().ok()?;
        cached.is_valid().then(|| read(&cached))
    });
    match cached {
        Ok(Some(answer)) => answer,
        _ => {
            let found = find();
            let answer = read(&found);
            store(found);
            answer
        }
    }
}

#[cold]
#[inline(never)]
fn find() -> CachedMeter {
    // Read before the list: a change of the list makes the answer invalid.
    let generation = generation();
    // A copy, because the list must not be locked while another lock is taken.
    let running = lock(&RUNNING).clone();
    let (scope, found) = match &running[..] {
        [] => (AnswerScope::Process, None),
        [only] if only.is_process_wide => (AnswerScope::Process, Some(only)),
        several => find_by_runtime(several),
    };
    CachedMeter {
        generation,
        scope,
        #[cfg(feature = "spans")]
        id: found.map_or(0, |found| found.id),
        meter: found.map_or_else(Weak::new, |found| found.meter.clone()),
    }
}

/// Returns the meter for the calling thread's runtime: the latest that watches it. For a runtime
/// that none watches it is the meter of the poll that the thread is in, or else the latest that is
/// process-wide.
fn find_by_runtime(running: &[RunningMeter]) -> (AnswerScope, Option<&RunningMeter>) {
    let latest = |is: &dyn Fn(&RunningMeter) -> bool| running.iter().rev().find(|running| is(running));
    let watches = |running: &RunningMeter, runtime: Id| {
        running.meter.upgrade().is_some_and(|meter| meter.runtimes.find(runtime).is_some())
    };
    let runtime = current_runtime();
    if let Some(id) = runtime
        && let Some(found) = latest(&|running| watches(running, id))
    {
        return (AnswerScope::Watched(id), Some(found));
    }
    let measuring = thread::measuring_meter_within(runtime);
    let found = measuring.and_then(|id| latest(&|running| running.id == id));
    let found = found.or_else(|| latest(&|running| running.is_process_wide));
    (AnswerScope::Unwatched { runtime, measuring }, found)
}

#[cold]
#[inline(never)]
fn store(found: CachedMeter) {
    let previous =
        CACHED.try_with(|cached| cached.try_borrow_mut().ok().map(|mut cached| std::mem::replace(&mut *cached, found)));
    // It may own the last reference to the memory of a meter, so it is dropped after the borrow.
    drop(previous);
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::entry::future::Watched;
    use crate::model::time::Nanos;

    /// Calls `f`, and again where a test of another thread has changed the generation meanwhile.
    fn within_one_generation<R>(f: impl Fn() -> R) -> R {
        loop {
            let before = generation();
            let result = f();
            if generation() == before {
                return result;
            }
        }
    }

    /// A request is named before its measured poll, and its handler asks within the poll.
    #[test]
    fn the_answer_for_a_watched_runtime_stays_cached_within_and_outside_of_polls() {
        let meter = Meter::of(Nanos(1), 10);
        register(&meter);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        meter.runtimes.find_or_attach(runtime.handle(), &meter).unwrap();
        let is_cached = || CACHED.with(|cached| cached.borrow().is_valid());
        let cached = within_one_generation(|| {
            let _context = runtime.enter();
            assert!(super::meter().is_some_and(|found| found.id == meter.id));
            let within = runtime.block_on(Watched::new(&meter, async {
                assert!(thread::measuring_meter_within(Some(runtime.handle().id())).is_some());
                let within = is_cached();
                assert!(super::meter().is_some_and(|found| found.id == meter.id));
                within
            }));
            [within, is_cached()]
        });
        assert_eq!(cached, [true; 2]);
        deregister(&meter);
    }
}
