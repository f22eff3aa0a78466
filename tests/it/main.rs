//! Real runtimes, real threads, real sockets.

mod support;

mod blocking;
mod detect;
mod export;
mod fates;
#[cfg(tokio_unstable)]
mod hooks;
mod hostile;
mod input;
mod lifecycle;
mod live;
mod nesting;
mod outcomes;
mod polls;
mod report;
mod schema;
mod spans;
mod stacks;
