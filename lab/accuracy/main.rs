//! A detector is believed once it says how often it is wrong. This one does: blocks of known length, kind, place and route are injected
//! into runtimes that are busy with everything else, and what pollwatch tells is matched with what truly happened, one to one.
//!
//! `cargo run --release -p pollwatch-lab --bin accuracy` runs all modes, in some six minutes, and prints the tables of `docs/accuracy.md`; it fails
//! when a bar is missed. `-- --help` tells how to run less.

#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod suite;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("runs on Linux only: whether a thread was given a CPU is asked of that kernel");
}
