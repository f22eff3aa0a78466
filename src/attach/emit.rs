//! Turns the changes of the detector into [`Event`]s: examines what was read of the thread, and
//! resolves all names.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use pollwatch_stack::procfs::SyscallState;
use pollwatch_stack::{RawStack, Tid};

use super::inspect::{CapturedSample, TargetStacks};
use super::state::AttachState;
use super::target::TargetProcess;
use super::threads::{TargetThread, tid};
use crate::detect::classify::{Evidence, classify, syscall_in};
use crate::detect::outside::observation::{Activity, EntryId, WorkerChange};
use crate::detect::time_account::{PollEnd, PollReadings, ThreadTimes};
use crate::model::cause::{Cause, Certainty, Syscall};
use crate::model::event::{CpuVerdict, Event, Liveness, StallEnd, StallOrigin, StallProgress, StallStarted};
use crate::model::id::{FrameNumber, SiteId, StallId};
use crate::model::kernel_time::KernelUsage;
use crate::model::site::Site;
use crate::model::stall::Stall;
use crate::model::time::Nanos;
use crate::util::lock;

/// The receiver of events. It is called on the engine's thread.
pub(super) type AttachSink = Box<dyn FnMut(Event) + Send>;

/// The longest time between two examinations of a stall.
const MAX_INTERVAL: Nanos = Nanos::from_secs(1);

/// What an emission needs of the engine.
pub(super) struct EmitContext<'a> {
    pub(super) state: &'a AttachState,
    pub(super) target: &'a mut dyn TargetProcess,
    pub(super) stacks: &'a mut TargetStacks,
    /// The moment of the scan.
    pub(super) at: Nanos,
}

/// An ongoing stall.
struct ExaminedStall {
    id: StallId,
    liveness: Arc<ScannedLiveness>,
    start: Nanos,
    activity: Activity,
    /// The thread's CPU time at the first reading of the stall.
    baseline: Option<Nanos>,
    /// The readings at the latest examination.
    readings: PollReadings,
    /// The latest stack, and the state that the thread was in.
    sample: Option<LatestSample>,
    /// The duration of the stall at the latest examination.
    examined: Nanos,
    /// The latest duration that was confirmed.
    confirmed: Nanos,
}

/// The latest stack of a stall.
struct LatestSample {
    raw: RawStack,
    state: SyscallState,
}

/// Whether a stall was ongoing at the latest scan.
#[derive(Debug)]
struct ScannedLiveness(AtomicBool);

impl Liveness for ScannedLiveness {
    fn open_frames(&self) -> Option<Vec<FrameNumber>> {
        self.0.load(Ordering::Relaxed).then(Vec::new)
    }
}

/// The results of one examination.
struct AttachDiagnosis {
    cause: Cause,
    syscall: Option<Syscall>,
    on_cpu: Option<Duration>,
    verdict: CpuVerdict,
}

/// Emits the changes of the detector as events, into a sink.
pub(super) struct AttachEmitter {
    threshold: Nanos,
    sink: AttachSink,
    latest_id: u64,
    ongoing: HashMap<EntryId, ExaminedStall>,
}

impl AttachEmitter {
    pub(super) fn new(threshold: Nanos, sink: AttachSink) -> AttachEmitter {
        AttachEmitter { threshold, sink, latest_id: 0, ongoing: HashMap::new() }
    }

    pub(super) fn emit(&mut self, event: Event) {
        (self.sink)(event);
    }

    /// Emits the event of a change.
    pub(super) fn emit_change(
        &mut self,
        context: &mut EmitContext<'_>,
        threads: &HashMap<Tid, TargetThread>,
        change: WorkerChange,
    ) {
        match change {
            WorkerChange::Started { thread, certainty, activity, start, elapsed } => {
                let Some(known) = threads.get(&tid(thread)) else { return };
                let begin = StallBegin { thread, certainty, activity, start, elapsed };
                self.emit_started(context, known, begin);
            }
            WorkerChange::ReportDue { thread, elapsed } => self.emit_progress(context, threads, thread, elapsed, true),
            WorkerChange::StillOngoing { thread, elapsed } => {
                let due = |stall: &ExaminedStall| elapsed >= stall.examined + MAX_INTERVAL;
                if context.stacks.has_sample(thread) || self.ongoing.get(&thread).is_some_and(due) {
                    return self.emit_progress(context, threads, thread, elapsed, false);
                }
                let Some(stall) = self.ongoing.get_mut(&thread) else { return };
                stall.confirmed = elapsed;
                let id = stall.id;
                let elapsed = elapsed.to_duration();
                self.emit(Event::StallStillOngoing { id, elapsed, at: context.at });
            }
            WorkerChange::Ended { thread, elapsed } => {
                let Some(stall) = self.ongoing.remove(&thread) else { return };
                self.emit_ended(&stall, elapsed);
            }
        }
    }

    /// Ends all ongoing stalls, with what was confirmed of each.
    pub(super) fn end_all(&mut self) {
        for (_, stall) in std::mem::take(&mut self.ongoing) {
            self.emit_ended(&stall, stall.confirmed);
        }
    }

    fn emit_ended(&mut self, stall: &ExaminedStall, elapsed: Nanos) {
        stall.liveness.0.store(false, Ordering::Relaxed);
        let end = PollEnd { at: stall.start + elapsed, cpu: None };
        let verdict = match stall.activity {
            // A thread that waits in the kernel has not waited for a CPU.
            Activity::Waiting => CpuVerdict::Other,
            Activity::Computing => stall.readings.verdict_at_end(elapsed, end, None, self.threshold),
        };
        let end = StallEnd { elapsed: elapsed.to_duration(), verdict, fork: None };
        self.emit(Event::StallEnded { id: stall.id, end });
    }

    fn emit_started(&mut self, context: &mut EmitContext<'_>, known: &TargetThread, begin: StallBegin) {
        let StallBegin { thread, certainty, activity, start, elapsed } = begin;
        self.latest_id += 1;
        let id = StallId(self.latest_id);
        let runtime = known.member.map(|member| member.runtime).unwrap_or(crate::model::id::RuntimeId::OTHER);
        let runtime_name = lock(&context.state.runtimes).name(runtime);
        let ago = context.state.now().saturating_sub(start).to_duration();
        let started_at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut stall = Stall {
            certainty,
            elapsed: elapsed.to_duration(),
            elapsed_is_lower_bound: true,
            ..Stall::new(id, runtime_name, known.name.clone(), Site::new(None), started_at)
        };
        let sample =
            context.stacks.take_sample(thread).map(|CapturedSample { raw, state }| LatestSample { raw, state });
        let readings = PollReadings::new(start, known.readings.iter().copied());
        let baseline = readings_from(known, start).map(|first| first.cpu);
        let liveness = Arc::new(ScannedLiveness(AtomicBool::new(true)));
        let examined = ExaminedStall {
            id,
            liveness: liveness.clone(),
            start,
            activity,
            baseline,
            readings,
            sample,
            examined: elapsed,
            confirmed: elapsed,
        };
        let found = examine(context, &examined, None, elapsed, self.threshold);
        (stall.cause, stall.syscall, stall.on_cpu) = (found.cause, found.syscall, found.on_cpu);
        let stack = examined.sample.as_ref().map(|sample| sample.raw.clone());
        self.ongoing.insert(thread, examined);
        self.emit(Event::StallStarted(Box::new(StallStarted {
            stall,
            origin: StallOrigin { runtime, site: SiteId::OTHER, route: None, parent_route: None },
            poll: None,
            at: context.at,
            liveness,
            stack,
            lock_wait: None,
            verdict: found.verdict,
        })));
    }

    fn emit_progress(
        &mut self,
        context: &mut EmitContext<'_>,
        threads: &HashMap<Tid, TargetThread>,
        thread: EntryId,
        elapsed: Nanos,
        is_report: bool,
    ) {
        let Some(stall) = self.ongoing.get_mut(&thread) else { return };
        let previous = stall.readings.clone();
        if let Some(known) = threads.get(&tid(thread)) {
            known.readings.iter().for_each(|reading| stall.readings.add(*reading));
        }
        let sample = context.stacks.take_sample(thread);
        let is_new = sample.is_some();
        if let Some(CapturedSample { raw, state }) = sample {
            stall.sample = Some(LatestSample { raw, state });
        }
        // The stack of a thread that has not run is the one of before.
        let is_current = is_new || stall.activity == Activity::Waiting;
        let stack = stall.sample.as_ref().filter(|_| is_current).map(|sample| sample.raw.clone());
        let found = examine(context, stall, Some(&previous), elapsed, self.threshold);
        let since = stall.examined + elapsed.saturating_sub(stall.examined) / 2;
        (stall.examined, stall.confirmed) = (elapsed, elapsed);
        let progress = StallProgress {
            id: stall.id,
            elapsed: elapsed.to_duration(),
            at: context.at,
            since: since.to_duration(),
            is_report,
            cause: found.cause,
            syscall: found.syscall,
            on_cpu: found.on_cpu,
            kernel: KernelUsage::default(),
            spans: Vec::new(),
            stack,
            no_stack: None,
            lock_wait: None,
            verdict: found.verdict,
        };
        self.emit(Event::StallProgress(Box::new(progress)));
    }
}

/// Returns what the readings of a stall show.
fn examine(
    context: &mut EmitContext<'_>,
    stall: &ExaminedStall,
    previous: Option<&PollReadings>,
    elapsed: Nanos,
    threshold: Nanos,
) -> AttachDiagnosis {
    let state = stall.sample.as_ref().map(|sample| sample.state);
    let since_start = stall.readings.latest().zip(stall.baseline);
    let on_cpu = since_start.map(|(now, start)| now.cpu.saturating_sub(start).to_duration());
    if stall.activity == Activity::Waiting {
        // The thread has not run since the stall started, so nothing else counts.
        let evidence = Evidence { state, sleeps_in: None, shares: None, verdict: CpuVerdict::Other };
        let syscall = syscall(&mut *context.target, state);
        return AttachDiagnosis { cause: classify(evidence), syscall, on_cpu, verdict: CpuVerdict::Other };
    }
    let verdict = stall.readings.so_far().verdict(elapsed, threshold);
    let evidence = Evidence { state, sleeps_in: None, shares: stall.readings.shares_since(previous), verdict };
    let cause = classify(evidence);
    let is_wait = matches!(cause, Cause::Syscall | Cause::Lock);
    let syscall = if is_wait { syscall(&mut *context.target, state) } else { None };
    AttachDiagnosis { cause, syscall, on_cpu, verdict }
}

/// A stall that starts: the fields of [`WorkerChange::Started`].
struct StallBegin {
    thread: EntryId,
    certainty: Certainty,
    activity: Activity,
    start: Nanos,
    elapsed: Nanos,
}

/// Returns the first reading of a thread within a stall that started at this moment.
fn readings_from(known: &TargetThread, start: Nanos) -> Option<&ThreadTimes> {
    known.readings.iter().find(|reading| reading.at >= start).or(known.readings.front())
}

/// Returns the system call that a thread of the process in this state waits in.
fn syscall(target: &mut dyn TargetProcess, state: Option<SyscallState>) -> Option<Syscall> {
    syscall_in(state, |fd| target.descriptor(fd))
}
