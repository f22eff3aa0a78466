//! Detection: one thread that finds the polls that last too long.
//!
//! The [`watcher`] is that thread. It [scans](scan) all slots, [tracks](track) the polls that have
//! crossed the threshold, and [examines](examine) what is blocked. Workers that are in no measured
//! poll are observed from [`outside`]. What it finds is [emitted](emit) as events into a sink that
//! the caller provides.
//!
//! The modules that decide are pure, and are tested with invented readings and times: [`track`],
//! [`outside::detector`], [`pause`], [`run_delay`], [`classify`], [`panic_budget`],
//! [`runtime_liveness`] and [`task_growth`]. Only the examiner decides with readings of its own.

pub(crate) mod capture_outcome;
mod classify;
mod emit;
mod examine;
mod identity;
mod lag;
mod outside;
mod panic_budget;
mod pause;
mod poll_entry;
pub(crate) mod procfs;
mod run_delay;
mod runtime_liveness;
pub(crate) mod scan;
pub(crate) mod stack_coverage;
pub(crate) mod status;
mod task_growth;
mod track;
pub(crate) mod watcher;
