//! Captures that stay pending until the thread returns to user mode.
//!
//! A thread that computes in a system call (a read of cached data, a fork, an unmap) handles the
//! signal only when the call returns. Nobody waits for that. The thread copies its stack then, with
//! the value of its [`Activity`], and a later call collects the copy.

use std::fmt;

use super::{Capturer, Copied, RawStack, signal};
use crate::procfs::SyscallState;
use crate::{Activity, CaptureError, Target};

/// A capture that succeeded, or that will.
#[derive(Debug)]
pub enum Capture {
    /// The stack.
    Taken(RawStack),
    /// The thread is in the kernel, or has no CPU. It copies its stack when it next runs in user
    /// mode.
    Pending(PendingCapture),
}

/// A capture that a thread still has to answer.
///
/// Dropping it cancels the capture. The thread may still handle the signal after that, and then
/// does nothing. At most 8 captures of a process are pending at a time, each with a buffer of 512
/// KiB that is kept for later ones.
pub struct PendingCapture {
    request: signal::Pending,
    /// The value of the activity when the capture was requested.
    value: u64,
}

impl PendingCapture {
    /// Returns whether the thread has copied its stack. Costs one load.
    pub fn is_ready(&self) -> bool {
        self.request.is_answered()
    }
}

impl fmt::Debug for PendingCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCapture").field("is_ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl Capturer {
    /// Captures a stack like [`capture_if_current`](Self::capture_if_current), except that it does
    /// not wait for a thread that computes in the kernel: that capture is pending.
    ///
    /// `activity` is a word that the thread changes with each activity. A pending capture gives a
    /// stack only if the thread copied it in the activity in which it was requested.
    ///
    /// ```
    /// use pollwatch_stack::{Activity, Capture, CaptureError, Capturer, PendingCapture, RawStack};
    /// use pollwatch_stack::{Target, procfs};
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// struct Worker {
    ///     target: Target,
    ///     job: AtomicU64, // the number of the job, counted up by the worker
    /// }
    ///
    /// fn capture(capturer: &mut Capturer, worker: &Arc<Worker>) -> Result<Capture, CaptureError> {
    ///     let activity = Activity::new(worker.clone(), |worker| &worker.job);
    ///     let job = activity.value();
    ///     let state = procfs::syscall(worker.target.tid);
    ///     capturer.capture_or_wait(worker.target, state, &activity, || activity.value() == job)
    /// }
    ///
    /// // Called from time to time. There is no need to wait.
    /// fn collect(capturer: &mut Capturer, last: &mut Option<PendingCapture>) -> Option<RawStack> {
    ///     let ready = last.take_if(|pending| pending.is_ready())?;
    ///     capturer.collect(ready, || false).ok()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`capture_if_current`](Self::capture_if_current). It is [`CaptureError::Timeout`] as well
    /// while another capture of the thread is pending, and where as many are pending as may be and
    /// the thread does not answer in time.
    ///
    /// # Cost
    ///
    /// The caller waits up to 1 ms for the answer of a running thread. The thread gets one signal,
    /// and no other one as long as the capture is pending.
    pub fn capture_or_wait(
        &mut self,
        target: Target,
        state: Option<SyscallState>,
        activity: &Activity,
        is_current: impl Fn() -> bool,
    ) -> Result<Capture, CaptureError> {
        let value = activity.value();
        let copied = self.copy(target, state, Some(activity))?;
        if !is_current() {
            return Err(CaptureError::Moved);
        }
        match copied {
            Copied::Now(regs) => self.unwind(regs).map(Capture::Taken),
            // The activity had this value before and after `is_current`, so it is the current one.
            Copied::Pending(request) if activity.value() == value => {
                Ok(Capture::Pending(PendingCapture { request, value }))
            }
            Copied::Pending(_) => Err(CaptureError::Moved),
        }
    }

    /// Returns the stack of a pending capture that [is ready](PendingCapture::is_ready).
    ///
    /// `is_current` is called if the thread's activity had another value when it copied its stack.
    /// It returns whether the thread still does what it did when the capture was requested,
    /// although the value has changed. A caller that has only the value passes `|| false`.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Moved`] when the thread had turned to something else before it copied its
    /// stack. [`CaptureError::Timeout`] when the capture is not ready; it is cancelled then.
    pub fn collect(
        &mut self,
        pending: PendingCapture,
        is_current: impl FnOnce() -> bool,
    ) -> Result<RawStack, CaptureError> {
        let PendingCapture { request, value } = pending;
        let answer = request.take(&mut self.copy)?;
        if answer.value != value && !is_current() {
            return Err(CaptureError::Moved);
        }
        self.unwind(answer.regs)
    }
}
