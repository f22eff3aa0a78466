//! Examination of one blocked thread: the system call it waits in, its CPU time, its stack. It runs
//! on the watchdog thread and takes some 100 µs.

use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::{Address, Capturer, RawStack, Target, is_preloaded};

use super::classify::{Evidence, classify, describe};
use super::identity::StallIdentity;
use super::outcome::Outcome;
use super::poll_entry::is_poll_entry;
use super::procfs::{self, SyscallState as ThreadPosition};
use super::status::WatchdogStatus;
use super::track::{Poll, spent_most_waiting};
use crate::measure::entry::spans;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Purpose, Syscall};
use crate::sys;
use crate::util::token_bucket::{RateLimit, TokenBucket};

/// The limit of captures: a flood of stalls must not keep the watchdog from finding further ones.
const CAPTURES: RateLimit = RateLimit { burst: 64, interval: Duration::from_millis(5) };
/// The captures of a burst that are reserved for stalls, while the search for blocked workers
/// captures stacks as well.
const RESERVED_FOR_STALLS: u32 = CAPTURES.burst / 2;
/// The shortest window over which a share of CPU time is judged.
const MIN_WINDOW: u64 = 1_000_000;
/// A starved thread with a smaller share of a CPU than this is not asked for its stack.
const MIN_CAPTURE_SHARE: f64 = 0.05;

/// CPU time and clock, in nanoseconds, at the moment from which an examination counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline {
    pub(crate) cpu: u64,
    pub(crate) at: u64,
    /// The thread's run delay (`procfs::run_delay`) at that moment, if it was read.
    pub(crate) run_delay: Option<u64>,
}

/// The result of an examination.
pub(crate) struct Diagnosis {
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    /// The moment from which `on_cpu` is counted.
    pub(crate) baseline: Option<Baseline>,
    pub(crate) stack: Option<RawStack>,
    /// `None` when the stall was over before the examination was.
    pub(crate) spans: Option<Vec<Arc<str>>>,
}

impl Diagnosis {
    /// The diagnosis of a stall that was over before the examination was.
    fn too_late(baseline: Option<Baseline>) -> Diagnosis {
        Diagnosis { cause: Cause::Unknown, syscall: None, on_cpu: None, baseline, stack: None, spans: None }
    }
}

/// CPU time of a thread over a window.
struct CpuUsage {
    used: Option<Duration>,
    /// Share of the window that the thread was on a CPU.
    share: Option<f64>,
    baseline: Option<Baseline>,
}

/// Examines blocked threads, and limits how often stacks are captured.
pub(crate) struct Examiner {
    meter: Arc<Meter>,
    status: Arc<WatchdogStatus>,
    /// Whether stacks are captured at all.
    captures: bool,
    capturer: Capturer,
    bucket: TokenBucket,
    has_examined: bool,
}

impl Examiner {
    pub(crate) fn new(meter: Arc<Meter>, status: Arc<WatchdogStatus>, captures: bool) -> Examiner {
        let bucket = TokenBucket::new(CAPTURES, Duration::ZERO);
        Examiner {
            meter,
            status,
            captures,
            capturer: Capturer::new().with_boundary(is_poll_entry),
            bucket,
            has_examined: false,
        }
    }

    /// Examines a thread in a stall. `run_delay_before` is the thread's run delay before the stall
    /// began. The diagnosis is empty when the stall is over before the examination is.
    pub(crate) fn examine(
        &mut self,
        thread: &ThreadState,
        identity: &StallIdentity,
        baseline: Option<Baseline>,
        run_delay_before: Option<u64>,
    ) -> Diagnosis {
        self.has_examined = true;
        let position = thread.tid.and_then(procfs::syscall);
        let CpuUsage { used: on_cpu, share, baseline } = self.cpu_usage(thread, baseline, position);
        let mut cause = classify(Evidence { at: position, on_cpu: share });
        if cause == Cause::Starved && !self.was_starved(thread, baseline, run_delay_before, on_cpu) {
            // The thread waited for something else, and happens to run again just now.
            cause = Cause::Unknown;
        }
        // A thread that gets no CPU at all handles its signal late: the watchdog would wait for it,
        // and learn little.
        let gets_no_cpu = cause == Cause::Starved && share.is_some_and(|share| share < MIN_CAPTURE_SHARE);
        let stack = if gets_no_cpu { None } else { self.capture(thread, identity, position, 0) };
        let syscall = syscall(position);
        // Spans that a thread is in outside of any measured poll may belong to any task.
        let spans = match identity {
            StallIdentity::Poll(number) => Some(spans::during_poll(thread, *number)),
            StallIdentity::Worker(_) => Some(Vec::new()),
        };
        if !identity.is_current(thread) {
            return Diagnosis::too_late(baseline);
        }
        Diagnosis { cause, syscall, on_cpu, baseline, stack, spans }
    }

    /// Measures the CPU time since the baseline, which is now where there is none.
    fn cpu_usage(
        &self,
        thread: &ThreadState,
        baseline: Option<Baseline>,
        position: Option<ThreadPosition>,
    ) -> CpuUsage {
        let none = |baseline| CpuUsage { used: None, share: None, baseline };
        let Some(tid) = thread.tid else { return none(None) };
        let sample = || Some(Baseline { cpu: sys::thread_cpu_nanos(tid)?, at: self.now(), run_delay: None });
        let Some(mut now) = sample() else { return none(None) };
        let baseline = baseline.unwrap_or(now);
        let is_waiting = matches!(position, Some(ThreadPosition::Waiting { .. }));
        if now.at.saturating_sub(baseline.at) < MIN_WINDOW && !is_waiting {
            std::thread::sleep(Duration::from_nanos(MIN_WINDOW));
            let Some(later) = sample() else { return none(Some(baseline)) };
            now = later;
        }
        let (used, window) = (now.cpu.saturating_sub(baseline.cpu), now.at.saturating_sub(baseline.at));
        CpuUsage {
            used: Some(Duration::from_nanos(used)),
            share: (window > 0).then(|| used as f64 / window as f64),
            baseline: Some(baseline),
        }
    }

    /// Returns whether a runnable thread that used little CPU time was kept from a CPU. The
    /// kernel's run delay proves it. As long as the thread has not run again, the kernel has not
    /// counted the delay yet; then it is proven by the thread still waiting.
    fn was_starved(
        &self,
        thread: &ThreadState,
        baseline: Option<Baseline>,
        run_delay_before: Option<u64>,
        on_cpu: Option<Duration>,
    ) -> bool {
        let (Some(tid), Some(baseline), Some(on_cpu)) = (thread.tid, baseline, on_cpu) else { return false };
        let off_cpu = self.now().saturating_sub(baseline.at).saturating_sub(on_cpu.as_nanos() as u64);
        let waited = || Some(procfs::run_delay(tid)?.saturating_sub(run_delay_before.or(baseline.run_delay)?));
        let Some(so_far) = waited() else { return true };
        if so_far >= off_cpu / 2 {
            return true;
        }
        let cpu = sys::thread_cpu_nanos(tid);
        std::thread::sleep(Duration::from_nanos(MIN_WINDOW));
        cpu == sys::thread_cpu_nanos(tid) && procfs::syscall(tid) == Some(ThreadPosition::Running)
            || waited().is_some_and(|waited| waited >= off_cpu / 2)
    }

    /// Returns whether a poll that computes, or whose cause is unknown, reached the threshold only
    /// because it was kept from a CPU.
    ///
    /// `run_delay_before` is what its thread had waited in all before the poll began. The kernel
    /// counts a wait that is not over when the thread gets a CPU.
    pub(crate) fn is_excused(
        &self,
        thread: &ThreadState,
        poll: &Poll,
        (elapsed, cause): (u64, Cause),
        run_delay_before: Option<u64>,
    ) -> bool {
        let (Some(before), Some(tid)) = (run_delay_before, thread.tid) else { return false };
        let Some(run_delay) = procfs::run_delay(tid) else { return false };
        let (waited, threshold) = (run_delay.saturating_sub(before), self.meter.threshold);
        match cause {
            // The poll is over, and was no longer than this, as far as is known.
            Cause::Unknown => elapsed.saturating_sub(waited) < threshold,
            Cause::Cpu => {
                let elapsed = self.now().saturating_sub(poll.begin);
                spent_most_waiting(waited, elapsed)
                    || elapsed.saturating_sub(waited) < threshold && waited >= elapsed / 4
            }
            _ => false,
        }
    }

    /// Returns whether any thread has been examined since the previous call: the examination may
    /// have taken a while.
    pub(crate) fn take_has_examined(&mut self) -> bool {
        std::mem::take(&mut self.has_examined)
    }

    /// Returns the addresses in a thread's stack, outermost first, or `None` where they are not all
    /// known, or not without waiting.
    pub(crate) fn addresses(&mut self, thread: &ThreadState, identity: &StallIdentity) -> Option<Vec<Address>> {
        if !is_preloaded() {
            return None;
        }
        self.has_examined = true;
        let position = thread.tid.and_then(procfs::syscall);
        let stack = self.capture(thread, identity, position, RESERVED_FOR_STALLS)?;
        stack.is_complete().then(|| stack.addresses().rev().collect())
    }

    /// Captures a stack, unless the limit of captures is reached.
    fn capture(
        &mut self,
        thread: &ThreadState,
        identity: &StallIdentity,
        position: Option<ThreadPosition>,
        reserve: u32,
    ) -> Option<RawStack> {
        if !self.captures {
            return None;
        }
        let target = thread.tid.zip(thread.stack).map(|(tid, stack)| Target { tid, stack });
        let now = Duration::from_nanos(self.now());
        let (outcome, stack) = match target {
            _ if !self.bucket.take_above(reserve, now) => (Outcome::Limited, None),
            None => (Outcome::Unavailable, None),
            Some(target) => {
                let result = self.capturer.capture_if_current(target, position, || identity.is_current(thread));
                (Outcome::of(&result), result.ok())
            }
        };
        self.status.count_capture(outcome);
        stack
    }

    fn now(&self) -> u64 {
        self.meter.clock.nanos(self.meter.clock.now()).0
    }
}

fn syscall(position: Option<ThreadPosition>) -> Option<Syscall> {
    let ThreadPosition::Waiting { call: Some(call), .. } = position? else { return None };
    let (name, purpose) = describe(call.number);
    let target = matches!(purpose, Purpose::Io | Purpose::FileLock).then(|| target(call.first_argument)).flatten();
    Some(Syscall { name, target, purpose })
}

/// Returns what a file descriptor refers to: for a connected socket its peer, else the link's
/// target in procfs.
fn target(fd: u64) -> Option<Arc<str>> {
    let target = procfs::descriptor(fd)?;
    if target.starts_with("socket:")
        && let Some(peer) = sys::peer(fd)
    {
        return Some(format!("socket to {peer}").into());
    }
    Some(target.into())
}
