//! Tests of diagnoses of code that blocks within libraries: thread pools, concurrent maps,
//! databases, Python, compressing layers.

#![cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod bodies;
mod c_libraries;
#[path = "../situations/fixture.rs"]
mod fixture;
mod logs;
mod maps;
mod pools;
