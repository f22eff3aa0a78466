//! Tests of the core with real runtimes, threads and sockets.

mod blocking;
mod callbacks;
mod detect;
mod export;
mod fuzz;
#[cfg(tokio_unstable)]
mod hooks;
mod invalid_config;
mod lifecycle;
mod live;
mod misbehaving_clients;
mod nesting;
mod outcome_counts;
mod polls;
mod profile;
#[path = "../../crates/stack/src/random.rs"]
mod random;
mod report;
mod spans;
mod stacks;
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]
mod stripped;
mod task_outcomes;
mod testing;
#[cfg(all(target_os = "linux", not(tokio_unstable)))]
mod unwatched;
