//! Another process is watched from outside. Each test runs this program again as a child, which
//! blocks in a known function and uses nothing of pollwatch.

#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod computing;
mod dumps;
mod fixture;
mod lifecycle;
mod runtimes;
mod shapes;
mod silent;
mod stripped;
mod target;
mod waits;
