//! Tests of incidents and their actions. An action may end the process, so most tests run
//! themselves as a child.

#![cfg(unix)]

mod actions;
mod fixture;
mod kinds;
mod lifecycle;
#[cfg(target_os = "linux")]
mod systemd;
