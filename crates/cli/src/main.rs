//! The program `pollwatch`: what blocks the event loop of a program that is running now.
//!
//! Each subcommand is a module of its own with two items: `Args`, what its command line takes, and
//! `run`, which does it. What several subcommands need lies beside them: `client` reads from
//! pollwatch's server, `table` and `text` write for a terminal.
//!
//! Exit codes: 0 when the command did what it was asked for, 1 when it failed, 2 when the command
//! line is wrong.

mod client;
mod table;
mod text;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows what blocks the Tokio event loop of a running program.
///
/// A task that computes, sleeps or waits for a lock inside one poll keeps its worker thread, and
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
    // Prints help, the version, or what is wrong with the command line (exit code 2) by itself.
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
