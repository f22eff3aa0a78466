//! A program on tokio that knows nothing of pollwatch: what `pollwatch attach` is measured on.
//!
//! `attach-target blocks` injects blocks of known length and kind, and writes them to a file;
//! `hello` answers HTTP requests; `checks` verifies that nothing of it is disturbed; `idle` does
//! nothing. Each prints `ready` when it runs.

mod blocks;
mod checks;
mod hello;
mod kinds;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
usage: attach-target <blocks | hello | checks | idle> [flags]

  --seconds N     how long it runs                                        (10)
  --workers N     workers of its runtime                                  (2)
  --seed N        blocks: seed of the random load                         (1)
  --threshold MS  blocks: lengths are around this, in milliseconds        (10)
  --truth FILE    blocks: the file that the ground truth is written to
  --kind NAME     blocks: only this kind
  --pool busy     blocks: the pool is in use, by spawn_blocking and block_in_place
  --wait yes      blocks: waits for a line on its standard input before the first block;
                  checks: ends at such a line
  --port N        hello: the port                                         (any)
";

/// What every subcommand gets.
pub(crate) struct Options {
    pub(crate) time: Duration,
    pub(crate) workers: usize,
    pub(crate) seed: u64,
    pub(crate) threshold: Duration,
    pub(crate) truth: Option<PathBuf>,
    pub(crate) kind: Option<attach_lab::truth::Kind>,
    pub(crate) is_pool_busy: bool,
    pub(crate) waits: bool,
    pub(crate) port: u16,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let parsed = parse(&words).and_then(|(command, options)| match command {
        "blocks" => blocks::run(&options).map_err(|error| format!("the ground truth cannot be written: {error}")),
        "hello" => hello::run(&options).map_err(|error| format!("cannot serve: {error}")),
        "checks" => checks::run(&options),
        "idle" => {
            idle(&options);
            Ok(())
        }
        other => Err(format!("unknown command {other:?}\n{HELP}")),
    });
    match parsed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attach-target: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<(&str, Options), String> {
    let (command, flags) = words.split_first().ok_or(HELP)?;
    let flags: HashMap<&str, &str> = flags
        .chunks(2)
        .map(|pair| match pair {
            [flag, value] => Ok((flag.as_str(), value.as_str())),
            _ => Err(HELP.to_owned()),
        })
        .collect::<Result<_, String>>()?;
    let number = |flag: &str, default: u64| match flags.get(flag) {
        Some(text) => text.parse::<u64>().map_err(|_| format!("{flag} needs a number, not {text:?}")),
        None => Ok(default),
    };
    let options = Options {
        time: Duration::from_secs(number("--seconds", 10)?),
        workers: number("--workers", 2)? as usize,
        seed: number("--seed", 1)?,
        threshold: Duration::from_millis(number("--threshold", 10)?),
        truth: flags.get("--truth").map(PathBuf::from),
        kind: flags.get("--kind").map(|kind| kind.parse()).transpose()?,
        is_pool_busy: flags.get("--pool").is_some_and(|pool| *pool == "busy"),
        waits: flags.contains_key("--wait"),
        port: number("--port", 0)? as u16,
    };
    Ok((command, options))
}

/// Returns a runtime whose threads have names of their own, so that a report can be matched with
/// what its thread did. The program attached to it does not rely on names.
fn runtime(options: &Options) -> tokio::runtime::Runtime {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let threads = AtomicUsize::new(0);
    let name = move || format!("thread-{}", threads.fetch_add(1, Ordering::Relaxed));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(options.workers).thread_name_fn(name).enable_all().build().expect("a runtime")
}

/// Says that the program runs.
fn ready(what: impl std::fmt::Display) {
    use std::io::Write;
    // The reader may have gone.
    drop(writeln!(std::io::stdout(), "ready {what}"));
}

fn idle(options: &Options) {
    let runtime = runtime(options);
    runtime.block_on(async {
        ready(std::process::id());
        tokio::time::sleep(options.time).await;
    });
}
