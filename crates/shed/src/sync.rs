//! The atomics of protocols that loom checks: `std`'s, or loom's when its models are run
//! (`--cfg pollwatch_loom`).

#[cfg(not(all(test, pollwatch_loom)))]
pub(crate) use std::sync::atomic::AtomicU32;

#[cfg(all(test, pollwatch_loom))]
pub(crate) use loom::sync::atomic::AtomicU32;
