//! Plain data that every layer uses: identifiers, units, causes, stalls, events, stacks,
//! snapshots, coverage.
//!
//! Every other layer may import this module; it imports none of them.

#[cfg(feature = "server")]
pub(crate) mod activity;
pub(crate) mod cause;
pub(crate) mod condition;
pub(crate) mod coverage;
pub(crate) mod event;
pub(crate) mod id;
pub(crate) mod incident;
pub(crate) mod kernel_time;
pub(crate) mod labels;
pub(crate) mod lag;
pub(crate) mod late_runtime;
pub(crate) mod lock;
pub(crate) mod log_format;
pub(crate) mod no_stack;
mod other_segments;
pub(crate) mod pool;
#[cfg(feature = "server")]
pub(crate) mod profile;
pub(crate) mod segment;
#[cfg(feature = "serde")]
mod serialize;
pub(crate) mod site;
pub mod snapshot;
pub(crate) mod stall;
pub(crate) mod thread_dump;
pub(crate) mod time;
pub(crate) mod victims;
