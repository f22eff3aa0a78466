//! The subcommand `pollwatch top`: a live table of blocked workers, for a machine with a shell and
//! no browser.

mod history;
mod poller;
mod rows;
mod screen;
mod view;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::client::{self, Client, FetchError};
use history::History;
use poller::Poller;
use screen::{Input, Screen};

/// Show blocked workers, the latest stalls, and the worst routes and spawn sites, live
///
/// Reads from the HTTP server of a program that has pollwatch inside and whose watchdog was started
/// with `listen`. In the live view, q, Esc and Ctrl-C quit.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Address of pollwatch's server, or of the path where `Watchdog::router` is nested
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464", value_parser = client::parse_url)]
    url: String,

    /// Print the tables once to standard output, and exit
    #[arg(long)]
    once: bool,

    /// Time between two requests, in seconds, from 1 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
}

/// The reason why `pollwatch top` failed.
pub(crate) enum Error {
    Fetch(FetchError),
    NotATerminal,
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Fetch(error) => error.fmt(f),
            Error::NotATerminal => {
                f.write_str("standard input or output is not a terminal. Use --once to print the tables once.")
            }
            Error::Io(error) => write!(f, "cannot write to the terminal: {error}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

/// Executes the subcommand.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    if args.once { print_once(args) } else { run_live(args) }
}

/// Prints the tables once. A terminal limits the width of the lines.
fn print_once(args: &Args) -> Result<(), Error> {
    let live = Client::new(&args.url).live().map_err(Error::Fetch)?;
    let width = match screen::size() {
        Ok((width, _)) if io::stdout().is_terminal() => width,
        _ => usize::MAX,
    };
    let mut out = io::stdout().lock();
    for line in view::lines(&live, None, width, usize::MAX) {
        match writeln!(out, "{}", line.text) {
            Ok(()) => {}
            // `pollwatch top --once | head` closes the pipe after some lines.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn run_live(args: &Args) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::NotATerminal);
    }
    let poller = Poller::start(Client::new(&args.url), Duration::from_secs(args.interval));
    let mut screen = Screen::enter()?;
    let mut history = History::default();
    let (mut latest, mut notice) = (None, Some(view::connecting(&args.url)));
    loop {
        let (width, height) = screen::size().unwrap_or((80, 24));
        let mut lines = Vec::new();
        if let Some(text) = &notice {
            lines.push(view::notice(text, width));
        }
        if let Some(live) = &latest {
            lines.extend(view::lines(live, Some(&history), width, height.saturating_sub(lines.len())));
        }
        screen.draw(&lines, notice.is_some())?;
        match screen.wait(|| poller.has_update())? {
            Input::Quit => return Ok(()),
            Input::Redraw => {}
        }
        match poller.take_update() {
            Some(Ok(live)) => {
                history.add(&live);
                (latest, notice) = (Some(live), None);
            }
            Some(Err(error)) => notice = Some(view::retrying(&error, latest.is_some())),
            None => {}
        }
    }
}
