//! The spans of the calling thread: entries and exits are recorded in its span slot.
//!
//! A thread that enters spans need not be measured: pool threads enter spans, too, and so may
//! pollwatch's own threads. So the slot is created with the thread's first span, and given to the
//! thread's [`ThreadState`], where the watchdog finds it, once the thread runs its first measured
//! poll.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::measure::primitives::span_slot::text::SpanText;
use crate::measure::primitives::span_slot::{EnteredDuring, SpanKey, SpanSlot};
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{self, ThreadState};
use crate::model::id::FrameNumber;

/// The number of excess spans whose keys are known. Spans beyond them are only counted.
const MAX_EXCESS_KEYS: usize = 256;

/// The spans of this thread for one watchdog.
///
/// The outermost spans are in the slot. Where the slot was full at the entry of a span, or `excess`
/// was not empty, the span is in `excess`. So each span in `excess` is within those in the slot.
struct ThreadSpans {
    meter_id: u64,
    meter: Weak<Meter>,
    slot: Arc<SpanSlot>,
    /// The thread's state, once the thread is measured.
    thread: Option<Arc<ThreadState>>,
    excess: ExcessSpans,
}

/// The spans that the slot has no room for. Only their number is published.
#[derive(Default)]
struct ExcessSpans {
    /// The keys of the outer ones.
    keys: Vec<SpanKey>,
    /// The number of spans within those. They are taken to be exited in the reverse order.
    untracked: usize,
}

thread_local! {
    /// The spans of this thread, by watchdog.
    static SPANS: RefCell<Vec<ThreadSpans>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with this thread's spans for a watchdog. Does nothing where the thread has entered
/// none, or while the thread's memory is being destroyed. `f` must not call the user's code, which
/// may enter spans.
#[inline]
fn with(meter_id: u64, f: impl FnOnce(&mut ThreadSpans)) {
    let _ = SPANS.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        if let Some(spans) = all.iter_mut().find(|spans| spans.meter_id == meter_id) {
            f(spans);
        }
    });
}

/// Records that this thread has entered a span. `meter` returns the meter with this id. It is
/// called at the thread's first span.
#[inline]
pub(crate) fn enter(meter_id: u64, key: SpanKey, text: &SpanText, meter: impl FnOnce() -> Option<Arc<Meter>>) {
    let _ = SPANS.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        match all.iter_mut().find(|spans| spans.meter_id == meter_id) {
            Some(spans) => spans.enter(key, text),
            None => {
                if let Some(meter) = meter().filter(|meter| meter.id == meter_id) {
                    add(&mut all, &meter).enter(key, text);
                }
            }
        }
    });
}

/// Records that this thread has exited a span. A span that is not known here was entered in an
/// earlier poll.
#[inline]
pub(crate) fn exit(meter_id: u64, key: SpanKey) {
    with(meter_id, |spans| spans.exit(key));
}

/// Records that this thread has exited a span, of whichever watchdog it was entered for.
///
/// The order of entries is known for each watchdog only. A span that this thread has entered for
/// two of them at a time is exited first for the one that has recorded spans of the thread earlier.
/// Between the two exits the watchdog of the outer entry may miss the span, and the other keep it.
#[inline]
pub(crate) fn exit_any(key: SpanKey) {
    let _ = SPANS.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        let spans = match &mut all[..] {
            [only] => Some(only),
            all => match all.iter().position(|spans| spans.has(key)) {
                Some(index) => all.get_mut(index),
                // Of spans beyond those with known keys, only the number is known.
                None => all.iter_mut().find(|spans| spans.excess.untracked > 0),
            },
        };
        if let Some(spans) = spans {
            spans.exit(key);
        }
    });
}

/// Publishes the new text of a span for each watchdog that this thread has entered it for.
pub(crate) fn update_text_anywhere(key: SpanKey, text: &SpanText) {
    let _ = SPANS.try_with(|all| {
        let Ok(all) = all.try_borrow() else { return };
        all.iter().for_each(|spans| spans.update_text(key, text));
    });
}

/// Publishes the new text of a span, if this thread is in it.
pub(crate) fn update_text(meter_id: u64, key: SpanKey, text: &SpanText) {
    with(meter_id, |spans| spans.update_text(key, text));
}

/// Gives this thread's span slot to its state, which was just created.
pub(crate) fn attach_to(state: &Arc<ThreadState>, meter_id: u64) {
    with(meter_id, |spans| spans.attach_to(state));
}

#[cold]
fn add<'a>(all: &'a mut Vec<ThreadSpans>, meter: &Arc<Meter>) -> &'a mut ThreadSpans {
    all.retain(|spans| spans.meter.strong_count() > 0);
    all.push(ThreadSpans {
        meter_id: meter.id,
        meter: Arc::downgrade(meter),
        slot: Arc::new(SpanSlot::new()),
        thread: None,
        excess: ExcessSpans::default(),
    });
    let last = all.len() - 1;
    let spans = &mut all[last];
    if let Some(state) = thread::registered_state(meter.id) {
        spans.attach_to(&state);
    }
    spans
}

impl ThreadSpans {
    fn attach_to(&mut self, state: &Arc<ThreadState>) {
        // A thread has one state for each watchdog, so nothing was set before.
        let _ = state.spans.set(self.slot.clone());
        self.thread = Some(state.clone());
    }

    #[inline]
    fn enter(&mut self, key: SpanKey, text: &SpanText) {
        let during = self.current_work();
        // While the poll of the innermost span lasts, so do the polls of all outer spans: they were
        // checked when it was entered.
        if let Some(EnteredDuring::Poll(innermost)) = self.slot.innermost_during()
            && during != EnteredDuring::Poll(innermost)
        {
            self.remove_leftovers();
        }
        if self.excess.is_empty() && self.slot.push(key, during, text) {
            return;
        }
        self.excess.push(key);
        self.publish_excess();
    }

    #[inline]
    fn current_work(&self) -> EnteredDuring {
        let poll = self.thread.as_ref().map_or(FrameNumber::NONE, |thread| thread.slot.innermost_poll_number());
        match (poll, TaskBits::current) {
            (FrameNumber::NONE, task) => match task() {
                TaskBits::NONE => EnteredDuring::NoTask,
                task => EnteredDuring::Task(task),
            },
            (poll, _) => EnteredDuring::Poll(poll),
        }
    }

    /// Removes the spans of polls that have ended. A guard that was held across an `.await`, or was
    /// forgotten, leaves such spans. They do not belong to the polls that follow.
    #[cold]
    #[inline(never)]
    fn remove_leftovers(&mut self) {
        let thread = self.thread.as_ref();
        let before = self.slot.len();
        self.slot.retain(|_, during| match during {
            EnteredDuring::Poll(number) => thread.is_some_and(|thread| thread.slot.has_frame(number)),
            EnteredDuring::Task(_) | EnteredDuring::NoTask => true,
        });
        if self.slot.len() < before {
            // The spans within a removed one were entered in the same poll, or in one within it.
            self.excess = ExcessSpans::default();
            self.publish_excess();
        }
    }

    #[inline]
    fn exit(&mut self, key: SpanKey) {
        if !self.excess.is_empty() && self.excess.remove(key) {
            self.publish_excess();
        } else if let Some(index) = self.slot.find(key) {
            self.slot.remove(index);
        }
    }

    fn has(&self, key: SpanKey) -> bool {
        self.slot.find(key).is_some() || self.excess.keys.contains(&key)
    }

    fn update_text(&self, key: SpanKey, text: &SpanText) {
        if let Some(index) = self.slot.find(key) {
            self.slot.replace_text(index, text);
        }
    }

    fn publish_excess(&self) {
        self.slot.set_excess(self.excess.len());
    }
}

impl Drop for ThreadSpans {
    fn drop(&mut self) {
        // The thread is being destroyed: from now on, exits do not arrive here.
        self.slot.retain(|_, _| false);
        self.slot.set_excess(0);
    }
}

impl ExcessSpans {
    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn len(&self) -> usize {
        self.keys.len() + self.untracked
    }

    #[cold]
    #[inline(never)]
    fn push(&mut self, key: SpanKey) {
        if self.keys.len() < MAX_EXCESS_KEYS {
            self.keys.push(key);
        } else {
            self.untracked = self.untracked.saturating_add(1);
        }
    }

    /// Removes a span. Returns `false` if it is not among these.
    #[cold]
    #[inline(never)]
    fn remove(&mut self, key: SpanKey) -> bool {
        if self.untracked > 0 {
            self.untracked -= 1;
            return true;
        }
        let index = self.keys.iter().rposition(|k| *k == key);
        index.map(|index| self.keys.remove(index)).is_some()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
