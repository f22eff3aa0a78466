//! Measures `pollwatch attach` from outside, on targets that know nothing of pollwatch: how often
//! it is wrong, what it costs its target, and whether the target stays undisturbed.
//!
//! `lab/attach/run` builds all programs and runs this one.

mod accuracy;
mod harm;
mod overhead;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
usage: lab/attach/run [accuracy | overhead | harm] [flags]

  accuracy   recall and precision of `pollwatch attach`, for blocks of known length and kind
  overhead   throughput of an HTTP server with and without `pollwatch attach`
  harm       attaches and detaches, and kills `pollwatch attach`; the targets verify themselves

  --seconds N     how long each run takes; for harm, the time limit     (20)
  --rounds N      overhead: pairs of runs                               (5)
  --detaches N    harm: how often the program attaches and detaches     (10000)
  --kills N       harm: how often the program is killed                 (1000)
  --lanes N       harm: how many targets there are at a time            (4)
  --threshold MS  the threshold                                         (10)
  --seed N        accuracy: seed of the random load; harm: of the times (1)
  --workers N     accuracy: only this number of workers                 (1 to 4)
  --faults yes    accuracy: print each fault
  --no-stop yes   never stop a thread of the target
  --bin DIR       the directory of pollwatch and attach-target          (that of this program)
";

/// The options of all measurements.
pub(crate) struct Options {
    pub(crate) seconds: Duration,
    pub(crate) rounds: u64,
    pub(crate) detaches: u64,
    pub(crate) kills: u64,
    pub(crate) lanes: u64,
    pub(crate) threshold: Duration,
    pub(crate) seed: u64,
    pub(crate) workers: Option<u64>,
    pub(crate) is_verbose: bool,
    /// Further arguments of `pollwatch attach`.
    pub(crate) arguments: Vec<String>,
    pub(crate) pollwatch: PathBuf,
    pub(crate) target: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let result = parse(&words).and_then(|(command, options)| match command {
        "accuracy" => accuracy::run(&options),
        "overhead" => overhead::run(&options),
        "harm" => harm::run(&options),
        other => Err(format!("unknown measurement {other:?}\n{HELP}")),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attach-measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<(&str, Options), String> {
    let (command, flags) = words.split_first().ok_or(HELP)?;
    let pairs = flags.chunks(2).map(|pair| match pair {
        [flag, value] => Ok((flag.as_str(), value.as_str())),
        _ => Err(HELP.to_owned()),
    });
    let flags: HashMap<&str, &str> = pairs.collect::<Result<_, String>>()?;
    let number = |flag: &str, default: u64| match flags.get(flag) {
        Some(text) => text.parse::<u64>().map_err(|_| format!("{flag} needs a number, not {text:?}")),
        None => Ok(default),
    };
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = flags.get("--bin").map_or_else(|| own.with_file_name(""), PathBuf::from);
    let options = Options {
        seconds: Duration::from_secs(number("--seconds", 20)?),
        rounds: number("--rounds", 5)?,
        detaches: number("--detaches", 10_000)?,
        kills: number("--kills", 1000)?,
        lanes: number("--lanes", 4)?,
        threshold: Duration::from_millis(number("--threshold", 10)?),
        seed: number("--seed", 1)?,
        workers: flags.get("--workers").map(|_| number("--workers", 0)).transpose()?,
        is_verbose: flags.contains_key("--faults"),
        arguments: flags.get("--no-stop").map(|_| "--no-stop".to_owned()).into_iter().collect(),
        pollwatch: folder.join("pollwatch"),
        target: folder.join("attach-target"),
    };
    Ok((command, options))
}
