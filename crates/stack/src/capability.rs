use std::fmt;

/// The threads whose stacks can be captured. The text is the reason for a limit.
///
/// [`capability`](crate::capability) and [`degradation`](crate::degradation) return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// All threads.
    AllThreads,
    /// Threads that wait in a system call. Some or all running threads cannot be captured.
    WaitingThreadsOnly(&'static str),
    /// Threads that run. Those that wait cannot be captured.
    RunningThreadsOnly(&'static str),
    /// None.
    Unavailable(&'static str),
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capability::AllThreads => f.write_str("all threads"),
            Capability::WaitingThreadsOnly(why) => write!(f, "only threads that wait: {why}"),
            Capability::RunningThreadsOnly(why) => write!(f, "only threads that run: {why}"),
            Capability::Unavailable(why) => write!(f, "none: {why}"),
        }
    }
}
