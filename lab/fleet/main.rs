//! A fleet of emulated instances, to be scraped by a Prometheus and queried in engines that are
//! compatible with it.
//!
//! Ten real services run in this process, each with a watchdog of its own: healthy ones, one whose
//! routes block, and one for each condition of a whole runtime. `/instances/N/metrics` is the page
//! of one of them, with a share of its counts that depends on N. So 200 instances take the CPU time
//! of ten, and each metric is rendered by pollwatch from a real snapshot.
//!
//! `lab/fleet/run` starts this program, and measures. By itself:
//! `cargo run -p pollwatch-lab --bin fleet -- --instances 200 --listen 127.0.0.1:9500`.
//!
//! - `/targets`: the instances, for `http_sd_configs` of Prometheus.
//! - `/services`: the addresses of the services' own pages.

#[cfg(target_os = "linux")]
mod blocking;
#[cfg(target_os = "linux")]
mod model;
mod page;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
mod service;
#[cfg(target_os = "linux")]
mod sites;

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return serve::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("fleet: needs Linux, where runtimes can be found to hang");
        std::process::ExitCode::from(2)
    }
}
