//! Reports: records the events that detection emits, and logs them.
//!
//! The [`recorder`] runs on the watchdog thread. It counts stalls and stores the recent ones, so
//! that no figure waits for a log or a callback. Everything that may take long happens in the
//! stages of the [dispatcher](dispatch), each on a thread of its own: [`symbols`],
//! [the log](log_stage) and [the callback](call_stage). So do the actions of [incidents].

mod call_stage;
pub(crate) mod conditions;
pub(crate) mod counters;
pub(crate) mod deadlocks;
pub(crate) mod dispatch;
mod findings;
pub(crate) mod incidents;
pub(crate) mod kernel_share;
pub(crate) mod log;
mod log_stage;
mod main_cause;
mod ongoing;
#[cfg(feature = "server")]
pub(crate) mod profile;
mod queue;
mod queues;
pub(crate) mod reason;
pub(crate) mod recent;
pub(crate) mod recorder;
mod reported_locations;
mod requests;
#[cfg(all(test, not(pollwatch_loom)))]
mod samples;
mod segments;
pub(crate) mod stack_symbols;
mod stage_thread;
pub(crate) mod store;
mod symbols;
mod throttle;
pub(crate) mod totals;
