//! When each task was polled last, where that is tracked. The hooks of a runtime without it know
//! nothing of this module, except that of a spawn and that of a task's end.

use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::primitives::unpolled::LastPoll;
use crate::measure::runtime::Runtime;
use crate::measure::thread::{LocalHandle, with_handle};
use crate::model::id::SiteId;

/// Adds a task of a site that is being spawned.
#[inline]
pub(super) fn spawn(thread: &LocalHandle, runtime: &Runtime, site: SiteId, task: TaskBits) {
    if let Some(polls) = &runtime.last_polls {
        polls.insert(task, LastPoll { runtime: runtime.id, site, at: thread.state.now() });
    }
}

/// Stores that a task was polled. Its frame is not popped yet.
#[inline]
pub(super) fn end_task_poll(runtime: &Runtime, task: TaskBits) {
    let Some(polls) = &runtime.last_polls else { return };
    with_handle(runtime, |thread| {
        // A poll that is too deep to be published has no frame, and pollwatch's own none.
        if let Some(top) = thread.state.slot.top().filter(|top| top.task() == task) {
            // A frame pushed at the reading 0 has no time.
            let at = top.start().max(Ticks(1));
            polls.store(task, LastPoll { runtime: runtime.id, site: thread.counters_of(top).site(), at });
        }
    });
}

/// Removes a task that has ended.
#[inline]
pub(super) fn end_task(runtime: &Runtime, task: TaskBits) {
    if let Some(polls) = &runtime.last_polls {
        polls.remove(task);
    }
}
