//! First floor: measures every poll, on the user's threads, and publishes what each thread is doing.
//!
//! Its ways in are [`hooks`], [`future`], the tower `layer`, [`spans`] and, off the poll path, [`probe`]. Nobody above calls down into a
//! thread; they read
//! [`meter::Meter`].

pub(crate) mod allow;
pub(crate) mod callbacks;
pub(crate) mod clock;
pub(crate) mod ended;
pub(crate) mod future;
pub(crate) mod gate;
pub(crate) mod histogram;
pub(crate) mod hooks;
#[cfg(feature = "tower")]
pub(crate) mod layer;
pub(crate) mod meter;
pub(crate) mod panics;
pub(crate) mod placement;
pub(crate) mod poll;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod route;
pub(crate) mod runtime;
pub(crate) mod runtime_stats;
pub(crate) mod site;
pub(crate) mod slot;
#[cfg(feature = "spans")]
pub(crate) mod spans;
#[cfg(not(feature = "spans"))]
#[path = "spans_off.rs"]
pub(crate) mod spans;
pub(crate) mod tally;
pub(crate) mod task;
pub(crate) mod task_id;
pub(crate) mod thread;
pub(crate) mod wake;
