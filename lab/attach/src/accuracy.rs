//! One run of the target and of `pollwatch attach` beside each other.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cpu::DelayMonitor;
use crate::matching::{self, Conditions, Outcome};
use crate::target::Target;
use crate::{report, truth};

/// What is run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The program `attach-target`.
    pub target: &'a Path,
    /// The program `pollwatch`.
    pub pollwatch: &'a Path,
    /// The file that the target writes the ground truth to.
    pub truth: &'a Path,
    /// The workers of the target.
    pub workers: u64,
    /// True if the target uses its blocking pool besides.
    pub is_pool_busy: bool,
    /// How long blocks are injected.
    pub time: Duration,
    /// The threshold.
    pub threshold: Duration,
    /// The seed of the random load.
    pub seed: u64,
    /// Further arguments of `pollwatch attach`.
    pub arguments: &'a [String],
}

impl Run<'_> {
    /// Runs both programs until the target ends, and compares.
    pub fn compare(&self) -> Result<Outcome, String> {
        let millis = self.threshold.as_millis();
        let words = [
            ("--seconds", self.time.as_secs().to_string()),
            ("--workers", self.workers.to_string()),
            ("--pool", if self.is_pool_busy { "busy" } else { "idle" }.to_owned()),
            ("--threshold", millis.to_string()),
            ("--seed", self.seed.to_string()),
            ("--truth", self.truth.display().to_string()),
            // The program is attached before the first block.
            ("--wait", "yes".to_owned()),
        ];
        let words = words.iter().flat_map(|(flag, value)| [*flag, value]);
        let arguments: Vec<&str> = ["blocks"].into_iter().chain(words).collect();
        let of_target = |error: std::io::Error| format!("the target: {error}");
        let mut target = Target::start(self.target, &arguments).map_err(of_target)?;
        let mut command = Command::new(self.pollwatch);
        command.args(["attach", "--json", &format!("--threshold={millis}ms")]).args(self.arguments);
        command.arg(target.pid().to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut pollwatch = command.spawn().map_err(|error| format!("{}: {error}", self.pollwatch.display()))?;
        let mut stdout = BufReader::new(pollwatch.stdout.take().ok_or("no pipe")?);
        // The first line says that the program is attached.
        let mut output = String::new();
        stdout.read_line(&mut output).map_err(|error| error.to_string())?;
        let reader = std::thread::spawn(move || stdout.read_to_string(&mut output).map(|_| output));
        let monitor = DelayMonitor::start(pollwatch.id());
        target.proceed().map_err(of_target)?;
        let (status, _) = target.wait().map_err(of_target)?;
        let delay = monitor.map(DelayMonitor::stop).unwrap_or_default();
        let ended = pollwatch.wait().map_err(|error| error.to_string())?;
        if !status.success() || !ended.success() {
            return Err(format!("the target ended with {status}, pollwatch with {ended}"));
        }
        let output = reader.join().map_err(|_| "the reader of the reports panicked")?;
        let output = output.map_err(|error| error.to_string())?;
        let text = std::fs::read_to_string(self.truth).map_err(|error| error.to_string())?;
        let conditions = Conditions { threshold: self.threshold, workers: self.workers, delay: &delay };
        Ok(matching::compare(&truth::parse(&text)?, &report::parse(&output)?, conditions))
    }
}
