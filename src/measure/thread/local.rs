//! The thread-local variables in which a thread finds its own handles.

use std::cell::{Cell, RefCell};
#[cfg(tokio_unstable)]
use std::panic::Location;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use super::LocalHandle;
#[cfg(tokio_unstable)]
use crate::measure::primitives::task_id::TaskBits;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;

/// The handles of one thread. As a rule a thread has one watchdog; further ones (tests have many)
/// are in a list. A handle stays until the thread exits or its meter is dropped, and only
/// [`LocalHandles::find_or_register`] removes one.
struct LocalHandles {
    first: RefCell<Option<Rc<LocalHandle>>>,
    others: RefCell<Vec<Rc<LocalHandle>>>,
}

/// The handle of the thread's first watchdog.
struct FirstHandle {
    /// The id of its meter, 0 for none.
    meter_id: Cell<u64>,
    handle: Cell<NonNull<LocalHandle>>,
}

impl FirstHandle {
    fn set(&self, handle: &LocalHandle) {
        self.handle.set(handle.into());
        self.meter_id.set(handle.meter_id);
    }
}

/// The last refusal to register this thread.
#[derive(Clone, Copy)]
struct Refusal {
    meter_id: u64,
    /// The number of polls for which the thread does not try to register again.
    polls_left: u32,
}

/// The number of polls after which a refused thread tries to register again, since other threads
/// may have exited. Registering takes a lock that all threads share.
const RETRY: u32 = 256;

thread_local! {
    /// A copy of `LOCAL.first`. A thread-local variable without a destructor is found by one
    /// instruction, and needs neither a borrow nor a reference count.
    static FIRST: FirstHandle = const { FirstHandle { meter_id: Cell::new(0), handle: Cell::new(NonNull::dangling()) } };
    #[cfg(tokio_unstable)]
    static LATEST_END: Cell<EndOutsidePoll> =
        const { Cell::new(EndOutsidePoll { task: TaskBits::NONE, is_counted: false }) };
    static REFUSED: Cell<Refusal> = const { Cell::new(Refusal { meter_id: 0, polls_left: 0 }) };
    static LOCAL: LocalHandles = const { LocalHandles { first: RefCell::new(None), others: RefCell::new(Vec::new()) } };
}

impl Drop for LocalHandles {
    fn drop(&mut self) {
        FIRST.with(|first| first.meter_id.set(0));
    }
}

/// Returns this thread's handle to a meter, and registers the thread at its first use. Returns
/// `None` when the thread is exiting, or when there are too many threads.
#[inline(always)]
pub(crate) fn local_handle(meter: &Arc<Meter>) -> Option<&LocalHandle> {
    // SAFETY: the meter is borrowed for as long as the handle, so the meter exists. The borrower is
    // a poll on this thread's stack, which returns before the thread destroys its thread-locals.
    unsafe { first(meter.id).or_else(|| find_or_register(meter.id, || Some(meter.clone()))) }
}

/// Calls `f` with this thread's handle to a runtime's meter, as [`local_handle`] finds it. `f` must
/// not call user code, nor anything that could register the thread.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn with_handle(runtime: &Runtime, f: impl FnOnce(&LocalHandle)) {
    // SAFETY: `f` does not register the thread, so no handle is removed meanwhile.
    let found =
        unsafe { first(runtime.meter_id).or_else(|| find_or_register(runtime.meter_id, || runtime.meter.upgrade())) };
    // A single call of `f`, so that it is inlined.
    if let Some(handle) = found {
        f(handle);
    }
}

/// Calls `f` with this thread's handle if it is that of the thread's first watchdog, which is found
/// without a function call. Returns `None` otherwise; the caller then uses [`with_handle`].
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn with_first_handle<R>(runtime: &Runtime, f: impl FnOnce(&LocalHandle) -> R) -> Option<R> {
    // SAFETY: as in `with_handle`.
    unsafe { first(runtime.meter_id) }.map(f)
}

/// Returns this thread's handle to a meter if it is the thread's first.
///
/// # Safety
///
/// The handle is not used after its meter is dropped, nor after the thread has destroyed its
/// thread-locals.
#[inline(always)]
unsafe fn first<'a>(meter_id: u64) -> Option<&'a LocalHandle> {
    // SAFETY: `LOCAL.first` of this thread holds the handle for as long as the caller promises. No
    // meter has the id 0.
    FIRST.with(|first| (first.meter_id.get() == meter_id).then(|| unsafe { first.handle.get().as_ref() }))
}

/// Returns this thread's handle to a meter, and registers the thread if it has none.
///
/// # Safety
///
/// As for [`first`].
#[cold]
#[inline(never)]
unsafe fn find_or_register<'a>(meter_id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<&'a LocalHandle> {
    let refused = REFUSED.get();
    if refused.meter_id == meter_id && refused.polls_left > 0 {
        REFUSED.set(Refusal { polls_left: refused.polls_left - 1, ..refused });
        return None;
    }
    let found = LOCAL.try_with(|local| local.find_or_register(meter_id, meter)).ok()??;
    // SAFETY: `LOCAL` holds a reference for as long as the caller promises.
    Some(unsafe { &*Rc::as_ptr(&found) })
}

/// The end of a task that was reported outside of a poll of the task.
#[cfg(tokio_unstable)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndOutsidePoll {
    pub(crate) task: TaskBits,
    /// The end was counted.
    pub(crate) is_counted: bool,
}

/// The latest such end on this thread, whichever runtime the task belongs to. On a runtime that is
/// shut down, tokio reports a task's end before its spawn, on the same thread. The thread need not
/// be registered by then.
#[cfg(tokio_unstable)]
pub(crate) struct LatestEnd;

#[cfg(tokio_unstable)]
impl LatestEnd {
    pub(crate) fn set(end: EndOutsidePoll) {
        LATEST_END.set(end);
    }

    /// Returns the latest end if it is that of this task.
    #[inline]
    pub(crate) fn of(task: TaskBits) -> Option<EndOutsidePoll> {
        Some(LATEST_END.get()).filter(|end| end.task == task && task != TaskBits::NONE)
    }
}

/// Returns whether the end of a task is to be ignored, because no spawn was counted for it
/// (`spawn_blocking`): this thread is not registered, and the location is not interned. The
/// function does not register the thread. It caches the last such location.
#[cfg(tokio_unstable)]
pub(crate) fn is_spawn_unknown(runtime: &Runtime, location: &'static Location<'static>) -> bool {
    thread_local! {
        static LAST: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    }
    let is_registered = |local: &LocalHandles| {
        let is_of_runtime = |handle: &Rc<LocalHandle>| handle.meter_id == runtime.meter_id;
        local.first.try_borrow().is_ok_and(|first| first.iter().any(is_of_runtime))
            || local.others.try_borrow().is_ok_and(|others| others.iter().any(is_of_runtime))
    };
    if LOCAL.try_with(is_registered).unwrap_or(false) {
        return false;
    }
    let key = (runtime.meter_id, std::ptr::from_ref(location) as usize);
    if LAST.try_with(Cell::get).is_ok_and(|last| last == key) {
        return true;
    }
    let is_unknown = runtime.meter.upgrade().is_none_or(|meter| meter.sites.find(location).is_none());
    if is_unknown {
        let _ = LAST.try_with(|last| last.set(key));
    }
    is_unknown
}

/// Returns this thread's state for a watchdog, if the thread is registered there.
#[cfg(feature = "spans")]
pub(crate) fn registered_state(meter_id: u64) -> Option<Arc<super::ThreadState>> {
    let mut found = None;
    for_each_handle(|handle| {
        if handle.meter_id == meter_id {
            found = Some(handle.state.clone());
        }
    });
    found
}

/// Returns the id of the meter that measures the poll which this thread is in. `None` as for
/// [`with_measuring_handle`].
#[cfg(feature = "spans")]
pub(crate) fn measuring_meter() -> Option<u64> {
    with_measuring_handle(|handle| handle.meter_id)
}

/// Returns the id of the meter that measures the poll which this thread is in, if that poll is of
/// the runtime with this id of tokio's. Outside of any runtime, any measured poll counts. `None` as
/// for [`with_measuring_handle`].
pub(crate) fn measuring_meter_within(runtime: Option<tokio::runtime::Id>) -> Option<u64> {
    let is_within = |handle: &LocalHandle| {
        runtime.is_none() || handle.last_runtime.get().is_some_and(|last| last.tokio_id == runtime)
    };
    with_measuring_handle(|handle| is_within(handle).then_some(handle.meter_id)).flatten()
}

/// Calls `f` with the handle whose meter measures the poll that this thread is in. Returns `None`
/// outside of measured polls, and within polls of several watchdogs, of which any may be the
/// innermost. `f` must not call user code.
fn with_measuring_handle<R>(f: impl FnOnce(&LocalHandle) -> R) -> Option<R> {
    let of_thread = |local: &LocalHandles| {
        let (first, others) = (local.first.try_borrow().ok()?, local.others.try_borrow().ok()?);
        let mut measuring = first.iter().chain(others.iter()).filter(|handle| handle.state.slot.depth() > 0);
        let handle = measuring.next()?;
        measuring.next().is_none().then(|| f(handle))
    };
    LOCAL.try_with(of_thread).ok().flatten()
}

/// Calls `f` with each of this thread's handles. `f` must not call user code.
pub(crate) fn for_each_handle(mut f: impl FnMut(&LocalHandle)) {
    let _ = LOCAL.try_with(|local| {
        if let Ok(first) = local.first.try_borrow() {
            first.iter().for_each(|handle| f(handle));
        }
        if let Ok(others) = local.others.try_borrow() {
            others.iter().for_each(|handle| f(handle));
        }
    });
}

impl LocalHandles {
    fn find_or_register(&self, meter_id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<Rc<LocalHandle>> {
        let mut others = self.others.try_borrow_mut().ok()?;
        if let Some(known) = others.iter().find(|handle| handle.meter_id == meter_id) {
            return Some(known.clone());
        }
        let meter = meter()?;
        let Some(handle) = LocalHandle::register(&meter) else {
            if REFUSED.replace(Refusal { meter_id, polls_left: RETRY }).meter_id != meter_id {
                meter.count_refused();
            }
            return None;
        };
        let handle = Rc::new(handle);
        let mut first = self.first.try_borrow_mut().ok()?;
        others.retain(|other| other.meter.strong_count() > 0);
        if first.as_ref().is_none_or(|first| first.meter.strong_count() == 0) {
            FIRST.with(|first| first.set(&handle));
            *first = Some(handle.clone());
        } else {
            others.push(handle.clone());
        }
        Some(handle)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refused_thread_is_counted_once_and_registers_later() {
        let meter = Meter::of(crate::model::time::Nanos(1), 10);
        let all: Vec<_> = std::iter::from_fn(|| meter.register_thread()).collect();
        let refused = || (0..10).all(|_| local_handle(&meter).is_none());
        assert!(refused());
        assert_eq!(meter.refused_threads(), 1);
        assert!(std::thread::scope(|scope| scope.spawn(refused).join().unwrap()));
        assert_eq!(meter.refused_threads(), 2);
        (0..2 * RETRY).for_each(|_| assert!(local_handle(&meter).is_none()));
        assert_eq!(meter.refused_threads(), 2, "it tries again, and is refused again");
        meter.retire_thread(&all[0]);
        assert!((0..=RETRY).any(|_| local_handle(&meter).is_some()));
    }
}
