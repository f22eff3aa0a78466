//! The coverage of a watchdog: what it measures and observes, and what it cannot.

use std::fmt;
use std::sync::Arc;

use pollwatch_stack::Capability;

/// The coverage of a watchdog: what it measures and observes, and what it cannot. Returned by
/// [`Watchdog::coverage`](crate::Watchdog::coverage). `Display` shows it in a few lines.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let coverage = watchdog.coverage();
/// if !coverage.hooks {
///     eprintln!("only watched futures are measured: build with --cfg tokio_unstable");
/// }
/// for runtime in coverage.runtimes.iter().filter(|runtime| !runtime.every_task) {
///     eprintln!("{runtime}");
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Coverage {
    /// True if tokio's task hooks are compiled in (`tokio_unstable`).
    pub hooks: bool,
    /// True while the watchdog's thread scans for stalls. It does not after
    /// [`shutdown`](crate::Watchdog::shutdown), nor after ten panics in a row, which are a defect
    /// of pollwatch.
    pub watching: bool,
    /// Panics on the watchdog's thread. Each is a defect of pollwatch: a report of that moment may
    /// be wrong or missing.
    pub watchdog_panics: u64,
    /// True if the first poll wakes a sleeping watchdog (`membarrier`). Otherwise an idle watchdog
    /// wakes up ten times a second, and the first stall after an idle time may be found up to 100
    /// ms late.
    pub exact_wakeup: bool,
    /// The source of times: `cpu counter`, or `monotonic` (slower, and as exact).
    pub clock: &'static str,
    /// The coverage of stacks.
    pub stacks: StackCoverage,
    /// The runtimes, in the order in which they became known.
    pub runtimes: Vec<RuntimeCoverage>,
    /// The number of runtimes that were built under a 64th name, and are not watched.
    pub unnamed_runtimes: u64,
    /// The number of threads that are measured: those that have polled anything of a watched
    /// runtime, or a watched future. At most 4,096.
    pub measured_threads: usize,
    /// The number of threads that were not measured, because there were more than 4,096 at a time.
    pub unmeasured_threads: u64,
    /// Slow polls that ended faster than the watchdog could read them: they are in the histogram,
    /// and in no report.
    pub lost_polls: u64,
}

/// The coverage of stacks. A stall without a stack is reported with everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackCoverage {
    /// Stacks are captured.
    Taken,
    /// Only the stacks of threads that wait in a system call are captured; those of threads that
    /// compute cannot be, or not all, for this reason. That may be found out only at the first
    /// capture.
    WaitingThreadsOnly(&'static str),
    /// Switched off by [`capture_stacks(false)`](crate::WatchdogBuilder::capture_stacks).
    SwitchedOff,
    /// The feature `capture` is off.
    NotCompiled,
    /// No stacks are captured, for this reason. It may be found out only at the first capture.
    Unavailable(&'static str),
}

impl StackCoverage {
    /// Returns which stalls have no stack although the user wanted one, and why.
    pub(crate) fn lacking(self) -> Option<(&'static str, &'static str)> {
        match self {
            StackCoverage::Unavailable(why) => Some(("stalls", why)),
            StackCoverage::WaitingThreadsOnly(why) => Some(("stalls of threads that compute", why)),
            _ => None,
        }
    }
}

impl From<Capability> for StackCoverage {
    fn from(capability: Capability) -> StackCoverage {
        match capability {
            Capability::AllThreads => StackCoverage::Taken,
            Capability::WaitingThreadsOnly(why) => StackCoverage::WaitingThreadsOnly(why),
            Capability::Unavailable(why) => StackCoverage::Unavailable(why),
        }
    }
}

impl fmt::Display for StackCoverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackCoverage::Taken => f.write_str("taken"),
            StackCoverage::WaitingThreadsOnly(why) => {
                write!(f, "taken of threads that wait, not of those that compute: {why}")
            }
            StackCoverage::SwitchedOff => f.write_str("switched off (capture_stacks)"),
            StackCoverage::NotCompiled => f.write_str("not compiled (feature capture)"),
            StackCoverage::Unavailable(why) => write!(f, "unavailable: {why}"),
        }
    }
}

/// The coverage of one runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RuntimeCoverage {
    /// Its name.
    pub name: Arc<str>,
    /// False once the runtime has been shut down.
    pub alive: bool,
    /// True if the polls of every spawned task are measured. Otherwise only those of futures that
    /// `watch` and `spawn` wrap, and of requests below a layer.
    pub every_task: bool,
    /// True if workers that are blocked by other tasks are found by observing them from outside;
    /// see [`Certainty`](crate::Certainty).
    pub workers: bool,
}

impl fmt::Display for RuntimeCoverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.alive, self.every_task, self.workers) {
            (false, ..) => "shut down",
            (true, true, _) => "every spawned task; `block_on` roots and LocalSet tasks only where watched",
            (true, false, true) => {
                "watched futures; of all else, workers that are blocked in a system call, and those that seem to compute"
            }
            (true, false, false) => "watched futures only",
        };
        write!(f, "runtime {:?}: {what}", self.name)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        writeln!(f, "task hooks (tokio_unstable): {}", yes(self.hooks))?;
        writeln!(f, "woken from idle by the first poll: {}", yes(self.exact_wakeup))?;
        writeln!(f, "clock: {}", self.clock)?;
        write!(f, "stacks: {}", self.stacks)?;
        for runtime in &self.runtimes {
            write!(f, "\n{runtime}")?;
        }
        if !self.watching {
            write!(f, "\nno stall is found any more: the watchdog's thread has ended")?;
        }
        if self.watchdog_panics > 0 {
            write!(f, "\npanics on the watchdog's thread: {}", self.watchdog_panics)?;
        }
        if self.unnamed_runtimes > 0 {
            write!(f, "\nruntimes not watched, under a 64th name: {}", self.unnamed_runtimes)?;
        }
        if self.unmeasured_threads > 0 {
            write!(f, "\nthreads not measured: {}", self.unmeasured_threads)?;
        }
        if self.lost_polls > 0 {
            write!(f, "\nslow polls not reported: {}", self.lost_polls)?;
        }
        Ok(())
    }
}
