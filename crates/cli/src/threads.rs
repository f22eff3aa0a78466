//! The subcommand `pollwatch threads`: what all threads of a program do, once.

use std::fmt;
use std::io::{self, Write};

use crate::attach::{self, AttachCommandError};
use crate::client::{self, Client, FetchError};
use crate::text::clean;

/// Show what all threads of a program do, grouped by role and stack
///
/// Reads `/threads` from the HTTP server of a program that has pollwatch inside and whose watchdog
/// was started with `listen`; or, on Linux, the threads of any process from outside. Threads that
/// wait are not disturbed. From outside, one that runs is stopped for at most 1 ms to read its
/// stack, unless --no-stop is given.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ThreadsArgs {
    /// Address of pollwatch's server, or of the path where `Watchdog::router` is nested; or the id
    /// or name of a process. An address has a colon or a slash
    #[arg(value_name = "URL|PID|NAME", default_value = "http://127.0.0.1:9464", value_parser = parse_source)]
    source: Source,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    /// Never stop a thread of another process, so that those that run have no stack
    #[arg(long)]
    no_stop: bool,
}

/// Where the threads are read from.
#[derive(Clone, Debug)]
enum Source {
    Url(String),
    Process(String),
}

fn parse_source(text: &str) -> Result<Source, String> {
    match text.contains([':', '/']) || text.is_empty() {
        true => client::parse_url(text).map(Source::Url),
        false => Ok(Source::Process(text.into())),
    }
}

/// The reason why `pollwatch threads` failed.
#[derive(Debug)]
pub(crate) enum ThreadsError {
    Fetch(FetchError),
    Process(AttachCommandError),
}

impl fmt::Display for ThreadsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThreadsError::Fetch(error) => error.fmt(f),
            ThreadsError::Process(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ThreadsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ThreadsError::Fetch(error) => error.source(),
            ThreadsError::Process(error) => error.source(),
        }
    }
}

/// Prints the threads of a program.
pub(crate) fn run(args: &ThreadsArgs) -> Result<(), ThreadsError> {
    let dump = match &args.source {
        Source::Url(url) => {
            let format = if args.json { "json" } else { "text" };
            Client::new(url).threads(format).map_err(ThreadsError::Fetch)?
        }
        Source::Process(target) => {
            attach::thread_dump(target, args.no_stop, args.json).map_err(ThreadsError::Process)?
        }
    };
    let lines = dump.lines().map(clean).collect::<Vec<_>>().join("\n");
    // A reader such as `head` may close the pipe early.
    drop(writeln!(io::stdout().lock(), "{lines}"));
    Ok(())
}
