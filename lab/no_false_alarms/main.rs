//! Runtimes that are well, of which nothing may be reported: no condition, no incident, no line of
//! the log, no late runtime, no stall, and `/healthz` answers 200.
//!
//! A busy machine may keep a thread from the CPU, which is reported as what it is; such reports are
//! no alarms.
//!
//! Each test runs itself as a child. So its log is its own, and nobody else builds runtimes there.

#![cfg(target_os = "linux")]

mod fixture;
mod idle;
mod load;
mod report;
mod suspended;
