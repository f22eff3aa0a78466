//! Examination of one blocked thread: the system call that it waits in, its CPU time, its stack.
//!
//! An examination runs on the watchdog thread. It takes about 0.1 ms for a waiting thread, and 0.3
//! ms for a running one. It takes 1 ms more where CPU time has to be measured over a window, up to
//! 2 ms more to find what a thread waits for that runs only for moments, up to 5 ms more where a
//! thread gets no CPU to copy its stack, and up to 500 ms more where a thread is preempted while it
//! copies its stack.

use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::procfs::ProcessFolder;
use pollwatch_stack::{Address, Capturer, RawStack, Target, Tid, is_preloaded};

use super::classify::{Evidence, classify, syscall_in};
use super::forks::{self, PastTime};
use super::identity::StallIdentity;
use super::kernel_time::KernelTimes;
use super::pending_captures::PendingCaptures;
use super::poll_entry::is_poll_entry;
use super::procfs::{self, Descriptor, SyscallState};
use super::status::WatcherStatus;
use super::time_account::{PollEnd, PollReadings};
use super::wait_channel::WaitChannel;
use crate::measure::entry::spans;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Syscall};
use crate::model::event::CpuVerdict;
use crate::model::kernel_time::KernelUsage;
use crate::model::labels::CaptureOutcome;
use crate::model::no_stack::NoStack;
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
/// The readings of a thread that was asleep for most of the time, to find what it waits for.
const WAIT_READINGS: u32 = 8;
/// The time before each of these readings.
const WAIT_READING_INTERVAL: Duration = Duration::from_micros(200);
/// The share of a CPU below which the stack of a starved thread is not captured.
const MIN_CAPTURE_SHARE: f64 = 0.05;

/// The stall that is examined.
pub(crate) struct Subject<'a> {
    pub(crate) thread: &'a Arc<ThreadState>,
    pub(crate) identity: &'a StallIdentity,
    /// The thread's CPU time when the stall was first observed.
    pub(crate) baseline: Option<Nanos>,
    /// The readings of the thread up to the scan.
    pub(crate) readings: &'a PollReadings,
    /// The readings at the previous examination.
    pub(crate) previous: Option<&'a PollReadings>,
    /// The duration of the stall at the moment `at` of the scan.
    pub(crate) elapsed: Nanos,
    pub(crate) at: Nanos,
}

/// The result of an examination.
pub(crate) enum Examination {
    /// The stall ended before its examination did: the readings may be about something else. What
    /// is left is the verdict about its time until the scan.
    Over {
        verdict: CpuVerdict,
    },
    Found(Box<Diagnosis>),
}

/// The findings about an ongoing stall.
pub(crate) struct Diagnosis {
    pub(crate) cause: Cause,
    /// The system call that the thread waits in, with the causes `syscall` and `lock`.
    pub(crate) syscall: Option<Syscall>,
    pub(crate) on_cpu: Option<Duration>,
    /// What the kernel did for the thread since the stall was first observed.
    pub(crate) kernel: KernelUsage,
    /// The thread's CPU time from which `on_cpu` is counted.
    pub(crate) baseline: Option<Nanos>,
    /// The readings of the thread up to the examination.
    pub(crate) readings: PollReadings,
    /// The state of the thread that the cause follows from.
    pub(crate) state: Option<SyscallState>,
    pub(crate) stack: Option<RawStack>,
    /// The reason why there is no stack.
    pub(crate) no_stack: Option<NoStack>,
    pub(crate) spans: Vec<Arc<str>>,
    pub(crate) verdict: CpuVerdict,
}

/// Examines blocked threads, and limits how often stacks are captured.
pub(crate) struct Examiner {
    meter: Arc<Meter>,
    status: Arc<WatcherStatus>,
    /// True unless the user switched captures off.
    capture_stacks: bool,
    capturer: Capturer,
    pending: PendingCaptures,
    pub(crate) kernel_times: KernelTimes,
    capture_limit: TokenBucket,
    /// The limit of captures of threads that are in no stall, in search of those that are.
    search_limit: TokenBucket,
    has_examined: bool,
}

impl Examiner {
    pub(crate) fn new(meter: Arc<Meter>, status: Arc<WatcherStatus>, capture_stacks: bool) -> Examiner {
        Examiner {
            meter,
            status,
            capture_stacks,
            capturer: Capturer::new().with_boundary(is_poll_entry),
            pending: PendingCaptures::default(),
            kernel_times: KernelTimes::default(),
            capture_limit: TokenBucket::new(CAPTURES, Duration::ZERO),
            search_limit: TokenBucket::new(CAPTURES, Duration::ZERO),
            has_examined: false,
        }
    }

    /// Examines a thread in a stall.
    pub(crate) fn examine(&mut self, subject: &Subject<'_>) -> Examination {
        self.has_examined = true;
        let Subject { thread, identity, .. } = *subject;
        let (mut readings, mut baseline) = (subject.readings.clone(), subject.baseline);
        let state = self.read(thread, &mut readings, &mut baseline, subject.previous);
        let mut evidence = self.evidence(subject, &readings, state);
        let counts_delays = readings.latest().is_some_and(|latest| latest.run_delay.is_some());
        if evidence.waits_in_between()
            && counts_delays
            && let Some(tid) = thread.tid
        {
            match self.find_wait(tid, &mut readings) {
                Some(wait) => evidence.state = Some(wait),
                None => evidence = self.evidence(subject, &readings, state),
            }
        }
        // The system call cannot be read in a process that is not dumpable.
        let channel = thread.tid.filter(|_| evidence.state.is_none()).and_then(WaitChannel::read);
        evidence.sleeps_in = channel.as_ref().map(|channel| channel.purpose);
        let (cause, verdict, shares) = (classify(evidence), evidence.verdict, evidence.shares);
        // A thread that gets no CPU at all handles the signal of a capture late. The watchdog would
        // wait for it and learn little.
        let gets_no_cpu = cause == Cause::Starved && shares.is_some_and(|shares| shares.cpu < MIN_CAPTURE_SHARE);
        // Many long stalls that are examined again leave captures to those that start.
        let reserve = if subject.previous.is_some() { RESERVED_FOR_STALLS } else { 0 };
        let captured = match gets_no_cpu {
            true => Err(NoStack::NoCpu),
            false => self.capture(thread, identity, evidence.state, reserve),
        };
        let is_wait = matches!(cause, Cause::Syscall | Cause::Lock);
        let by_channel = || channel.filter(|_| is_wait).map(WaitChannel::into_syscall);
        let syscall = blocking_syscall(cause, evidence.state).or_else(by_channel);
        // Spans that a thread entered outside of any measured poll may belong to any task.
        let spans = match identity {
            StallIdentity::Poll(number) => spans::during_poll(thread, *number),
            StallIdentity::Worker(_) => Vec::new(),
        };
        if !identity.is_current(thread) {
            let end = PollEnd { at: subject.at, cpu: None };
            let account = subject.readings.at_end(end, readings.latest().copied());
            return Examination::Over { verdict: account.verdict(subject.elapsed, self.meter.threshold) };
        }
        let on_cpu = baseline.zip(readings.latest()).map(|(start, now)| now.cpu.saturating_sub(start).to_duration());
        let usage = |tid| self.kernel_times.usage((thread.id, identity.key()), tid, on_cpu);
        let mut kernel = thread.tid.map(usage).unwrap_or_default();
        let started_ago = subject.elapsed + self.now().saturating_sub(subject.at);
        kernel.fork = longest_fork(thread, PastTime { started_ago, ended_ago: Nanos::ZERO });
        let state = evidence.state;
        let (no_stack, stack) = (captured.as_ref().err().copied(), captured.ok());
        Examination::Found(Box::new(Diagnosis {
            cause,
            syscall,
            on_cpu,
            kernel,
            baseline,
            readings,
            state,
            stack,
            no_stack,
            spans,
            verdict,
        }))
    }

    /// Adds a reading of the thread, and a second one where CPU time has to be measured over a
    /// window. Returns the thread's state. Without a baseline, the first reading is it.
    fn read(
        &self,
        thread: &ThreadState,
        readings: &mut PollReadings,
        baseline: &mut Option<Nanos>,
        previous: Option<&PollReadings>,
    ) -> Option<SyscallState> {
        let tid = thread.tid?;
        let Some(reading) = procfs::reading(tid, || self.now()) else { return procfs::syscall(tid) };
        readings.add(reading.times);
        baseline.get_or_insert(reading.times.cpu);
        let is_waiting = matches!(reading.state, Some(SyscallState::Waiting { .. }));
        if is_waiting || readings.read_since(previous) >= MIN_WINDOW {
            return reading.state;
        }
        std::thread::sleep(MIN_WINDOW.to_duration());
        let Some(reading) = procfs::reading(tid, || self.now()) else { return reading.state };
        readings.add(reading.times);
        reading.state
    }

    /// Returns what is known of a stall by readings up to this moment.
    fn evidence(&self, subject: &Subject<'_>, readings: &PollReadings, state: Option<SyscallState>) -> Evidence {
        let since_scan = readings.latest().map_or(Nanos::ZERO, |latest| latest.at.saturating_sub(subject.at));
        let verdict = readings.so_far().verdict(subject.elapsed + since_scan, self.meter.threshold);
        Evidence { state, sleeps_in: None, shares: readings.shares_since(subject.previous), verdict }
    }

    /// Finds what a thread waits for that was asleep for most of the time, and is ready to run at
    /// this moment. If it is not asleep in the next 2 ms either, it waits for a CPU, or has got one
    /// and the kernel has counted its wait: the readings show that after this call.
    fn find_wait(&self, tid: Tid, readings: &mut PollReadings) -> Option<SyscallState> {
        for _ in 0..WAIT_READINGS {
            std::thread::sleep(WAIT_READING_INTERVAL);
            match procfs::syscall(tid)? {
                SyscallState::Running => {}
                wait @ SyscallState::Waiting { .. } => return Some(wait),
            }
        }
        let then = readings.latest().copied()?;
        let now = procfs::reading(tid, || self.now())?.times;
        readings.add(now);
        if now.cpu == then.cpu && now.runs == then.runs && now.is_runnable {
            readings.set_waiting_for_cpu();
        }
        None
    }

    /// Returns whether any thread has been examined since the previous call. The examinations may
    /// have kept the watchdog thread waiting.
    pub(crate) fn take_examined(&mut self) -> bool {
        std::mem::take(&mut self.has_examined)
    }

    /// Returns the addresses in a thread's stack, outermost first. `None` where the capture fails
    /// or is incomplete, and as long as the unwind tables have not been read.
    pub(crate) fn addresses(&mut self, thread: &Arc<ThreadState>, identity: &StallIdentity) -> Option<Vec<Address>> {
        if !is_preloaded() {
            return None;
        }
        self.has_examined = true;
        let state = thread.tid.and_then(procfs::syscall);
        let stack = self.capture(thread, identity, state, RESERVED_FOR_STALLS).ok()?;
        stack.is_complete().then(|| stack.addresses().rev().collect())
    }

    /// Returns the addresses in the stack of a thread that need not be measured, outermost first.
    /// It was observed in `state`. `None` where the capture fails or is incomplete.
    pub(crate) fn addresses_of(
        &mut self,
        target: Target,
        state: Option<SyscallState>,
        is_current: impl Fn() -> bool,
    ) -> Option<Vec<Address>> {
        if !self.capture_stacks || !is_preloaded() {
            return None;
        }
        if !self.search_limit.take(self.now().to_duration()) {
            self.status.count_capture(CaptureOutcome::Limited);
            return None;
        }
        self.has_examined = true;
        let result = self.capturer.capture_if_current(target, state, is_current);
        self.status.count_capture(CaptureOutcome::of(&result));
        let stack = result.ok()?;
        stack.is_complete().then(|| stack.addresses().rev().collect())
    }

    /// Returns whether the stack that was captured last has this word within a call.
    pub(crate) fn copy_contains(&self, call: Address, word: u64) -> bool {
        self.capturer.copy_contains(call, word)
    }

    /// Returns the stack that a thread has copied at its return from the kernel, for a stall whose
    /// capture was pending.
    pub(crate) fn take_late_stack(&mut self, thread: &ThreadState, identity: &StallIdentity) -> Option<RawStack> {
        let result = self.pending.collect(&mut self.capturer, thread, identity)?;
        self.status.count_capture(CaptureOutcome::of(&result));
        result.ok()
    }

    /// Cancels the pending captures of stalls that are over. Those that gave a stack have been
    /// collected.
    pub(crate) fn cancel_ended_captures(&mut self) {
        for _ in 0..self.pending.cancel_ended() {
            self.status.count_capture(CaptureOutcome::Moved);
        }
    }

    /// Captures a stack, unless the limit of captures is reached. `reserve` captures of a burst are
    /// left to other callers. A capture that is pending gives its stack later.
    fn capture(
        &mut self,
        thread: &Arc<ThreadState>,
        identity: &StallIdentity,
        state: Option<SyscallState>,
        reserve: u32,
    ) -> Result<RawStack, NoStack> {
        if !self.capture_stacks {
            return Err(NoStack::SwitchedOff);
        }
        let failed = |outcome| {
            self.status.count_capture(outcome);
            NoStack::Failed(outcome)
        };
        let (tid, stack) = thread.tid.zip(thread.stack).ok_or_else(|| failed(CaptureOutcome::Unavailable))?;
        if !self.capture_limit.take_above(reserve, self.meter.clock.moment().to_duration()) {
            return Err(failed(CaptureOutcome::Limited));
        }
        let target = Target { tid, stack };
        let result = self.pending.capture(&mut self.capturer, thread, identity, target, state).transpose();
        let result = result.ok_or(NoStack::InKernel)?;
        let outcome = CaptureOutcome::of(&result);
        self.status.count_capture(outcome);
        result.map_err(|_| NoStack::Failed(outcome))
    }

    fn now(&self) -> Nanos {
        self.meter.clock.moment()
    }
}

/// Returns the time of the longest fork of a thread in a time.
pub(crate) fn longest_fork(thread: &ThreadState, time: PastTime) -> Option<Duration> {
    forks::longest_of(thread.tid?, time).map(Nanos::to_duration)
}

/// Returns the system call that a stall with this cause is blocked in. Other causes have none, also
/// where the thread was in a system call when it was examined.
fn blocking_syscall(cause: Cause, state: Option<SyscallState>) -> Option<Syscall> {
    if matches!(cause, Cause::Syscall | Cause::Lock) { syscall_of(state) } else { None }
}

/// Returns the system call that a thread of this process in this state waits in.
pub(super) fn syscall_of(state: Option<SyscallState>) -> Option<Syscall> {
    syscall_in(state, own_descriptor)
}

/// Reads a file descriptor of this process. A connected socket is named by its peer.
fn own_descriptor(fd: u64) -> Option<Descriptor> {
    let mut descriptor = Descriptor::read(ProcessFolder::OWN, fd)?;
    if descriptor.target.starts_with("socket:")
        && let Some(peer) = sys::peer(fd)
    {
        descriptor.target = format!("socket to {peer}").into();
    }
    Some(descriptor)
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use pollwatch_stack::procfs::SyscallEntry;

    use super::*;

    #[test]
    fn only_a_cause_that_waits_has_a_system_call() {
        let call = SyscallEntry { number: libc::SYS_write, first_argument: u64::MAX };
        let state = Some(SyscallState::Waiting { call: Some(call), sp: Address::default(), ip: Address::default() });
        for &cause in Cause::ALL {
            let name = blocking_syscall(cause, state).map(|syscall| syscall.name);
            let expected = matches!(cause, Cause::Syscall | Cause::Lock).then_some("write");
            assert_eq!(name.as_deref(), expected, "{cause:?}");
        }
        assert!(blocking_syscall(Cause::Syscall, Some(SyscallState::Running)).is_none());
        assert!(blocking_syscall(Cause::Syscall, None).is_none());
    }
}
