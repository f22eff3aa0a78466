//! Tests of the program `pollwatch attach`, on processes that have no pollwatch inside.

#![cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod accuracy;
mod ends;
mod errors;
mod inside;
mod output;
mod server;
mod stripped;
mod support;
