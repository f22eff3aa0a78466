//! The API of `held_locks/` where stacks are not captured, or not searched for guards.

use super::RawStack;
use crate::procfs::SyscallState;
use crate::{Address, CaptureError, Frame, Holding, LockRef, Stack, StackBounds, Tid};

/// Finds no holders of locks on this platform.
#[derive(Debug, Default)]
pub struct LockSearch {}

/// A thread, and the locks that it holds. There are none on this platform.
#[derive(Clone, Debug)]
pub struct ThreadLocks {
    stack: RawStack,
}

impl LockSearch {
    /// Makes a search.
    pub fn new() -> LockSearch {
        LockSearch {}
    }

    /// Does nothing.
    pub fn preload() {}

    /// Ignores the boundary.
    #[must_use]
    pub fn with_boundary(self, _is_boundary: fn(&Frame) -> bool) -> LockSearch {
        self
    }

    /// Returns the lock that a thread waits for: unknown.
    pub fn waited_for(_stack: &Stack, _futex: Address) -> Option<LockRef> {
        None
    }

    /// Returns whether a lock is held: unknown.
    pub fn is_held(_lock: LockRef) -> Option<bool> {
        None
    }

    /// Returns the thread that holds a lock: unknown.
    pub fn owner(_lock: LockRef) -> Option<Tid> {
        None
    }

    /// Returns why no search can find anything: it needs stacks, on x86_64.
    pub fn unavailable() -> Option<&'static str> {
        Some("only on Linux with glibc, on x86_64")
    }

    /// Finds nothing.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn thread(&mut self, _tid: Tid, _stack: Option<StackBounds>) -> Result<ThreadLocks, CaptureError> {
        Err(CaptureError::Unavailable)
    }

    /// Captures nothing.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn stack(&mut self, _tid: Tid) -> Result<RawStack, CaptureError> {
        Err(CaptureError::Unavailable)
    }
}

impl ThreadLocks {
    /// Returns the state of the thread before its stack was read.
    pub fn state(&self) -> Option<SyscallState> {
        None
    }

    /// Returns the stack of the thread.
    pub fn stack(&self) -> &RawStack {
        &self.stack
    }

    /// Returns whether the thread holds a lock: unknown.
    pub fn holds(&self, _lock: LockRef) -> Holding {
        Holding::Unknown
    }
}
