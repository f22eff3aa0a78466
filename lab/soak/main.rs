//! Checks that a service that runs for days with a watchdog leaks no memory, descriptors or
//! threads, and that every count is right.
//!
//! An axum service runs under load and under faults: panics, aborts, runtimes and watchdogs that
//! are built and dropped, threads that start and end, libraries that are loaded and unloaded, slow
//! and broken scrapers, 500 idle connections, forked children, a log that blocks, and a callback
//! that panics and blocks. The run is divided into rounds. After each round the load pauses, and
//! the resources of the process are printed.
//!
//! At the end the process must hold no more than after the warm-up. pollwatch must have counted
//! what the load counted: requests by route and status, polls and tasks by spawn site, and their
//! outcomes.
//!
//! `cargo run --release -p pollwatch-lab --bin soak -- --minutes 2`; the exit code is
//! 0 if both hold, 1 if not, and 2 if the command line is wrong.

#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod resources;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod service;

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return run::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("soak: needs Linux, since it reads /proc");
        std::process::ExitCode::from(2)
    }
}
