//! What a pool does for which a task waits.

use std::fmt;

use pollwatch_stack::{Frame, Stack};

/// What the threads of rayon do while the thread of a stall waits for one of its pools.
///
/// The stacks of all threads are read for it, one after the other. Which of several pools a thread
/// belongs to is not known. A thread that has no CPU may not be read. `Display` formats it like the
/// log.
///
/// ```
/// let builder = pollwatch::Watchdog::builder().on_stall(|stall| {
///     if let Some(pool) = &stall.pool {
///         eprintln!("{} of {} threads are in {}", pool.threads, pool.threads_read, pool.location);
///     }
/// });
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolActivity {
    /// The program's innermost function in the threads that are busy: the one that most of them are
    /// in. Its line is that of the thread with the most CPU time.
    pub location: Frame,
    /// The number of threads in that function.
    pub threads: usize,
    /// The number of threads of rayon that were read, those that sleep included.
    pub threads_read: usize,
    /// The stack of the thread that `location` belongs to.
    pub stack: Stack,
}

impl fmt::Display for PoolActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoolActivity { location, threads, threads_read, .. } = self;
        match (threads, threads_read) {
            (1, 1) => write!(f, "the one rayon thread that was read is in {location}"),
            (1, read) => write!(f, "of the {read} rayon threads that were read, 1 is in {location}"),
            (in_it, read) => write!(f, "of the {read} rayon threads that were read, {in_it} are in {location}"),
        }
    }
}
