//! The error rates of pollwatch, measured against the ground truth. `run.rs` runs all modes and
//! prints the tables; `tests` runs a short form.
//!
//! Each injected block records its own start and end: the inner time. Hooks or a wrapper around
//! pollwatch's own record the start and end of its poll: the outer time. The duration that
//! pollwatch measures lies between the two. A report is false only if the outer time is too short,
//! and a block is missed only if the inner time is long enough. A preemption between two readings
//! is therefore an error of neither side, and needs no tolerance.

pub(crate) mod background;
pub(crate) mod cpu_limit;
pub(crate) mod cpu_monitor;
pub(crate) mod evaluation;
pub(crate) mod fixture;
pub(crate) mod ground_truth;
pub(crate) mod guarantee;
pub(crate) mod incidents;
pub(crate) mod injector;
pub(crate) mod kernel_time;
pub(crate) mod kinds;
pub(crate) mod late;
pub(crate) mod locks;
pub(crate) mod matching;
pub(crate) mod modes;
pub(crate) mod overload;
pub(crate) mod poll_recorder;
pub(crate) mod requests;
pub(crate) mod rng;
pub(crate) mod statements;
pub(crate) mod table;
pub(crate) mod unwatched;
#[cfg(all(tokio_unstable, feature = "delays"))]
pub(crate) mod victims;
