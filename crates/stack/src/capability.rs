use std::fmt;

/// Which threads' stacks can be captured; returned by [`capability`](crate::capability) and
/// [`degradation`](crate::degradation). The text is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// All threads.
    AllThreads,
    /// Threads that wait in a system call; those that run, or some of them, cannot be asked.
    WaitingThreadsOnly(&'static str),
    /// None.
    Unavailable(&'static str),
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capability::AllThreads => f.write_str("all threads"),
            Capability::WaitingThreadsOnly(why) => write!(f, "only threads that wait: {why}"),
            Capability::Unavailable(why) => write!(f, "none: {why}"),
        }
    }
}
