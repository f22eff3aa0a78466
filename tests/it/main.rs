//! Real runtimes, real threads, real sockets.

mod support;

mod blocking;
mod callbacks;
mod detect;
mod export;
mod fates;
mod fuzz;
#[cfg(tokio_unstable)]
mod hooks;
mod hostile;
mod input;
mod lifecycle;
mod live;
mod nesting;
mod outcomes;
mod polls;
#[path = "../../crates/stack/src/random.rs"]
mod random;
mod report;
mod sampled;
mod schema;
mod spans;
mod stacks;
#[cfg(all(target_os = "linux", not(tokio_unstable)))]
mod stopped;
#[cfg(all(target_os = "linux", not(tokio_unstable)))]
mod unwatched;
