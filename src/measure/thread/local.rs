//! How a thread finds its own handle.

use std::cell::{Cell, RefCell};
#[cfg(tokio_unstable)]
use std::panic::Location;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use super::LocalHandle;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;

/// The handles of one thread. A thread serves one watchdog as a rule; further ones (tests have
/// many) are in a list. A handle stays until the thread exits or its meter is gone, and only
/// [`Local::find_or_register`] removes one.
struct Local {
    first: RefCell<Option<Rc<LocalHandle>>>,
    others: RefCell<Vec<Rc<LocalHandle>>>,
}

struct First {
    id: Cell<u64>,
    handle: Cell<NonNull<LocalHandle>>,
}

impl First {
    fn set(&self, handle: &LocalHandle) {
        self.handle.set(handle.into());
        self.id.set(handle.meter_id);
    }
}

/// The number of polls after which a refused thread tries to register again, since other threads
/// may have exited. Registering takes a lock that all threads share.
const RETRY: u32 = 256;

thread_local! {
    /// The handle in `LOCAL.first` with its meter's id, or 0. A thread-local without a destructor
    /// is found by one instruction, and needs neither a borrow nor a reference count.
    static FIRST: First = const { First { id: Cell::new(0), handle: Cell::new(NonNull::dangling()) } };
    /// The meter that has refused this thread, and for how many more polls it is not asked again.
    static REFUSED: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    static LOCAL: Local = const { Local { first: RefCell::new(None), others: RefCell::new(Vec::new()) } };
}

impl Drop for Local {
    fn drop(&mut self) {
        FIRST.with(|first| first.id.set(0));
    }
}

/// Returns this thread's handle to a meter, and registers the thread at its first use. Returns
/// `None` when the thread is exiting, or when there are too many threads.
#[inline(always)]
pub(crate) fn attached(meter: &Arc<Meter>) -> Option<&LocalHandle> {
    // SAFETY: the meter is borrowed for as long as the handle, so it is not gone. The borrower is a
    // poll on this thread's stack, which returns before the thread destroys its thread-locals.
    unsafe { first(meter.id).or_else(|| find_or_register(meter.id, || Some(meter.clone()))) }
}

/// Calls `f` with this thread's handle to a runtime's meter, as [`attached`] finds it. `f` must not
/// call user code, nor anything that could register the thread.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn with(runtime: &Runtime, f: impl FnOnce(&LocalHandle)) {
    // SAFETY: `f` does not register the thread, so no handle is removed meanwhile.
    let found =
        unsafe { first(runtime.meter_id).or_else(|| find_or_register(runtime.meter_id, || runtime.meter.upgrade())) };
    // A single call of `f`, so that it is inlined.
    if let Some(attached) = found {
        f(attached);
    }
}

/// Calls `f` like [`with`] if the handle is the thread's first, without a call of its own. Returns
/// `None` otherwise.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn with_first<R>(runtime: &Runtime, f: impl FnOnce(&LocalHandle) -> R) -> Option<R> {
    // SAFETY: as in `with`.
    unsafe { first(runtime.meter_id) }.map(f)
}

/// # Safety
///
/// The handle is not used after its meter is gone, nor after the thread has destroyed its
/// thread-locals.
#[inline(always)]
unsafe fn first<'a>(id: u64) -> Option<&'a LocalHandle> {
    // SAFETY: `LOCAL.first` of this thread holds the handle for as long as the caller promises. No
    // meter has the id 0.
    FIRST.with(|first| (first.id.get() == id).then(|| unsafe { first.handle.get().as_ref() }))
}

/// # Safety
///
/// As for [`first`].
#[cold]
#[inline(never)]
unsafe fn find_or_register<'a>(id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<&'a LocalHandle> {
    match REFUSED.get() {
        (refused, left @ 1..) if refused == id => {
            REFUSED.set((id, left - 1));
            return None;
        }
        _ => {}
    }
    let found = LOCAL.try_with(|local| local.find_or_register(id, meter)).ok()??;
    // SAFETY: `LOCAL` holds a reference for as long as the caller promises.
    Some(unsafe { &*Rc::as_ptr(&found) })
}

/// Returns whether the task that ended on this thread was never spawned (`spawn_blocking`): the
/// thread is not registered, and the location is not interned. The thread is not registered for
/// that, and the last such location is cached.
#[cfg(tokio_unstable)]
pub(crate) fn is_stranger(runtime: &Runtime, place: &'static Location<'static>) -> bool {
    thread_local! {
        static LAST: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    }
    let is_registered = |local: &Local| {
        local.first.try_borrow().is_ok_and(|first| first.iter().any(|a| a.meter_id == runtime.meter_id))
            || local.others.try_borrow().is_ok_and(|others| others.iter().any(|a| a.meter_id == runtime.meter_id))
    };
    if LOCAL.try_with(is_registered).unwrap_or(false) {
        return false;
    }
    let key = (runtime.meter_id, std::ptr::from_ref(place) as usize);
    if LAST.try_with(Cell::get).is_ok_and(|last| last == key) {
        return true;
    }
    let stranger = runtime.meter.upgrade().is_none_or(|meter| meter.sites.find(place).is_none());
    if stranger {
        let _ = LAST.try_with(|last| last.set(key));
    }
    stranger
}

/// Returns this thread's state for the watchdog `id`, if it is registered there.
#[cfg(feature = "spans")]
pub(crate) fn known(id: u64) -> Option<Arc<super::ThreadState>> {
    let mut found = None;
    for_each(|attached| {
        if attached.meter_id == id {
            found = Some(attached.state.clone());
        }
    });
    found
}

/// Calls `f` with each of this thread's handles. `f` must not call user code.
pub(crate) fn for_each(mut f: impl FnMut(&LocalHandle)) {
    let _ = LOCAL.try_with(|local| {
        if let Ok(first) = local.first.try_borrow() {
            first.iter().for_each(|attached| f(attached));
        }
        if let Ok(others) = local.others.try_borrow() {
            others.iter().for_each(|attached| f(attached));
        }
    });
}

impl Local {
    fn find_or_register(&self, id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<Rc<LocalHandle>> {
        let mut others = self.others.try_borrow_mut().ok()?;
        if let Some(known) = others.iter().find(|a| a.meter_id == id) {
            return Some(known.clone());
        }
        let meter = meter()?;
        let Some(attached) = LocalHandle::new(&meter) else {
            if REFUSED.replace((id, RETRY)).0 != id {
                meter.count_refused();
            }
            return None;
        };
        let attached = Rc::new(attached);
        let mut first = self.first.try_borrow_mut().ok()?;
        others.retain(|a| a.meter.strong_count() > 0);
        if first.as_ref().is_none_or(|a| a.meter.strong_count() == 0) {
            FIRST.with(|first| first.set(&attached));
            *first = Some(attached.clone());
        } else {
            others.push(attached.clone());
        }
        Some(attached)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refused_thread_is_counted_once_and_comes_in_later() {
        let meter = Meter::of(1, 10);
        let all: Vec<_> = std::iter::from_fn(|| meter.register_thread()).collect();
        let refused = || (0..10).all(|_| attached(&meter).is_none());
        assert!(refused());
        assert_eq!(meter.refused_threads(), 1);
        assert!(std::thread::scope(|scope| scope.spawn(refused).join().unwrap()));
        assert_eq!(meter.refused_threads(), 2);
        (0..2 * RETRY).for_each(|_| assert!(attached(&meter).is_none()));
        assert_eq!(meter.refused_threads(), 2, "asked again, and still the same");
        meter.retire_thread(&all[0]);
        assert!((0..=RETRY).any(|_| attached(&meter).is_some()));
    }
}
