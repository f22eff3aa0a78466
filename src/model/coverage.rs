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
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Coverage {
    /// True if tokio's task hooks are compiled in (`tokio_unstable`). The runtimes that pollwatch
    /// builds have them; a runtime that is [attached](crate::Watchdog::attach) has none.
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
    /// The number of times that the CPU's counter has jumped against the monotonic clock, as after
    /// a suspend of the machine or the restore of a virtual one. A poll that was running then may
    /// be reported as shorter than it was.
    pub clock_steps: u64,
    /// The reason why the monotonic clock has replaced the CPU's counter, if it has: the counter
    /// jumps again and again, differs between CPUs, or the kernel does not trust it any more.
    pub clock_replaced: Option<&'static str>,
    /// The coverage of stacks.
    pub stacks: StackCoverage,
    /// False if [`symbols(false)`](crate::WatchdogBuilder::symbols) was set: stacks have modules
    /// and offsets, and no functions.
    pub symbols: bool,
    /// The number of times that a file with debug information was found and could not be used: it
    /// is of another build, damaged, or too large. The log has each once.
    pub unusable_symbol_files: u64,
    /// True if the delays of polls are tracked:
    /// [`track_delays(true)`](crate::WatchdogBuilder::track_delays) was set, and the build can do
    /// it. Delays of attached runtimes are not known.
    pub delays: bool,
    /// The number of polls that were delayed for a quarter of the threshold or more, and that the
    /// watchdog could not read in time. They are in the histogram, and behind no stall.
    pub lost_delays: u64,
    /// The number of tasks whose last poll is not tracked, although
    /// [`track_unpolled(true)`](crate::WatchdogBuilder::track_unpolled) was set, because more than
    /// about 100,000 were alive.
    pub untracked_tasks: u64,
    /// The reason why stalls do not say who holds a lock; `None` if they do. That the program has
    /// no symbols is found out at the first wait for a lock.
    pub lock_holders_unavailable: Option<&'static str>,
    /// The number of requests that a `WatchLayer` could not name, if no request has had a route so
    /// far; 0 otherwise. Requests that were answered with 404 are not among them. A layer knows the
    /// routes of axum 0.8, if it is added by `Router::layer`. Elsewhere `WatchLayer::route_by`
    /// names the requests.
    pub unnamed_requests: u64,
    /// The runtimes, in the order in which they became known.
    pub runtimes: Vec<RuntimeCoverage>,
    /// The number of runtimes that were built or found when 63 names were taken, and are not
    /// watched.
    pub unnamed_runtimes: u64,
    /// The number of threads that are measured: those that have polled anything of a watched
    /// runtime, or a watched future. At most 4,096.
    pub measured_threads: usize,
    /// The number of threads that were not measured, because there were more than 4,096 at a time.
    pub unmeasured_threads: u64,
    /// Slow polls that ended faster than the watchdog could read them: they are in the histogram,
    /// and in no report.
    pub lost_polls: u64,
    /// The coverage of a process that is watched from outside, in lines. The lines on task hooks,
    /// clock and locks do not apply to it.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) attached: Option<String>,
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
    /// Only the stacks of threads that compute are captured, for this reason. Those of threads that
    /// wait cannot be. What they wait for is known by the kernel's function in which they sleep, if
    /// at all: no descriptor, and no lock.
    RunningThreadsOnly(&'static str),
    /// Switched off by [`capture_stacks(false)`](crate::WatchdogBuilder::capture_stacks).
    SwitchedOff,
    /// The feature `capture` is off.
    NotCompiled,
    /// No stacks are captured, for this reason. It may be found out only at the first capture.
    Unavailable(&'static str),
}

impl StackCoverage {
    /// Returns whether the stacks of threads that wait in a system call are captured.
    pub(crate) fn has_waiting_threads(self) -> bool {
        matches!(self, StackCoverage::Taken | StackCoverage::WaitingThreadsOnly(_))
    }

    /// Returns which stalls have no stack although the user wanted one, and why.
    pub(crate) fn lacking(self) -> Option<(&'static str, &'static str)> {
        match self {
            StackCoverage::Unavailable(why) => Some(("stalls", why)),
            StackCoverage::WaitingThreadsOnly(why) => Some(("stalls of threads that compute", why)),
            StackCoverage::RunningThreadsOnly(why) => Some(("stalls of threads that wait", why)),
            _ => None,
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for StackCoverage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<Capability> for StackCoverage {
    fn from(capability: Capability) -> StackCoverage {
        match capability {
            Capability::AllThreads => StackCoverage::Taken,
            Capability::WaitingThreadsOnly(why) => StackCoverage::WaitingThreadsOnly(why),
            Capability::RunningThreadsOnly(why) => StackCoverage::RunningThreadsOnly(why),
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
            StackCoverage::RunningThreadsOnly(why) => {
                write!(f, "taken of threads that compute, not of those that wait: {why}")
            }
            StackCoverage::SwitchedOff => f.write_str("switched off (capture_stacks)"),
            StackCoverage::NotCompiled => f.write_str("not compiled (feature capture)"),
            StackCoverage::Unavailable(why) => write!(f, "unavailable: {why}"),
        }
    }
}

/// The coverage of one runtime.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    /// True if the one thread of a current-thread runtime is observed from outside: what blocks it
    /// in a system call is reported, also where nothing is watched. That holds for the thread that
    /// has built or attached the runtime, and for a program with symbols. That the program has none
    /// is found out at the first wait of such a thread; this is false from then on.
    pub thread_waits: bool,
    /// The reason why it is not known whether somebody attends the sockets and timers of the
    /// runtime; `None` where it is known, and for a current-thread runtime, whose one thread does
    /// everything.
    pub driver_unobserved: Option<&'static str>,
    /// True if it is known whether the runtime's pool for blocking work is full.
    pub blocking_pool: bool,
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
        write!(f, "runtime {:?}: {what}", self.name)?;
        if self.alive && self.thread_waits {
            f.write_str("; of all else, what blocks its thread in a system call")?;
        }
        if let Some(why) = self.driver_unobserved.filter(|_| self.alive) {
            write!(f, "; who attends its sockets and timers is unknown: {why}")?;
        }
        if self.alive && !self.blocking_pool {
            write!(f, "; whether its blocking pool is full is unknown: tokio publishes that with tokio_unstable only")?;
        }
        Ok(())
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(attached) = &self.attached {
            return f.write_str(attached);
        }
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        // Hooks can only be set while a runtime is built.
        let is_attached = |runtime: &RuntimeCoverage| runtime.alive && !runtime.every_task;
        let hooks = match self.hooks {
            true if self.runtimes.iter().any(is_attached) => "yes, but not in attached runtimes",
            hooks => yes(hooks),
        };
        writeln!(f, "task hooks (tokio_unstable): {hooks}")?;
        writeln!(f, "woken from idle by the first poll: {}", yes(self.exact_wakeup))?;
        write!(f, "clock: {}", self.clock)?;
        if let Some(why) = self.clock_replaced {
            write!(f, " (instead of the CPU's counter, because {why})")?;
        }
        if self.clock_steps > 0 {
            write!(f, "; jumps of the CPU's counter: {}", self.clock_steps)?;
        }
        writeln!(f)?;
        write!(f, "stacks: {}", self.stacks)?;
        if !self.symbols {
            write!(f, ", as modules and offsets: symbols are switched off (symbols)")?;
        }
        if self.unusable_symbol_files > 0 {
            write!(f, "\nfiles with symbols that could not be used: {}", self.unusable_symbol_files)?;
        }
        if let Some(why) = self.lock_holders_unavailable {
            write!(f, "\nholders of locks: unknown: {why}")?;
        }
        for runtime in &self.runtimes {
            write!(f, "\n{runtime}")?;
        }
        if self.unnamed_requests > 0 {
            write!(
                f,
                "\nroutes: none of {} requests had one so far; the layer knows those of axum 0.8 if `Router::layer` adds it, \
                 elsewhere name requests by `route_by`",
                self.unnamed_requests
            )?;
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
