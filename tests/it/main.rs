//! Tests of the core with real runtimes, threads and sockets.

mod blocking;
mod blocking_pool;
mod callbacks;
mod detect;
mod export;
mod fuzz;
#[cfg(tokio_unstable)]
mod hooks;
mod invalid_config;
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]
mod kernel;
mod lifecycle;
mod live;
mod misbehaving_clients;
mod nesting;
mod outcome_counts;
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]
mod outside;
mod polls;
mod profile;
mod profile_window;
#[path = "../../crates/stack/src/random.rs"]
mod random;
mod report;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]
mod restricted;
mod runtime_builder;
mod segments;
mod serialized;
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
mod thread_pages;
#[cfg(all(target_os = "linux", not(tokio_unstable)))]
mod unwatched;
