//! The program `pollwatch` shows what blocks the event loop of a running program.
//!
//! Each subcommand is a module with two items: `Args`, its command line, and `run`, which executes
//! it. The other modules are shared: `client` reads from pollwatch's server, `table` and `text`
//! write for a terminal.
//!
//! The exit code is 0 when the command succeeded, 1 when it failed, and 2 when the command line is
//! wrong.

mod client;
mod table;
mod text;
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
    Top(top::Args),
}

fn main() -> ExitCode {
    // clap itself prints help, the version, and errors in the command line (exit code 2).
    let cli = Cli::parse();
    let (name, result) = match cli.command {
        Command::Top(args) => ("top", top::run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pollwatch {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
