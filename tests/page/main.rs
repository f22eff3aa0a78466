//! Tests of the live page in a real browser. Where there is none, they report that they were
//! skipped.

use test_support as support;

mod access;
mod browser;
mod conditions;
mod example;
mod extremes;
mod fixture;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]
mod holders;
mod names;
mod states;
mod threads;
