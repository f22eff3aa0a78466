//! Something blocks the event loop, and there is a shell to the machine, but no browser. What, and where?
//!
//! A live table of what pollwatch's server tells (`/live`): who is blocked now, the last stalls, the worst routes and places.
//!
//! `cargo run --example top -- http://127.0.0.1:9464`, or with `--help`.

mod client;
mod recent;
mod rows;
mod screen;
mod table;
mod text;
mod view;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use client::{Client, Watch};
use screen::{Input, Screen};

const HELP: &str = "\
A live table of what blocks the event loop of a program that pollwatch watches.

usage: cargo run --example top -- [flags] [http://HOST:PORT]

  http://HOST:PORT  pollwatch's server, or where Watchdog::router was nested   (http://127.0.0.1:9464)
  --once            print one table to standard output, and exit
  --every N         seconds between two looks, 1 to 60                         (1)
  --help            this text

keys: q, Esc or Ctrl-C ends it
";

struct Args {
    url: String,
    every: Duration,
    once: bool,
}

/// `None` when help is asked for; an error is a sentence for the user.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let mut args = Args { url: "http://127.0.0.1:9464".into(), every: Duration::from_secs(1), once: false };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--once" => args.once = true,
            "--every" => match words.next().and_then(|n| n.parse().ok()) {
                Some(n @ 1..=60) => args.every = Duration::from_secs(n),
                _ => return Err("--every needs a whole number from 1 to 60".into()),
            },
            "--help" | "-h" => return Ok(None),
            flag if flag.starts_with('-') => return Err(format!("unknown flag {flag:?}")),
            url => args.url = client::complete(url)?,
        }
    }
    Ok(Some(args))
}

fn main() -> ExitCode {
    let args = match parse(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("top: {text}; --help tells the flags");
            return ExitCode::from(2);
        }
    };
    let ended = if args.once { once(&args) } else { live(&args) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("top: {text}");
            ExitCode::FAILURE
        }
    }
}

/// As wide as what it has to say, unless a terminal is narrower.
fn once(args: &Args) -> Result<(), String> {
    let live = Client::new(&args.url).look()?;
    let width = match screen::size() {
        Ok((width, _)) if io::stdout().is_terminal() => width,
        _ => usize::MAX,
    };
    let mut out = io::stdout().lock();
    for line in view::lines(&live, None, width, usize::MAX) {
        match writeln!(out, "{}", line.text) {
            Ok(()) => {}
            // `top --once | head` has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn live(args: &Args) -> Result<(), String> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("this is no terminal: --once prints one table".into());
    }
    let watch = Watch::start(Client::new(&args.url), args.every);
    let mut screen = Screen::enter().map_err(|error| error.to_string())?;
    let mut recent = recent::Recent::default();
    let (mut latest, mut trouble) = (None, Some(format!("asking {} ...", args.url)));
    loop {
        let (width, height) = screen::size().unwrap_or((80, 24));
        let mut lines = Vec::new();
        if let Some(text) = &trouble {
            lines.push(view::trouble(text, latest.is_some(), width));
        }
        if let Some(live) = &latest {
            lines.extend(view::lines(live, Some(&recent), width, height.saturating_sub(lines.len())));
        }
        screen.draw(&lines, trouble.is_some()).map_err(|error| error.to_string())?;
        match screen.wait(|| watch.has_news()) {
            Ok(Input::Quit) => return Ok(()),
            Ok(Input::Redraw) => {}
            Err(error) => return Err(error.to_string()),
        }
        match watch.news() {
            Some(Ok(live)) => {
                recent.add(&live);
                (latest, trouble) = (Some(live), None);
            }
            Some(Err(text)) => trouble = Some(text),
            None => {}
        }
    }
}
