//! The program `pollwatch` shows what blocks the event loop of a running program.
//!
//! Each subcommand is a module with two items: its command line (`Args`), and `run`, which executes
//! it. The other modules are shared: `client` reads from pollwatch's server, `table` and `text`
//! write for a terminal.
//!
//! The exit code is 0 when the command succeeded, 1 when it failed, and 2 when the command line is
//! wrong. `attach --once` has a further one for its answer.

#[cfg_attr(
    not(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "attach_off.rs"
)]
mod attach;
mod client;
mod symbolize;
mod table;
mod text;
mod threads;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows what blocks the Tokio event loop of a running program.
///
/// A task that computes, sleeps or waits for a lock inside one poll occupies its worker thread, and
/// every other task of that worker waits. pollwatch reports such a task while it is still blocking.
#[derive(Parser)]
#[command(name = "pollwatch", version, disable_help_subcommand = true, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Attach(attach::AttachArgs),
    Top(top::Args),
    Threads(threads::ThreadsArgs),
    Symbolize(symbolize::SymbolizeArgs),
}

fn main() -> ExitCode {
    // clap itself prints help, the version, and errors in the command line (exit code 2).
    let cli = Cli::parse();
    let success = |()| ExitCode::SUCCESS;
    let (name, result) = match cli.command {
        Command::Attach(args) => ("attach", attach::run(&args).map_err(|error| error.to_string())),
        Command::Top(args) => ("top", top::run(&args).map(success).map_err(|error| error.to_string())),
        Command::Threads(args) => ("threads", threads::run(&args).map(success).map_err(|error| error.to_string())),
        Command::Symbolize(args) => {
            ("symbolize", symbolize::run(&args).map(success).map_err(|error| error.to_string()))
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            text::note(&format!("pollwatch {name}: {error}"));
            ExitCode::FAILURE
        }
    }
}
