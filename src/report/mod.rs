//! Reports: records the events that detection emits, and logs them.
//!
//! The [`recorder`] runs on the watchdog thread. It counts stalls and stores the recent ones, so
//! that no figure waits for a log or a callback. Everything that may take long (symbols, log,
//! callback) happens on the thread of the [dispatcher](dispatch).

pub(crate) mod dispatch;
pub(crate) mod log;
#[cfg(feature = "server")]
pub(crate) mod profile;
pub(crate) mod reason;
pub(crate) mod recorder;
#[cfg(all(test, not(pollwatch_loom)))]
mod samples;
pub(crate) mod store;
mod throttle;
pub(crate) mod totals;
