//! Tests of diagnoses by real code that blocks a worker: each stall has its cause, function, line,
//! reason and advice.
//!
//! They are a test binary of their own, since captures send signals and tests start children.

#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]

mod calls;
mod children;
mod computing;
mod drops;
mod executors;
mod fixture;
mod kernel_objects;
mod limits;
mod locks;
mod memory;
mod parking_lot_locks;
mod processes;
