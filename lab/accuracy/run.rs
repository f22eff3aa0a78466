//! The command line, and the runs that it selects.

use std::process::ExitCode;
use std::time::Duration;

use crate::suite::evaluation::Evaluation;
use crate::suite::modes::{self, Flavour, Mode};
use crate::suite::overload::Shortage;
use crate::suite::unwatched::Unwatched;
#[cfg(all(tokio_unstable, feature = "delays"))]
use crate::suite::victims;
use crate::suite::{incidents, kernel_time, late, locks, overload, table};

const HELP: &str = "\
Measures how often pollwatch is wrong: recall, precision, delays and errors, for blocks of known length and
cause.

usage: cargo run --release -p pollwatch-lab --bin accuracy -- [flags]

  --seconds N     how long each mode is run            (20)
  --threshold MS  the threshold, in milliseconds       (10)
  --mode TEXT     only modes whose names contain this
  --seed N        seed of the random load              (1)
  --faults        print each fault to stderr
  --help          this text
";

/// The runs in which CPUs are short, with the start of their modes' names and their title.
const SHORTAGES: [(&str, Shortage, &str); 2] = [
    ("overload", Shortage::BusyThreads, "with four busy threads per core"),
    ("CPU limit", Shortage::CpuLimit, "under a CPU limit of 0.75 cores"),
];

struct Args {
    time: Duration,
    threshold: Duration,
    mode: String,
    seed: u64,
    faults: bool,
}

impl Args {
    /// Returns `None` for `--help`. An error is a sentence for the user.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
        let (mut time, mut threshold, mut mode, mut seed, mut faults) = (20, 10, String::new(), 1, false);
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--seconds" => time = number(&flag, &value()?)?,
                "--threshold" => threshold = number(&flag, &value()?)?,
                "--mode" => mode = value()?,
                "--seed" => seed = number(&flag, &value()?)?,
                "--faults" => faults = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown flag {flag:?}")),
            }
        }
        let (time, threshold) = (Duration::from_secs(time), Duration::from_millis(threshold));
        Ok(Some(Args { time, threshold, mode, seed, faults }))
    }
}

fn number(flag: &str, text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=3600) => Ok(n),
        _ => Err(format!("{flag} needs a whole number from 1 to 3600, not {text:?}")),
    }
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("accuracy: {text}; --help lists the flags");
            return ExitCode::from(2);
        }
    };
    let bars = run(&args);
    if bars.is_empty() {
        println!("\nevery bar is met");
        return ExitCode::SUCCESS;
    }
    println!("\nmissed:");
    bars.iter().for_each(|bar| println!("- {bar}"));
    ExitCode::FAILURE
}

/// Prints the tables, and returns the bars that were missed.
fn run(args: &Args) -> Vec<String> {
    table::machine().iter().for_each(|line| println!("- {line}"));
    println!("- threshold {:?}, {:?} a mode, seed {}\n", args.threshold, args.time, args.seed);
    let mut bars = Vec::new();
    let mut miss = |name: &str, missed: Vec<String>, faults: &[String]| {
        bars.extend(missed.into_iter().map(|bar| format!("{name}: {bar}")));
        if args.faults {
            faults.iter().for_each(|fault| eprintln!("{name}: {fault}"));
        }
    };
    let (threshold, time, seed) = (args.threshold, args.time, args.seed);
    let is_wanted = |name: &String| name.contains(&args.mode);
    let named = |modes: &mut dyn Iterator<Item = Mode>| -> Vec<(String, Mode)> {
        modes.map(|mode| (mode.name(), mode)).filter(|(name, _)| is_wanted(name)).collect()
    };
    let named_with = |prefix: &str, modes: &mut dyn Iterator<Item = Mode>| -> Vec<(String, Mode)> {
        let two = modes.filter(|mode| mode.flavour == Flavour::MultiThread(2));
        two.map(|mode| (format!("{prefix}, {}", mode.name()), mode)).filter(|(name, _)| is_wanted(name)).collect()
    };
    let mut rows: Vec<(String, Evaluation)> = Vec::new();
    for (name, mode) in named(&mut Mode::measured()) {
        let evaluation = modes::run(mode, threshold, time, seed);
        miss(&name, evaluation.missed_bars(), &evaluation.faults);
        rows.push((name, evaluation));
    }
    if !rows.is_empty() {
        println!("measured tasks:\n");
        table::print(&rows);
    }
    let mut rows = Vec::new();
    type Run = fn(Mode, Duration, Duration, u64) -> Unwatched;
    let quiet: (_, Run) = (named(&mut Mode::unwatched()), modes::run_unwatched);
    for (modes, run) in [quiet, (named_with("overload", &mut Mode::unwatched()), overload::run_unwatched)] {
        for (name, mode) in modes {
            let unwatched = run(mode, threshold, time, seed);
            miss(&name, unwatched.missed_bars(), &unwatched.faults);
            rows.push((name, unwatched));
        }
    }
    if !rows.is_empty() {
        println!("unmeasured tasks:\n");
        table::print_unwatched(&rows);
    }
    for (prefix, shortage, title) in SHORTAGES {
        let mut rows = Vec::new();
        for (name, mode) in named_with(prefix, &mut Mode::measured()) {
            match overload::run(mode, shortage, threshold, time, seed) {
                Ok(overload) => {
                    miss(&name, overload.missed_bars(), &overload.faults);
                    rows.push((name, overload));
                }
                Err(why) => println!("{name}: not run: {why}\n"),
            }
        }
        if !rows.is_empty() {
            println!("{title}:\n");
            table::print_overload(&rows);
        }
    }
    let name = "kernel time".to_owned();
    if is_wanted(&name) {
        let result = kernel_time::run(threshold, time, seed);
        miss(&name, result.missed_bars(), &result.faults);
        println!("computing in the kernel:\n");
        table::print_kernel_time(&result);
    }
    let name = "locks".to_owned();
    if is_wanted(&name) {
        let rows = locks::run(threshold, time);
        rows.iter().for_each(|row| miss(&name, row.missed_bars(), &row.faults));
        println!("holders of locks:\n");
        table::print_locks(&rows);
    }
    #[cfg(all(tokio_unstable, feature = "delays"))]
    {
        let mut rows = Vec::new();
        let hooked =
            Mode::measured().filter(|mode| mode.has_hooks()).map(|mode| (format!("victims, {}", mode.name()), mode));
        for (name, mode) in hooked.filter(|(name, _)| is_wanted(name)) {
            let figures = victims::run(mode, threshold, time, seed);
            miss(&name, figures.missed_bars(), &figures.faults);
            rows.push((name, figures));
        }
        if !rows.is_empty() {
            println!("tasks behind stalls:\n");
            table::print_victims(&rows);
        }
    }
    let mut rows = Vec::new();
    let named = [1, 2, 4].map(|workers| (format!("late, workers: {workers}"), workers));
    for (name, workers) in named.into_iter().filter(|(name, _)| is_wanted(name)) {
        let figures = late::run(workers, threshold, time);
        miss(&name, figures.missed_bars(), &figures.faults);
        rows.push((name, figures));
    }
    if !rows.is_empty() {
        println!("late runtimes without a stall:\n");
        table::print_late(&rows);
    }
    let name = "incidents".to_owned();
    if is_wanted(&name) {
        let figures = incidents::run(threshold, time, seed);
        miss(&name, figures.missed_bars(), &figures.faults);
        println!("incidents:\n");
        table::print_incidents(&figures);
    }
    bars
}
