//! Captures of running threads of another process: the thread is stopped for a moment by `ptrace`,
//! its registers and its stack are copied, and it continues.
//!
//! Whatever fails, the kernel lets the thread run again. All requests of a capture come from one
//! thread that exists for this capture alone ([`tracer`]). When that thread ends, for whatever
//! reason, the kernel detaches what it has attached to.

mod budget;
mod error;
mod ptrace;
mod stats;
mod tracer;

use std::fmt;
use std::time::{Duration, Instant};

pub use budget::StopBudget;
pub use error::StopError;
pub use stats::{StopStats, StoppedStack};
use tracer::{Attempt, StopRequest, StoppedThread};

use super::Process;
use crate::Tid;
use crate::procfs::{RunCount, RunState, SyscallState};

/// The time for which a thread's CPU time is watched where no earlier reading is given: more than
/// the longest scheduler tick, at which the kernel counts it.
const WATCH: Duration = Duration::from_millis(12);
/// The time for which a thread is stopped at most, as long as this process gets a CPU.
const LIMIT: Duration = Duration::from_millis(1);
/// The factor between the share of the time that attempts take this process, and the share for
/// which threads are stopped.
const EFFORT: u32 = 4;
/// The interval at which the CPU time is read meanwhile.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// Stops running threads of other processes for the moment in which their stacks are copied.
///
/// # What it does to a thread
///
/// A thread is stopped by `PTRACE_SEIZE` and `PTRACE_INTERRUPT`, which send no signal to the
/// process. It is stopped for some 0.1 ms, and never for longer than 1 ms as long as this process
/// gets a CPU; a stack that cannot be copied in that time is incomplete. Of the time of a process,
/// threads are stopped for at most 1 % ([`StopBudget`]), and the attempts take this process at most
/// 4 % of one CPU.
///
/// Measured as root on a machine of 2 CPUs with a load of 16, over 40,453 stops: 0.1 ms in the
/// median, 0.42 ms for 99 %, 2.8 ms for the longest. 12 were longer than 1 ms: this process had
/// no CPU then ([`StopStats::longer_than_limit`]). Without real-time priority more are.
///
/// Only a thread that runs, and that has used CPU time, is stopped. A thread that waits is never
/// stopped, since some system calls end with `EINTR` then. If the thread enters such a call in the
/// microseconds between the last look and the stop, the call is made to start again (on x86_64).
/// One with a timeout then waits for its whole timeout anew. What is in the middle of a transfer
/// may transfer less. On file systems that are programs (FUSE), calls that the kernel cannot start
/// again, such as `open`, may end with `EINTR`.
///
/// When this process ends at any moment, also by `SIGKILL`, the kernel lets the thread run again.
/// If that happens while a thread is stopped that has just entered a call, nobody starts the call
/// again: an `epoll_wait` ends with `EINTR`, which Tokio expects.
///
/// # What it does to this process
///
/// This process gets a `SIGCHLD` for a stop if it handles that signal without `SA_NOCLDSTOP`. The
/// kernel's report of the stop is left alone, so that no signal of the other process is lost when
/// this one is killed. A `waitpid(-1)` in another thread of this process may take the report. The
/// captures still work then, but a signal that arrives in an attempt that gives up, or in which
/// this process is killed, may be lost. A program with children waits for each by its id.
///
/// ```no_run
/// use pollwatch_stack::{Pid, Process, Stopper, Symbolizer};
///
/// # fn print(pid: Pid) -> Result<(), pollwatch_stack::ProcessError> {
/// let mut process = Process::open(pid)?;
/// let mut stopper = Stopper::new();
/// for tid in process.threads()? {
///     match stopper.capture(&mut process, tid, None) {
///         Ok(got) => println!("{tid}\n{:#}", Symbolizer::shared().symbolize(&got.stack)),
///         Err(error) => println!("{tid}: {error}"),
///     }
/// }
/// println!("{:?}", stopper.stats());
/// # Ok(())
/// # }
/// ```
pub struct Stopper {
    budget: StopBudget,
    /// The budget of the time that attempts take this process. On a machine whose CPUs are all busy
    /// that is time which the other process lacks.
    effort: StopBudget,
    stats: StopStats,
    buffer: Vec<u8>,
}

impl Default for Stopper {
    fn default() -> Stopper {
        Stopper::with_budget(StopBudget::default())
    }
}

impl Stopper {
    /// Makes a stopper with a budget of 1 %.
    pub fn new() -> Stopper {
        Stopper::default()
    }

    /// Makes a stopper with another budget.
    pub fn with_budget(budget: StopBudget) -> Stopper {
        Stopper { budget, effort: budget.times(EFFORT), stats: StopStats::default(), buffer: Vec::new() }
    }

    /// Returns what was done so far.
    pub fn stats(&self) -> StopStats {
        self.stats
    }

    /// Captures the stack of a thread that computes.
    ///
    /// `earlier` is an earlier reading of its [`RunCount`], by which it is known that the thread
    /// has used CPU time since. Without one, the CPU time is watched for up to 12 ms first.
    ///
    /// # Errors
    ///
    /// [`StopError`] says why there is no stack. After [`NotRunning`](StopError::NotRunning),
    /// [`InSyscall`](StopError::InSyscall), [`Timeout`](StopError::Timeout),
    /// [`Unreadable`](StopError::Unreadable) and [`OverBudget`](StopError::OverBudget) another
    /// attempt may succeed.
    pub fn capture(
        &mut self,
        process: &mut Process,
        tid: Tid,
        earlier: Option<RunCount>,
    ) -> Result<StoppedStack, StopError> {
        let now = Instant::now();
        if !self.budget.admits(now) || !self.effort.admits(now) {
            self.stats.over_budget += 1;
            return Err(StopError::OverBudget);
        }
        if process.pid() == crate::Pid::current() {
            return Err(StopError::OwnProcess);
        }
        check_running(process, tid, earlier)?;
        process.refresh_if_old().map_err(|_| failure(process))?;
        let start = Instant::now();
        let attempt = tracer::run(StopRequest { tid, process, buffer: &mut self.buffer });
        self.effort.spend(Instant::now(), start.elapsed());
        let StoppedThread { regs, len } = self.record(attempt)?;
        let stopped = attempt.stopped.unwrap_or_default();
        process.check_unchanged().map_err(|_| failure(process))?;
        let stack = process.unwind(regs, &self.buffer[..len]).map_err(|_| failure(process))?;
        Ok(StoppedStack { stack, stopped })
    }

    fn record(&mut self, attempt: Attempt) -> Result<StoppedThread, StopError> {
        match attempt.result {
            Err(StopError::InSyscall { is_restarted, .. }) => {
                self.stats.in_syscall += 1;
                self.stats.restarted += u64::from(is_restarted);
            }
            Err(StopError::Timeout) => self.stats.timeouts += 1,
            Ok(StoppedThread { len: 0, .. }) => self.stats.unread += 1,
            _ => {}
        }
        if let Some(stopped) = attempt.stopped {
            self.stats.stops += 1;
            self.stats.stopped += stopped;
            self.stats.longest = self.stats.longest.max(stopped);
            self.stats.longer_than_limit += u64::from(stopped > LIMIT);
            self.budget.spend(Instant::now(), stopped);
        }
        attempt.result.and_then(|thread| if thread.len > 0 { Ok(thread) } else { Err(StopError::Unreadable) })
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").field("budget", &self.budget).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Returns what a failure to read the process means for a stop.
fn failure(process: &Process) -> StopError {
    if process.identity.check().is_err() { StopError::Exited } else { StopError::Unreadable }
}

/// Checks that a thread runs and uses CPU time. One that was woken and has no CPU yet counts as
/// running as well, and is still in its system call.
fn check_running(process: &Process, tid: Tid, earlier: Option<RunCount>) -> Result<(), StopError> {
    let folder = process.folder();
    let read = || {
        if folder.syscall(tid) != Some(SyscallState::Running) {
            return Err(StopError::NotRunning);
        }
        match folder.stat(tid).map(|stat| stat.state) {
            Some(RunState::Running) => folder.ran(tid).ok_or(StopError::NotRunning),
            Some(RunState::Traced) => Err(StopError::AlreadyTraced),
            _ => Err(StopError::NotRunning),
        }
    };
    let first = read()?;
    let earlier = earlier.unwrap_or(first);
    let start = Instant::now();
    let mut last = first;
    while last.on_cpu <= earlier.on_cpu {
        if start.elapsed() >= WATCH {
            return Err(StopError::NotRunning);
        }
        std::thread::sleep(WATCH_INTERVAL);
        last = read()?;
    }
    Ok(())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stop_without_a_stack_is_counted() {
        let mut stopper = Stopper::new();
        let without_stop = Attempt { stopped: None, result: Err(StopError::Exited) };
        assert_eq!(stopper.record(without_stop).unwrap_err(), StopError::Exited);
        assert_eq!(stopper.stats(), StopStats::default());
        let stopped = Duration::from_secs(3_600);
        let attempt = Attempt { stopped: Some(stopped), result: Err(StopError::OtherArchitecture) };
        assert_eq!(stopper.record(attempt).unwrap_err(), StopError::OtherArchitecture);
        let stats = stopper.stats();
        assert_eq!((stats.stops, stats.stopped, stats.longest, stats.longer_than_limit), (1, stopped, stopped, 1));
        assert!(!stopper.budget.admits(Instant::now()), "its time was spent");
    }
}
