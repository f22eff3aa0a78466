//! Every way to block a worker, for real: each stall tells its cause, the function, the line, the reason and the advice.
//!
//! In a process of its own: captures send signals, and children are started.

#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]

mod calls;
mod children;
mod computing;
mod executors;
mod fixture;
mod limits;
mod locks;
mod memory;
