use std::time::Duration;

use crate::RawStack;

/// A captured stack of a thread that was running.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoppedStack {
    /// The stack.
    pub stack: RawStack,
    /// The time for which the thread was stopped: an upper bound.
    pub stopped: Duration,
}

/// What a [`Stopper`](crate::Stopper) has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopStats {
    /// The number of times that a thread was stopped.
    pub stops: u64,
    /// The time for which threads were stopped, in all.
    pub stopped: Duration,
    /// The longest time for which a thread was stopped.
    pub longest: Duration,
    /// The number of times that it was longer than 1 ms. It is so if this process gets no CPU
    /// meanwhile.
    pub longer_than_limit: u64,
    /// The number of threads that did not stop in time, and were left alone.
    pub timeouts: u64,
    /// The number of threads that had entered a system call when they stopped. No stack was taken.
    pub in_syscall: u64,
    /// The number of those system calls that were made to start again, since they would have ended
    /// with `EINTR`.
    pub restarted: u64,
    /// The number of threads whose stack could not be read while they were stopped.
    pub unread: u64,
    /// The number of captures that were refused because the budget was spent.
    pub over_budget: u64,
}
