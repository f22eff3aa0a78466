//! Measures how often pollwatch is wrong. Blocks of known length, cause, site and route are
//! injected into busy runtimes, and each report is matched with its block, one to one.
//!
//! `cargo run --release -p pollwatch-lab --bin accuracy` runs all modes, 20 s each, in six minutes
//! or more, and prints the tables of `docs/accuracy.md`. It fails when a bar is missed. `-- --help`
//! lists the options for a shorter run.

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
    println!("accuracy: needs Linux, whose kernel says whether a thread had a CPU");
}
