//! The stalls of another process, which need not have pollwatch in it.
//!
//! [`Attach`] finds the tokio runtimes of a process by the stacks of its threads, and reports what
//! blocks them as a [`Watchdog`](crate::Watchdog) does for its own process: the same
//! [`Stall`](crate::Stall)s, log lines, profiles, pages and metrics. The process is not changed,
//! and need not be restarted.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use pollwatch::attach::Attach;
//!
//! let attached = Attach::new(4711).on_stall(|stall| println!("{stall}")).start()?;
//! let ended = attached.wait(Some(Duration::from_secs(60)));
//! if let Some(ended) = ended {
//!     println!("{ended}");
//! }
//! attached.detach();
//! # Ok::<(), pollwatch::Error>(())
//! ```
//!
//! # What it does to the process
//!
//! A thread that waits is read from outside, and never stopped. A thread that runs is stopped for
//! at most some 1 ms at a time, and for at most 1 % of the time in all, to read its stack.
//! [`Attach::stop`] switches that off, and then no code that computes is found.
//!
//! # What is certain
//!
//! A thread that waits in one system call, page fault or lock within a task for the threshold is
//! [observed](crate::Certainty::Observed): it has not run, and so cannot have left the poll.
//!
//! A thread that computes is [suspected](crate::Certainty::Suspected), for however long: several
//! samples show it in the same call of the same task's code. A task that is polled again and again
//! looks the same. A poll that waits and then computes is an observed stall, which ends with the
//! wait, and perhaps a suspected one after it.
//!
//! Not known of another process are ids and spawn sites of tasks, routes, spans, the exact start of
//! a poll, and who holds a lock. Where the task's name would be, a stall has the function of its
//! future.

mod builder;
mod cpu_budget;
mod detector;
mod dump;
mod emit;
mod engine;
mod handle;
mod inlined;
mod inlined_loops;
mod inspect;
mod outcome;
mod pages;
mod process;
mod run_times;
mod runtimes;
mod settings;
mod snapshot;
mod state;
mod symbol_access;
mod target;
mod threads;
mod tokio_source;

pub use builder::Attach;
pub use dump::threads;
pub use handle::Attached;
pub use outcome::{Ended, Stops};
