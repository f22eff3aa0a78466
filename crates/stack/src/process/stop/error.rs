use std::fmt;
use std::time::Duration;

use crate::Denial;

/// The reason why a running thread of another process gave no stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// The thread does not run, or has used no CPU time. It was not stopped.
    NotRunning,
    /// The thread was in a system call when it stopped.
    InSyscall {
        /// The time for which it was stopped.
        stopped: Duration,
        /// True if the call was made to start again, because it would have ended with `EINTR`.
        is_restarted: bool,
    },
    /// The thread got no CPU in time to stop.
    Timeout,
    /// The thread's stack could not be read within the time for which a thread may be stopped, as
    /// during a `fork`, which locks the memory of the process; or the process has started another
    /// program meanwhile (`exec`).
    Unreadable,
    /// The thread or its process has ended.
    Exited,
    /// A debugger or another tool has attached to the thread.
    AlreadyTraced,
    /// The kernel does not permit it.
    Denied(Denial),
    /// Threads of this process cannot be stopped by themselves.
    OwnProcess,
    /// The process runs a program for another kind of processor, or a 32-bit one.
    OtherArchitecture,
    /// Threads of the process were stopped for as long as the budget permits.
    OverBudget,
    /// The operating system could not make a thread, or has failed in an unexpected way.
    System(
        /// The number of the error (`errno`).
        i32,
    ),
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopError::NotRunning => f.write_str("the thread does not run"),
            StopError::InSyscall { .. } => f.write_str("the thread entered a system call"),
            StopError::Timeout => f.write_str("the thread got no CPU in time"),
            StopError::Unreadable => f.write_str("the memory of the process was locked or replaced"),
            StopError::Exited => f.write_str("the thread has ended"),
            StopError::AlreadyTraced => f.write_str("a debugger or another tool has attached to the thread"),
            StopError::Denied(denial) => write!(f, "the thread may not be stopped: {denial}"),
            StopError::OwnProcess => f.write_str("a process cannot stop its own threads"),
            StopError::OtherArchitecture => f.write_str("the thread runs 32-bit code"),
            StopError::OverBudget => f.write_str("the time for which threads may be stopped is spent"),
            StopError::System(errno) => {
                write!(f, "the thread cannot be stopped: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl std::error::Error for StopError {}
