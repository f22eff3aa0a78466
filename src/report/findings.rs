//! The findings of one examination of a stall, and the location that its stack shows. Pure.

use std::sync::Arc;

use pollwatch_stack::{Frame, Stack};

use super::kernel_share::SegmentUsage;
use crate::model::cause::{Cause, Syscall};
use crate::model::lock::{Deadlock, LockInfo};
use crate::model::pool::PoolActivity;

/// The results of one examination. They belong together, and are always shown together.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    pub(super) cause: Cause,
    pub(super) syscall: Option<Syscall>,
    pub(super) stack: Option<Stack>,
    pub(super) reason: &'static str,
    pub(super) advice: Option<&'static str>,
    pub(super) lock: Option<LockInfo>,
    pub(super) pool: Option<PoolActivity>,
    /// The thread's usage in the segment.
    pub(super) usage: SegmentUsage,
}

/// What was found about the threads that a thread waits for.
#[derive(Debug, Default)]
pub(super) struct WaitedFor {
    pub(super) lock: Option<LockInfo>,
    pub(super) pool: Option<PoolActivity>,
    /// The deadlock that was found for the first time.
    pub(super) deadlock: Option<Deadlock>,
}

impl Findings {
    /// Returns whether a later examination found the same activity. Its stack may still be of
    /// another location.
    pub(super) fn is_continued_by(&self, later: &Findings) -> bool {
        self.cause == later.cause && self.syscall == later.syscall
    }
}

pub(super) fn innermost(stack: &Stack) -> Option<&Frame> {
    stack.user_frames().first().or(stack.frames().first())
}

/// Returns whether the application's innermost function is the same in both stacks. Code that
/// computes is at another line of it in each sample.
pub(super) fn is_same_function(a: &Stack, b: &Stack) -> bool {
    let function = |stack: &Stack| innermost(stack).map(|frame| (frame.file.clone(), frame.name()));
    function(a) == function(b)
}

/// Returns the function that says where the thread is, with its line.
pub(super) fn location(stack: &Stack) -> Option<Arc<str>> {
    stack.location().map(|frame| frame.to_string().into())
}
