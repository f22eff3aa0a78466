//! A service runs for days with a watchdog inside: does that cost it memory, descriptors or threads over time, and is anything lost?
//!
//! An axum service under load, on which all befalls that may: panics, aborts, runtimes and watchdogs that are built and dropped, threads
//! that come and go, libraries loaded and unloaded, slow and broken scrapers, 500 idle connections, children that are forked, a log
//! that blocks, a callback that panics and blocks. In rounds: after each all is quiet for a moment, and what the process holds is
//! printed. At the end it must hold no more than after the warm-up, and pollwatch must have counted what the load says it did: requests
//! by route and status, polls and tasks by place, and what became of them.
//!
//! `cargo run --release -p pollwatch-lab --bin soak -- --minutes 2`; the exit code tells.

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
        eprintln!("soak: it reads /proc, and needs Linux");
        std::process::ExitCode::from(2)
    }
}
