//! What a watchdog can see, and what it cannot.

use std::fmt;
use std::sync::Arc;

/// What a watchdog can see, and what it cannot; from
/// [`Watchdog::coverage`](crate::Watchdog::coverage). `Display` tells it in a few lines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Coverage {
    /// tokio's task hooks are compiled in (`tokio_unstable`).
    pub hooks: bool,
    /// The watchdog's thread looks for stalls. It does not after
    /// [`shutdown`](crate::Watchdog::shutdown), nor when it has panicked ten times in a row, which
    /// is a defect of pollwatch.
    pub watching: bool,
    /// Panics on the watchdog's thread, each a defect of pollwatch: what was to be told at that
    /// moment may be wrong or missing.
    pub watchdog_panics: u64,
    /// A sleeping watchdog is woken by the first poll (`membarrier`); else it looks by itself ten
    /// times a second when idle, and the first stall after an idle time may be found up to 100 ms
    /// late.
    pub exact_wakeup: bool,
    /// Where times come from: `cpu counter`, or `monotonic` (slower, equally right).
    pub clock: &'static str,
    /// Only some polls are timed ([`sampled_timing`](crate::WatchdogBuilder::sampled_timing)):
    /// times are estimates.
    pub sampled_timing: bool,
    /// Whether stalls come with stacks.
    pub stacks: StackCoverage,
    /// The runtimes, in the order in which they became known.
    pub runtimes: Vec<RuntimeCoverage>,
    /// Runtimes that were built under a 64th name, and are not watched.
    pub unnamed_runtimes: u64,
    /// Threads that are measured now: those that have polled anything of a runtime or a future that
    /// is watched. At most 4,096.
    pub measured_threads: usize,
    /// Threads that were not measured, because there were more than 4,096 at a time.
    pub unmeasured_threads: u64,
    /// Slow polls that came faster than the watchdog could take them: counted in the histogram,
    /// told nowhere.
    pub lost_polls: u64,
}

/// Whether stalls come with the stacks of the blocked threads; all else is told without them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackCoverage {
    /// They are taken.
    Taken,
    /// Those of threads that wait in a system call; of threads that compute, or of some of them,
    /// they cannot be taken, for this reason. It may be found out only when one is to be taken.
    WaitingThreadsOnly(&'static str),
    /// By [`capture_stacks(false)`](crate::WatchdogBuilder::capture_stacks).
    SwitchedOff,
    /// The feature `capture` is off.
    NotCompiled,
    /// What they need was not there when the watchdog started, or not later, for this reason.
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

impl fmt::Display for StackCoverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackCoverage::Taken => f.write_str("taken"),
            StackCoverage::WaitingThreadsOnly(why) => {
                write!(f, "taken of threads that wait, not of those that compute: {why}")
            }
            StackCoverage::SwitchedOff => f.write_str("switched off (capture_stacks)"),
            StackCoverage::NotCompiled => f.write_str("not compiled (feature capture)"),
            StackCoverage::Unavailable(why) => write!(f, "not here: {why}"),
        }
    }
}

/// What is seen of one runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RuntimeCoverage {
    /// Its name.
    pub name: Arc<str>,
    /// It has not been shut down.
    pub alive: bool,
    /// Every spawned task is seen; else only what `watch` and `spawn` wrap, and requests below a
    /// layer.
    pub every_task: bool,
    /// Workers that are blocked by anything else are found by looking at them from outside; see
    /// [`Certainty`](crate::Certainty).
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
        if self.sampled_timing {
            writeln!(f, "timing: one poll in 16")?;
        }
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
            write!(f, "\nslow polls not told: {}", self.lost_polls)?;
        }
        Ok(())
    }
}
