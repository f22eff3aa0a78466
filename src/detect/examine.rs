//! Examination of one blocked thread: the system call that it waits in, its CPU time, its stack.
//!
//! An examination runs on the watchdog thread. It takes about 0.1 ms for a waiting thread, and 0.3
//! ms for a running one. It takes up to 2 ms more where CPU time has to be measured over a window,
//! up to 5 ms more where a thread gets no CPU to copy its stack, and up to 500 ms more where a
//! thread is preempted while it copies its stack.

use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::procfs::SyscallEntry;
use pollwatch_stack::{Address, Capturer, RawStack, Target, is_preloaded};

use super::capture_outcome::CaptureOutcome;
use super::classify::{Evidence, classify, describe};
use super::identity::StallIdentity;
use super::poll_entry::is_poll_entry;
use super::procfs::{self, SyscallState};
use super::status::WatcherStatus;
use super::track::{Poll, spent_most_waiting};
use crate::measure::entry::spans;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Purpose, Syscall};
use crate::model::time::Nanos;
use crate::sys;
use crate::util::token_bucket::{RateLimit, TokenBucket};

/// The limit of captures: a flood of stalls must not keep the watchdog from finding further ones.
const CAPTURES: RateLimit = RateLimit { burst: 64, interval: Duration::from_millis(5) };
/// The captures of a burst that are reserved for stalls, while the search for blocked workers
/// captures stacks as well.
const RESERVED_FOR_STALLS: u32 = CAPTURES.burst / 2;
/// The shortest window over which a share of CPU time is measured.
const MIN_WINDOW: Nanos = Nanos::from_millis(1);
/// The share of a CPU below which the stack of a starved thread is not captured.
const MIN_CAPTURE_SHARE: f64 = 0.05;

/// The CPU time of a thread at the moment `at`, from which an examination counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline {
    pub(crate) cpu: Nanos,
    pub(crate) at: Nanos,
    /// The thread's run delay (`procfs::run_delay`) at that moment, if it was read.
    pub(crate) run_delay: Option<Nanos>,
}

/// The result of an examination.
pub(crate) enum Examination {
    /// The stall ended before its examination did: the readings may be about something else.
    Over {
        baseline: Option<Baseline>,
    },
    Found(Diagnosis),
}

impl Examination {
    /// Returns the moment from which CPU time was counted.
    pub(crate) fn baseline(&self) -> Option<Baseline> {
        match self {
            Examination::Over { baseline } => *baseline,
            Examination::Found(diagnosis) => diagnosis.baseline,
        }
    }
}

/// The findings about an ongoing stall.
pub(crate) struct Diagnosis {
    pub(crate) cause: Cause,
    /// The system call that the thread waits in, with the causes `syscall` and `lock`.
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    /// The moment from which `on_cpu` is counted.
    pub(crate) baseline: Option<Baseline>,
    pub(crate) stack: Option<RawStack>,
    pub(crate) spans: Vec<Arc<str>>,
}

/// The CPU time of a thread over a window.
struct CpuUsage {
    used: Option<Nanos>,
    /// The share of the window that the thread was on a CPU.
    share: Option<f64>,
    baseline: Option<Baseline>,
}

/// Examines blocked threads, and limits how often stacks are captured.
pub(crate) struct Examiner {
    meter: Arc<Meter>,
    status: Arc<WatcherStatus>,
    /// True unless the user switched captures off.
    capture_stacks: bool,
    capturer: Capturer,
    capture_limit: TokenBucket,
    has_examined: bool,
}

impl Examiner {
    pub(crate) fn new(meter: Arc<Meter>, status: Arc<WatcherStatus>, capture_stacks: bool) -> Examiner {
        Examiner {
            meter,
            status,
            capture_stacks,
            capturer: Capturer::new().with_boundary(is_poll_entry),
            capture_limit: TokenBucket::new(CAPTURES, Duration::ZERO),
            has_examined: false,
        }
    }

    /// Examines a thread in a stall. `run_delay_before` is the thread's run delay before the poll
    /// started.
    pub(crate) fn examine(
        &mut self,
        thread: &ThreadState,
        identity: &StallIdentity,
        baseline: Option<Baseline>,
        run_delay_before: Option<Nanos>,
    ) -> Examination {
        self.has_examined = true;
        let state = thread.tid.and_then(procfs::syscall);
        let CpuUsage { used: on_cpu, share, baseline } = self.cpu_usage(thread, baseline, state);
        let mut cause = classify(Evidence { state, on_cpu: share });
        if cause == Cause::Starved && !self.was_starved(thread, baseline, run_delay_before, on_cpu) {
            // The thread was not kept from a CPU. It waited for something else, and runs again at
            // this moment.
            cause = Cause::Unknown;
        }
        // A thread that gets no CPU at all handles the signal of a capture late. The watchdog would
        // wait for it and learn little.
        let gets_no_cpu = cause == Cause::Starved && share.is_some_and(|share| share < MIN_CAPTURE_SHARE);
        let stack = if gets_no_cpu { None } else { self.capture(thread, identity, state, 0) };
        let syscall = blocking_syscall(cause, state);
        // Spans that a thread entered outside of any measured poll may belong to any task.
        let spans = match identity {
            StallIdentity::Poll(number) => spans::during_poll(thread, *number),
            StallIdentity::Worker(_) => Vec::new(),
        };
        if !identity.is_current(thread) {
            return Examination::Over { baseline };
        }
        let on_cpu = on_cpu.map(Nanos::to_duration);
        Examination::Found(Diagnosis { cause, syscall, on_cpu, baseline, stack, spans })
    }

    /// Measures the CPU time since the baseline. Where there is none, the baseline is this moment.
    fn cpu_usage(&self, thread: &ThreadState, baseline: Option<Baseline>, state: Option<SyscallState>) -> CpuUsage {
        let none = |baseline| CpuUsage { used: None, share: None, baseline };
        let Some(tid) = thread.tid else { return none(None) };
        let sample = || Some(Baseline { cpu: procfs::cpu_time(tid)?, at: self.now(), run_delay: None });
        let Some(mut now) = sample() else { return none(None) };
        let baseline = baseline.unwrap_or(now);
        let is_waiting = matches!(state, Some(SyscallState::Waiting { .. }));
        if now.at.saturating_sub(baseline.at) < MIN_WINDOW && !is_waiting {
            std::thread::sleep(MIN_WINDOW.to_duration());
            let Some(later) = sample() else { return none(Some(baseline)) };
            now = later;
        }
        let (used, window) = (now.cpu.saturating_sub(baseline.cpu), now.at.saturating_sub(baseline.at));
        CpuUsage {
            used: Some(used),
            share: (window > Nanos::ZERO).then(|| used.0 as f64 / window.0 as f64),
            baseline: Some(baseline),
        }
    }

    /// Returns whether a runnable thread that used little CPU time was kept from a CPU.
    ///
    /// The proof is the kernel's run delay. The kernel counts a wait only when the thread gets a
    /// CPU. Until then, the proof is that the thread is still ready to run and has not run. Without
    /// run delays the low CPU share is all the evidence there is.
    fn was_starved(
        &self,
        thread: &ThreadState,
        baseline: Option<Baseline>,
        run_delay_before: Option<Nanos>,
        on_cpu: Option<Nanos>,
    ) -> bool {
        let (Some(tid), Some(baseline), Some(on_cpu)) = (thread.tid, baseline, on_cpu) else { return false };
        let off_cpu = self.now().saturating_sub(baseline.at).saturating_sub(on_cpu);
        let waited = || Some(procfs::run_delay(tid)?.saturating_sub(run_delay_before.or(baseline.run_delay)?));
        let Some(so_far) = waited() else { return true };
        if so_far >= off_cpu / 2 {
            return true;
        }
        let cpu = procfs::cpu_time(tid);
        std::thread::sleep(MIN_WINDOW.to_duration());
        cpu == procfs::cpu_time(tid) && procfs::syscall(tid) == Some(SyscallState::Running)
            || waited().is_some_and(|waited| waited >= off_cpu / 2)
    }

    /// Returns whether a poll reached the threshold only because its thread was kept from a CPU.
    /// Only a poll that computes, is over, or has an unknown cause can have been delayed so.
    ///
    /// `elapsed` is the poll's duration at the scan, and `run_delay_before` the thread's run delay
    /// before the poll started.
    pub(crate) fn was_delayed_by_starvation(
        &self,
        thread: &ThreadState,
        poll: &Poll,
        elapsed: Nanos,
        examination: &Examination,
        run_delay_before: Option<Nanos>,
    ) -> bool {
        let (Some(before), Some(tid)) = (run_delay_before, thread.tid) else { return false };
        let Some(run_delay) = procfs::run_delay(tid) else { return false };
        let (waited, threshold) = (run_delay.saturating_sub(before), self.meter.threshold);
        let is_short_without_wait = elapsed.saturating_sub(waited) < threshold;
        match examination {
            // The duration at the scan is the longest that is known.
            Examination::Over { .. } => is_short_without_wait,
            Examination::Found(diagnosis) => match diagnosis.cause {
                // No other evidence shows what the thread did.
                Cause::Unknown => is_short_without_wait,
                Cause::Cpu => {
                    let elapsed = self.now().saturating_sub(poll.start);
                    spent_most_waiting(waited, elapsed)
                        || elapsed.saturating_sub(waited) < threshold && waited >= elapsed / 4
                }
                _ => false,
            },
        }
    }

    /// Returns whether any thread has been examined since the previous call. The examinations may
    /// have kept the watchdog thread waiting.
    pub(crate) fn take_examined(&mut self) -> bool {
        std::mem::take(&mut self.has_examined)
    }

    /// Returns the addresses in a thread's stack, outermost first. `None` where the capture fails
    /// or is incomplete, and as long as the unwind tables have not been read.
    pub(crate) fn addresses(&mut self, thread: &ThreadState, identity: &StallIdentity) -> Option<Vec<Address>> {
        if !is_preloaded() {
            return None;
        }
        self.has_examined = true;
        let state = thread.tid.and_then(procfs::syscall);
        let stack = self.capture(thread, identity, state, RESERVED_FOR_STALLS)?;
        stack.is_complete().then(|| stack.addresses().rev().collect())
    }

    /// Captures a stack, unless the limit of captures is reached. `reserve` captures of a burst are
    /// left to other callers.
    fn capture(
        &mut self,
        thread: &ThreadState,
        identity: &StallIdentity,
        state: Option<SyscallState>,
        reserve: u32,
    ) -> Option<RawStack> {
        if !self.capture_stacks {
            return None;
        }
        let Some((tid, stack)) = thread.tid.zip(thread.stack) else {
            self.status.count_capture(CaptureOutcome::Unavailable);
            return None;
        };
        if !self.capture_limit.take_above(reserve, self.now().to_duration()) {
            self.status.count_capture(CaptureOutcome::Limited);
            return None;
        }
        let is_current = || identity.is_current(thread);
        let result = self.capturer.capture_if_current(Target { tid, stack }, state, is_current);
        self.status.count_capture(CaptureOutcome::of(&result));
        result.ok()
    }

    fn now(&self) -> Nanos {
        self.meter.clock.nanos(self.meter.clock.now())
    }
}

/// Returns the system call that a stall with this cause is blocked in. Other causes have none, also
/// where the thread was in a system call when it was examined.
fn blocking_syscall(cause: Cause, state: Option<SyscallState>) -> Option<Syscall> {
    match (cause, state?) {
        (Cause::Syscall | Cause::Lock, SyscallState::Waiting { call: Some(call), .. }) => Some(describe_syscall(call)),
        _ => None,
    }
}

fn describe_syscall(call: SyscallEntry) -> Syscall {
    let (name, purpose) = describe(call.number);
    let has_descriptor = matches!(purpose, Purpose::Io | Purpose::FileLock);
    let target = has_descriptor.then(|| descriptor_target(call.first_argument)).flatten();
    Syscall { name, target, purpose }
}

/// Returns what a file descriptor refers to: for a connected socket its peer, else the link's
/// target in procfs.
fn descriptor_target(fd: u64) -> Option<Arc<str>> {
    let target = procfs::descriptor(fd)?;
    if target.starts_with("socket:")
        && let Some(peer) = sys::peer(fd)
    {
        return Some(format!("socket to {peer}").into());
    }
    Some(target.into())
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_cause_that_waits_has_a_system_call() {
        let call = SyscallEntry { number: libc::SYS_write, first_argument: u64::MAX };
        let state = Some(SyscallState::Waiting { call: Some(call), sp: Address::default(), ip: Address::default() });
        for &cause in Cause::ALL {
            let name = blocking_syscall(cause, state).map(|syscall| syscall.name);
            let expected = matches!(cause, Cause::Syscall | Cause::Lock).then_some("write");
            assert_eq!(name, expected, "{cause:?}");
        }
        assert!(blocking_syscall(Cause::Syscall, Some(SyscallState::Running)).is_none());
        assert!(blocking_syscall(Cause::Syscall, None).is_none());
    }
}
