//! The way from a thread to its own state.

use std::cell::RefCell;
#[cfg(tokio_unstable)]
use std::cell::{Cell, Ref};
#[cfg(tokio_unstable)]
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use super::Attached;
use crate::measure::meter::Meter;
#[cfg(tokio_unstable)]
use crate::measure::runtime::Runtime;

/// A thread serves one watchdog as a rule; further ones (tests have many) are looked up in a list.
struct Local {
    first: RefCell<Option<Rc<Attached>>>,
    others: RefCell<Vec<Rc<Attached>>>,
}

thread_local! {
    static LOCAL: Local = const { Local { first: RefCell::new(None), others: RefCell::new(Vec::new()) } };
}

/// This thread's tie to the watchdog `id`, made at first use. `None` where that cannot be: the thread is exiting, the
/// watchdog is gone, or there are too many threads. It may be kept for the length of a poll.
#[inline(always)]
pub(crate) fn attached(id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<Rc<Attached>> {
    let found = LOCAL.try_with(|local| match local.first(id) {
        Some(first) => Some(first),
        None => local.find_or_attach(id, meter),
    });
    found.ok()?
}

/// Whether a task that ended on this thread is none that was spawned: the thread is not tied to the watchdog, and the place is
/// nobody's (`spawn_blocking`). Such a thread is not tied for that; the last such place is remembered.
#[cfg(tokio_unstable)]
pub(crate) fn is_stranger(runtime: &Runtime, place: &'static Location<'static>) -> bool {
    thread_local! {
        static LAST: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    }
    let tied = |local: &Local| {
        local.first(runtime.meter_id).is_some()
            || local.others.try_borrow().is_ok_and(|others| others.iter().any(|a| a.meter_id == runtime.meter_id))
    };
    if LOCAL.try_with(tied).unwrap_or(false) {
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

/// This thread's state for the watchdog `id`, if it is tied to it.
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

/// Calls `f` with each of this thread's ties. `f` must not call user code.
pub(crate) fn for_each(mut f: impl FnMut(&Attached)) {
    let _ = LOCAL.try_with(|local| {
        if let Ok(first) = local.first.try_borrow() {
            first.iter().for_each(|attached| f(attached));
        }
        if let Ok(others) = local.others.try_borrow() {
            others.iter().for_each(|attached| f(attached));
        }
    });
}

/// Calls `f` with what [`attached`] finds, without counting a reference. `f` must not call user code.
#[cfg(tokio_unstable)]
#[inline(always)]
pub(crate) fn with(id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>, f: impl FnOnce(&Attached)) {
    // One call of `f`, so that it is inlined. An error: the thread is exiting.
    let _ = LOCAL.try_with(|local| {
        let attached = match local.borrow_first(id) {
            Some(first) => first,
            None => match local.borrow_attached(id, meter) {
                Some(attached) => attached,
                None => return,
            },
        };
        f(&attached);
    });
}

impl Local {
    #[cfg(tokio_unstable)]
    #[inline(always)]
    fn borrow_first(&self, id: u64) -> Option<Ref<'_, Rc<Attached>>> {
        let first = self.first.try_borrow().ok()?;
        Ref::filter_map(first, |first| first.as_ref().filter(|attached| attached.meter_id == id)).ok()
    }

    #[cfg(tokio_unstable)]
    #[cold]
    #[inline(never)]
    fn borrow_attached(&self, id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<Ref<'_, Rc<Attached>>> {
        self.find_or_attach(id, meter)?;
        self.borrow_first(id).or_else(|| {
            let others = self.others.try_borrow().ok()?;
            Ref::filter_map(others, |others| others.iter().find(|attached| attached.meter_id == id)).ok()
        })
    }

    #[inline(always)]
    fn first(&self, id: u64) -> Option<Rc<Attached>> {
        self.first.try_borrow().ok()?.as_ref().filter(|attached| attached.meter_id == id).cloned()
    }

    #[cold]
    #[inline(never)]
    fn find_or_attach(&self, id: u64, meter: impl FnOnce() -> Option<Arc<Meter>>) -> Option<Rc<Attached>> {
        let mut others = self.others.try_borrow_mut().ok()?;
        if let Some(known) = others.iter().find(|a| a.meter_id == id) {
            return Some(known.clone());
        }
        let attached = Rc::new(Attached::new(&meter()?)?);
        let mut first = self.first.try_borrow_mut().ok()?;
        others.retain(|a| a.meter.strong_count() > 0);
        if first.as_ref().is_none_or(|a| a.meter.strong_count() == 0) {
            *first = Some(attached.clone());
        } else {
            others.push(attached.clone());
        }
        Some(attached)
    }
}
