//! Stacks that threads copy when they return from the kernel, some time after the examination.

use super::Emitter;
use crate::detect::examine::Examiner;
use crate::model::event::Event;
use crate::model::id::StallId;

impl Emitter {
    /// Emits the stack that the thread of a stall has copied at its return from the kernel. It
    /// belongs to the latest examination, so that it is emitted before the next one.
    pub(super) fn emit_late_stack(&mut self, examiner: &mut Examiner, id: StallId) {
        let Some(stall) = self.ongoing.get(&id) else { return };
        if let Some(stack) = examiner.take_late_stack(&stall.thread, &stall.identity) {
            self.emit(Event::StackTaken { id, stack });
        }
    }
}
