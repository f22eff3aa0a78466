//! Real runtimes, real threads, real sockets.

mod support;

mod blocking;
mod callbacks;
mod detect;
mod export;
mod fates;
#[cfg(tokio_unstable)]
mod hooks;
mod hostile;
mod input;
mod lifecycle;
mod nesting;
mod outcomes;
mod polls;
mod report;
mod spans;
mod stacks;
#[cfg(all(target_os = "linux", not(tokio_unstable)))]
mod unwatched;
