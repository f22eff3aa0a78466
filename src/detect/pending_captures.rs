//! Pending captures: stacks that blocked threads copy when they return from the kernel.

use std::collections::HashMap;
use std::sync::Arc;

use pollwatch_stack::{Activity, Capture, CaptureError, Capturer, PendingCapture, RawStack, Target};

use super::identity::StallIdentity;
use super::procfs::SyscallState;
use crate::measure::thread::ThreadState;
use crate::model::id::ThreadNumber;

/// The pending captures, one at most of each thread. `pollwatch-stack` bounds their number.
#[derive(Debug, Default)]
pub(crate) struct PendingCaptures(HashMap<ThreadNumber, PendingStack>);

/// The pending capture of one stall.
#[derive(Debug)]
struct PendingStack {
    thread: Arc<ThreadState>,
    identity: StallIdentity,
    capture: PendingCapture,
}

impl PendingCaptures {
    /// Captures the stack of a blocked thread. `Ok(None)` when the capture is pending, now or since
    /// an earlier call.
    pub(crate) fn capture(
        &mut self,
        capturer: &mut Capturer,
        thread: &Arc<ThreadState>,
        identity: &StallIdentity,
        target: Target,
        state: Option<SyscallState>,
    ) -> Result<Option<RawStack>, CaptureError> {
        if let Some(result) = self.collect(capturer, thread, identity) {
            return result.map(Some);
        }
        if self.is_pending(thread, identity) {
            return Ok(None);
        }
        // A capture that is pending for an earlier stall of the thread is cancelled.
        self.0.remove(&thread.id);
        let is_current = || identity.is_current(thread);
        let captured = match activity(thread) {
            Some(activity) => capturer.capture_or_wait(target, state, &activity, is_current)?,
            None => capturer.capture_if_current(target, state, is_current).map(Capture::Taken)?,
        };
        match captured {
            Capture::Taken(stack) => Ok(Some(stack)),
            Capture::Pending(capture) => {
                let pending = PendingStack { thread: thread.clone(), identity: identity.clone(), capture };
                self.0.insert(thread.id, pending);
                Ok(None)
            }
        }
    }

    /// Returns the stack that a thread has copied since its capture was requested, for the same
    /// stall. `None` when there is no such capture, or while it is pending.
    pub(crate) fn collect(
        &mut self,
        capturer: &mut Capturer,
        thread: &ThreadState,
        identity: &StallIdentity,
    ) -> Option<Result<RawStack, CaptureError>> {
        let pending = self.0.get(&thread.id)?;
        if pending.identity.key() != identity.key() || !pending.capture.is_ready() {
            return None;
        }
        let PendingStack { capture, .. } = self.0.remove(&thread.id)?;
        let is_current = || identity.is_current(thread);
        Some(match identity {
            // The thread has copied the version of its slot. If that is another one than at the
            // request, the poll may have had frames inside that have ended since.
            StallIdentity::Poll(_) => capturer.collect(capture, is_current),
            // The slot does not show what a worker does outside of measured polls.
            StallIdentity::Worker(_) if is_current() => capturer.collect(capture, || true),
            StallIdentity::Worker(_) => Err(CaptureError::Moved),
        })
    }

    /// Cancels the captures of stalls that are over, and returns their number.
    pub(crate) fn cancel_ended(&mut self) -> usize {
        let before = self.0.len();
        self.0.retain(|_, pending| pending.identity.is_current(&pending.thread));
        before - self.0.len()
    }

    fn is_pending(&self, thread: &ThreadState, identity: &StallIdentity) -> bool {
        self.0.get(&thread.id).is_some_and(|pending| pending.identity.key() == identity.key())
    }
}

/// Returns the word that identifies what a thread polls: the version of its slot, which no two
/// polls have in common.
#[cfg(not(all(test, pollwatch_loom)))]
fn activity(thread: &Arc<ThreadState>) -> Option<Activity> {
    Some(Activity::new(thread.clone(), |thread| thread.slot.version_word()))
}

/// loom's atomics are no words in memory.
#[cfg(all(test, pollwatch_loom))]
fn activity(_thread: &Arc<ThreadState>) -> Option<Activity> {
    None
}
