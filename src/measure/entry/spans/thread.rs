//! The spans of the calling thread: what it enters and leaves goes into its span slot.
//!
//! A thread is not measured because it enters spans: pool threads do, and pollwatch's own may. Its slot is kept aside until a
//! poll ties the thread to the watchdog, and found by it from then on.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::measure::primitives::span_slot::text::Text;
use crate::measure::primitives::span_slot::{Key, Place, SpanSlot};
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::slot::Slot;
use crate::measure::thread::{self, ThreadState};
use crate::model::id::FrameNumber;

/// Spans beyond the levels that are told apart; further ones are taken to be left in the reverse order.
const APART: usize = 256;

/// A thread's spans, for one watchdog.
struct Here {
    meter_id: u64,
    meter: Weak<Meter>,
    slot: Arc<SpanSlot>,
    thread: Option<Arc<ThreadState>>,
    deep: Vec<Key>,
    deepest: usize,
}

thread_local! {
    static HERE: RefCell<Vec<Here>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with this thread's spans, if there are any; not while the thread is being destroyed. `f` must not call user code.
#[inline]
fn with(meter_id: u64, f: impl FnOnce(&mut Here)) {
    let _ = HERE.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        if let Some(here) = all.iter_mut().find(|here| here.meter_id == meter_id) {
            f(here);
        }
    });
}

/// The thread has entered a span.
#[inline]
pub(crate) fn enter(meter: &Arc<Meter>, key: Key, text: &Text) {
    let _ = HERE.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        match all.iter_mut().find(|here| here.meter_id == meter.id) {
            Some(here) => here.enter(key, text),
            None => add(&mut all, meter).enter(key, text),
        }
    });
}

/// The thread has left a span. One that is not known here was entered in an earlier poll.
#[inline]
pub(crate) fn exit(meter_id: u64, key: Key) {
    with(meter_id, |here| here.exit(key));
}

/// A span has another text: told anew where this thread is in it.
pub(crate) fn refresh(meter_id: u64, key: Key, text: &Text) {
    with(meter_id, |here| {
        if let Some(level) = here.slot.find(key) {
            here.slot.rewrite(level, text);
        }
    });
}

/// The thread is measured from now on.
pub(crate) fn hand_over(meter_id: u64, state: &Arc<ThreadState>) {
    with(meter_id, |here| here.register(state));
}

#[cold]
fn add<'a>(all: &'a mut Vec<Here>, meter: &Arc<Meter>) -> &'a mut Here {
    all.retain(|here| here.meter.strong_count() > 0);
    all.push(Here {
        meter_id: meter.id,
        meter: Arc::downgrade(meter),
        slot: Arc::new(SpanSlot::new()),
        thread: None,
        deep: Vec::new(),
        deepest: 0,
    });
    let last = all.len() - 1;
    let here = &mut all[last];
    if let Some(state) = thread::known(meter.id) {
        here.register(&state);
    }
    here
}

impl Here {
    fn register(&mut self, state: &Arc<ThreadState>) {
        // A thread is tied to a watchdog once.
        let _ = state.spans.set(self.slot.clone());
        self.thread = Some(state.clone());
    }

    #[inline]
    fn enter(&mut self, key: Key, text: &Text) {
        let poll = self.thread.as_ref().map_or(0, |thread| thread.slot.innermost_poll_number().0);
        let task = if poll == 0 { TaskBits::current().0 } else { 0 };
        // As long as the poll of the innermost span lasts, so do those of all others: they were looked through when it was entered.
        if self.slot.top_place().is_some_and(|top| top.poll != 0 && top.poll != poll) {
            self.drop_those_left_behind();
        }
        if self.deep.is_empty() && self.slot.push(key, Place { poll, task }, text) {
            return;
        }
        self.enter_deep(key);
    }

    /// Spans whose poll is over, but which were not left in it: a guard held across an await, or one that was forgotten. They are
    /// no part of the polls that follow.
    #[cold]
    #[inline(never)]
    fn drop_those_left_behind(&mut self) {
        let slot = self.thread.as_ref().map(|thread| &thread.slot);
        let before = self.slot.len();
        self.slot.retain(|_, place| {
            place.poll == 0 || slot.is_some_and(|slot: &Slot| slot.has_frame(FrameNumber(place.poll)))
        });
        if self.slot.len() < before {
            self.deep.clear();
            self.deepest = 0;
            self.slot.set_deeper(0);
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_deep(&mut self, key: Key) {
        if self.deep.len() < APART {
            self.deep.push(key);
        } else {
            self.deepest = self.deepest.saturating_add(1);
        }
        self.count_deep();
    }

    #[inline]
    fn exit(&mut self, key: Key) {
        if !self.deep.is_empty() && self.exit_deep(key) {
            return;
        }
        if let Some(level) = self.slot.find(key) {
            self.slot.remove(level);
        }
    }

    #[cold]
    #[inline(never)]
    fn exit_deep(&mut self, key: Key) -> bool {
        if self.deepest > 0 {
            self.deepest -= 1;
        } else if let Some(at) = self.deep.iter().rposition(|k| *k == key) {
            self.deep.remove(at);
        } else {
            return false;
        }
        self.count_deep();
        true
    }

    fn count_deep(&self) {
        self.slot.set_deeper(self.deep.len() + self.deepest);
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // The thread is being destroyed: what it leaves from now on is not heard of.
        self.slot.retain(|_, _| false);
        self.slot.set_deeper(0);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
