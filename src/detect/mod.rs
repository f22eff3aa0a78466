//! Detection: one thread that finds the polls that last too long.
//!
//! The [`watcher`] is that thread. It [scans](scan) all slots, [tracks](track) the polls that have
//! crossed the threshold, and [examines](examine) what is blocked. Workers that are in no measured
//! poll are observed from [`outside`]. What it finds is [emitted](emit) as events into a sink that
//! the caller provides.
//!
//! The modules that decide are pure, and are tested with invented readings and times: [`track`],
//! [`outside::detector`], [`conditions::driver_watch`], [`pause`], [`time_account`],
//! [`thread_times`], [`ongoing`], [`classify`], [`panic_budget`], [`runtime_liveness`] and
//! [`task_growth`]. Only the examiner decides with readings of its own.

pub(crate) mod classify;
pub(crate) mod conditions;
mod emit;
mod examine;
mod forks;
mod identity;
mod kernel_time;
mod lag;
mod late;
pub(crate) mod locks;
mod ongoing;
pub(crate) mod outside;
mod panic_budget;
mod pause;
mod pending_captures;
pub(crate) mod poll_entry;
pub(crate) mod procfs;
mod runtime_liveness;
pub(crate) mod scan;
pub(crate) mod stack_coverage;
pub(crate) mod status;
mod syscalls;
mod task_growth;
mod thread_times;
pub(crate) mod threads;
pub(crate) mod time_account;
pub(crate) mod track;
mod victims;
mod wait_channel;
pub(crate) mod watcher;
