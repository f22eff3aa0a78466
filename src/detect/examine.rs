//! Looks at one blocked thread: what it waits for, how much CPU it used, its stack. On the watchdog thread, some 100 µs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pollwatch_stack::{Address, Capturer, RawStack, Target, is_preloaded};

use super::classify::{Evidence, classify, describe};
use super::outcome::Outcome;
use super::poll_entry::is_poll_entry;
use super::procfs::{self, SyscallState as At};
use super::scan::{Poll, is_kept_off};
use super::still::Still;
use crate::measure::spans;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Purpose, Syscall};
use crate::shared::Shared;
use crate::sys;

/// Stacks taken without waiting, and one more each so many nanoseconds: a flood of stalls must not keep the watchdog from finding them.
const BURST: u32 = 64;
const EVERY: u64 = 5_000_000;
/// Of these, so many are kept for stalls, while suspicion wants stacks as well.
const FOR_STALLS: u32 = BURST / 2;
/// A share of CPU time is not judged over less.
const LEAST_WINDOW: u64 = 1_000_000;

/// CPU time and clock (nanoseconds) when a poll was first seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) cpu: u64,
    pub(crate) at: u64,
    /// `procfs::run_delay` by then, if it was asked for.
    pub(crate) run_delay: Option<u64>,
}

/// A starved thread with less than this share of a CPU is not asked for its stack.
const STANDS: f64 = 0.05;

/// What was found.
pub(crate) struct Finding {
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    /// Where the time on a CPU is counted from.
    pub(crate) first: Option<First>,
    pub(crate) stack: Option<RawStack>,
    /// `None` when the poll is over.
    pub(crate) spans: Option<Vec<Arc<str>>>,
}

/// See the module's text.
pub(crate) struct Examiner {
    shared: Arc<Shared>,
    capturer: Capturer,
    tokens: u32,
    refilled: u64,
    /// A thread was looked at, which may have taken a while.
    examined: bool,
}

impl Examiner {
    pub(crate) fn new(shared: Arc<Shared>) -> Examiner {
        Examiner {
            shared,
            capturer: Capturer::new().with_boundary(is_poll_entry),
            tokens: BURST,
            refilled: 0,
            examined: false,
        }
    }

    /// Examines a thread that is in what `still` says, and that had waited for a CPU for `before` in all before that. Nothing is said
    /// of it if that is over before it is through.
    pub(crate) fn examine(
        &mut self,
        thread: &ThreadState,
        still: &Still,
        first: Option<First>,
        before: Option<u64>,
    ) -> Finding {
        self.examined = true;
        let at = thread.tid.and_then(procfs::syscall);
        let (on_cpu, share, first) = self.on_cpu(thread, first, at);
        let mut cause = classify(Evidence { at, on_cpu: share });
        if cause == Cause::Starved && !self.was_starved(thread, first, before, on_cpu) {
            // It waited for something else, and goes on just now.
            cause = Cause::Unknown;
        }
        // A thread that is given no CPU at all takes its signal late: the watchdog would wait for nothing that matters.
        let stands = cause == Cause::Starved && share.is_some_and(|share| share < STANDS);
        let stack = if stands { None } else { self.stack(thread, still, at, 0) };
        let syscall = syscall(at);
        // Those that a thread is in outside of any poll that is measured may be of any task.
        let spans = match still {
            Still::Poll(number) => Some(spans::of_poll(thread, *number)),
            Still::Worker(_) => Some(Vec::new()),
        };
        if !still.holds(thread) {
            return Finding { cause: Cause::Unknown, syscall: None, on_cpu: None, first, stack: None, spans: None };
        }
        Finding { cause, syscall, on_cpu, first, stack, spans }
    }

    /// CPU time since the poll was first seen, and its share of that time.
    fn on_cpu(
        &self,
        thread: &ThreadState,
        first: Option<First>,
        at: Option<At>,
    ) -> (Option<Duration>, Option<f64>, Option<First>) {
        let clock = &self.shared.meter.clock;
        let Some(tid) = thread.tid else { return (None, None, None) };
        let sample = || Some(First { cpu: sys::thread_cpu_nanos(tid)?, at: clock.nanos(clock.now()), run_delay: None });
        let Some(mut now) = sample() else { return (None, None, None) };
        let first = first.unwrap_or(now);
        if now.at.saturating_sub(first.at) < LEAST_WINDOW && !matches!(at, Some(At::Waiting { .. })) {
            std::thread::sleep(Duration::from_nanos(LEAST_WINDOW));
            let Some(later) = sample() else { return (None, None, Some(first)) };
            now = later;
        }
        let (used, window) = (now.cpu.saturating_sub(first.cpu), now.at.saturating_sub(first.at));
        (Some(Duration::from_nanos(used)), (window > 0).then(|| used as f64 / window as f64), Some(first))
    }

    /// Whether a thread that runs or is ready to, but has used little CPU time, was kept from it: by what the kernel says that it
    /// waited for a CPU, or, as long as it has not been given one since, by its waiting still.
    fn was_starved(
        &self,
        thread: &ThreadState,
        first: Option<First>,
        before: Option<u64>,
        on_cpu: Option<Duration>,
    ) -> bool {
        let (Some(tid), Some(first), Some(on_cpu)) = (thread.tid, first, on_cpu) else { return false };
        let clock = &self.shared.meter.clock;
        let off_cpu = clock.nanos(clock.now()).saturating_sub(first.at).saturating_sub(on_cpu.as_nanos() as u64);
        let waited = || Some(procfs::run_delay(tid)?.saturating_sub(before.or(first.run_delay)?));
        let Some(so_far) = waited() else { return true };
        if so_far >= off_cpu / 2 {
            return true;
        }
        let cpu = sys::thread_cpu_nanos(tid);
        std::thread::sleep(Duration::from_nanos(LEAST_WINDOW));
        cpu == sys::thread_cpu_nanos(tid) && procfs::syscall(tid) == Some(At::Running)
            || waited().is_some_and(|waited| waited >= off_cpu / 2)
    }

    /// Whether a poll that computes, or that was over before it was seen, is due only because it was kept from a CPU. `before` is what
    /// its thread had waited in all before it began; what it waits for right now is counted when it is given a CPU.
    pub(crate) fn is_excused(
        &self,
        thread: &ThreadState,
        poll: &Poll,
        (elapsed, cause): (u64, Cause),
        before: Option<u64>,
    ) -> bool {
        let (Some(before), Some(tid)) = (before, thread.tid) else { return false };
        let Some(now) = procfs::run_delay(tid) else { return false };
        let (waited, threshold) = (now.saturating_sub(before), self.shared.meter.threshold);
        let clock = &self.shared.meter.clock;
        match cause {
            // Not longer than this, as far as is known.
            Cause::Unknown => elapsed.saturating_sub(waited) < threshold,
            Cause::Cpu => {
                let elapsed = clock.nanos(clock.now()).saturating_sub(poll.begin);
                is_kept_off(waited, elapsed) || elapsed.saturating_sub(waited) < threshold && waited >= elapsed / 4
            }
            _ => false,
        }
    }

    /// Whether any thread has been looked at since this was last asked.
    pub(crate) fn has_examined(&mut self) -> bool {
        std::mem::take(&mut self.examined)
    }

    /// The addresses in a thread's stack, outermost first; `None` where they are not all known, or not at once.
    pub(crate) fn addresses(&mut self, thread: &ThreadState, still: &Still) -> Option<Vec<Address>> {
        if !is_preloaded() {
            return None;
        }
        self.examined = true;
        let at = thread.tid.and_then(procfs::syscall);
        let stack = self.stack(thread, still, at, FOR_STALLS)?;
        stack.is_complete().then(|| stack.addresses().rev().collect())
    }

    /// Takes a stack, unless only so many more may be taken for now.
    fn stack(&mut self, thread: &ThreadState, still: &Still, at: Option<At>, spare: u32) -> Option<RawStack> {
        if !self.shared.capture {
            return None;
        }
        let target = thread.tid.zip(thread.stack).map(|(tid, stack)| Target { tid, stack });
        let (outcome, stack) = match target {
            _ if !self.admit(spare) => (Outcome::Limited, None),
            None => (Outcome::Unavailable, None),
            Some(target) => {
                let result = self.capturer.capture_if_current(target, at, || still.holds(thread));
                (Outcome::of(&result), result.ok())
            }
        };
        self.shared.captures[outcome as usize].fetch_add(1, Ordering::Relaxed);
        stack
    }

    fn admit(&mut self, spare: u32) -> bool {
        let clock = &self.shared.meter.clock;
        let now = clock.nanos(clock.now());
        let earned = now.saturating_sub(self.refilled) / EVERY;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned.min(u64::from(BURST)) as u32).min(BURST);
            self.refilled = now;
        }
        let admitted = self.tokens > spare;
        self.tokens -= u32::from(admitted);
        admitted
    }
}

fn syscall(at: Option<At>) -> Option<Syscall> {
    let At::Waiting { call: Some(call), .. } = at? else { return None };
    let (name, purpose) = describe(call.number);
    let target =
        (purpose == Purpose::Io || purpose == Purpose::FileLock).then(|| target(call.first_argument)).flatten();
    Some(Syscall { name, target, purpose })
}

fn target(fd: u64) -> Option<Arc<str>> {
    let target = procfs::descriptor(fd)?;
    if target.starts_with("socket:")
        && let Some(peer) = sys::peer(fd)
    {
        return Some(format!("socket to {peer}").into());
    }
    Some(target.into())
}
