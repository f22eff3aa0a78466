//! Turns the changes of the tracker into [`Event`]s: has the thread examined where that is due, and
//! resolves all names.

mod late_stack;
mod notices;
mod template;

use std::collections::HashMap;
use std::sync::Arc;

use super::examine::{Diagnosis, Examination, Examiner, Subject, longest_fork};
use super::forks::PastTime;
use super::identity::{StallIdentity, StallLiveness};
use super::locks;
use super::ongoing::{ExaminationSummary, OngoingStall};
use super::procfs;
use super::time_account::{PollEnd, PollReadings, ThreadTimes};
use super::track::{Change, Poll};
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Certainty};
use crate::model::coverage::StackCoverage;
use crate::model::event::{BlockedRequest, CpuVerdict, Event, StallEnd, StallOrigin, StallProgress, StallStarted};
#[cfg(feature = "server")]
use crate::model::id::PollKey;
use crate::model::id::{RuntimeId, StallId, WorkerIndex};
use crate::model::no_stack::NoStack;
use crate::model::stall::{Phase, Stall};
use crate::model::time::Nanos;

/// The receiver of events. It is called on the watchdog thread, and must neither block nor take
/// long.
pub(crate) type EventSink = Box<dyn FnMut(Event) + Send>;

/// The most ongoing stalls whose threads are read in one scan. If there are more, each is read in
/// its turn.
const MAX_SCAN_READINGS: usize = 64;
/// The most examinations in one scan beside those of first and further reports.
const MAX_SCAN_EXAMINATIONS: usize = 16;

/// The thread of a poll, and earlier readings of that thread.
pub(super) struct PollContext {
    pub(super) thread: Arc<ThreadState>,
    /// The thread's CPU time when the poll was first observed.
    pub(super) baseline: Option<Nanos>,
    /// Readings of the thread from before the poll and from within it.
    pub(super) readings: Vec<ThreadTimes>,
}

/// A worker that is blocked by a task that is not watched.
pub(super) struct UnwatchedStall {
    pub(super) id: StallId,
    pub(super) runtime: RuntimeId,
    pub(super) worker: Option<WorkerIndex>,
    pub(super) thread: Arc<ThreadState>,
    pub(super) identity: StallIdentity,
    pub(super) certainty: Certainty,
    /// The moment since which the worker is known to be blocked.
    pub(super) start: Nanos,
    pub(super) elapsed: Nanos,
}

/// A poll that has become a stall: the fields of [`Change::Started`].
struct StartedPoll {
    id: StallId,
    poll: Poll,
    worker: Option<WorkerIndex>,
    elapsed: Nanos,
    route: Option<RouteId>,
}

/// A poll that was over before a scan found it: the fields of [`Change::EndedUnseen`].
struct UnseenStall {
    id: StallId,
    poll: Poll,
    worker: Option<WorkerIndex>,
    elapsed: Nanos,
    route: Option<RouteId>,
    cause: Cause,
}

/// A stall that starts.
struct StartedStall {
    stall: Stall,
    origin: StallOrigin,
}

/// The thread of a stall that starts, and what is known of its time.
struct ExaminationTarget {
    thread: Arc<ThreadState>,
    identity: StallIdentity,
    start: Nanos,
    baseline: Option<Nanos>,
    readings: PollReadings,
}

/// A further examination of an ongoing stall, at the scan at the moment `at`.
struct Progress {
    elapsed: Nanos,
    at: Nanos,
    is_report: bool,
}

/// Emits the changes of the tracker as events, into a sink.
pub(super) struct Emitter {
    meter: Arc<Meter>,
    sink: EventSink,
    stacks: StackCoverage,
    ongoing: HashMap<StallId, OngoingStall>,
    scan_readings: ScanReadings,
    has_reported_degradation: bool,
    has_reported_refused_threads: bool,
    has_reported_missing_symbols: bool,
}

/// What the scan at the moment `at` has done so far.
#[derive(Default)]
struct ScanReadings {
    at: Nanos,
    /// The number of the scan.
    scan: u64,
    /// The examinations that were due because something changed, or because of the time.
    examinations: usize,
}

impl ScanReadings {
    /// Starts a new scan, if it is one.
    fn start(&mut self, at: Nanos) {
        if self.at != at {
            *self = ScanReadings { at, scan: self.scan + 1, examinations: 0 };
        }
    }
}

impl Emitter {
    /// `stacks` is the coverage at the start.
    pub(super) fn new(meter: Arc<Meter>, stacks: StackCoverage, sink: EventSink) -> Emitter {
        Emitter {
            meter,
            sink,
            stacks,
            ongoing: HashMap::new(),
            scan_readings: ScanReadings::default(),
            has_reported_degradation: false,
            has_reported_refused_threads: false,
            has_reported_missing_symbols: false,
        }
    }

    /// Emits the event of a change. At the start of a stall, at each further report of an ongoing
    /// one, and when a scan notices that its thread does something else, the thread is examined
    /// first. `at` is the moment of the scan; `context` is the thread of a poll, or `None` when the
    /// thread is unknown. Without it nothing is emitted.
    pub(super) fn emit_change(
        &mut self,
        examiner: &mut Examiner,
        change: Change,
        at: Nanos,
        context: Option<PollContext>,
    ) {
        match change {
            Change::Started { id, poll, worker, elapsed, route } => {
                let Some(context) = context else { return };
                self.emit_started(examiner, StartedPoll { id, poll, worker, elapsed, route }, context, at);
            }
            Change::ReportDue { id, elapsed } => {
                self.emit_late_stack(examiner, id);
                self.scan(id, elapsed, at);
                self.emit_progress(examiner, id, Progress { elapsed, at, is_report: true });
            }
            Change::StillOngoing { id, elapsed } => {
                self.emit_late_stack(examiner, id);
                if self.scan(id, elapsed, at) {
                    self.emit_progress(examiner, id, Progress { elapsed, at, is_report: false });
                } else {
                    self.emit(Event::StallStillOngoing { id, elapsed: elapsed.to_duration(), at });
                }
            }
            Change::Ended { id, elapsed, end, whole } => {
                self.emit_late_stack(examiner, id);
                let stall = self.ongoing.remove(&id);
                let verdict = stall.as_ref().map_or(CpuVerdict::Other, |stall| self.verdict(stall, whole, end));
                let fork = stall.and_then(|stall| longest_fork(&stall.thread, self.past(stall.start, elapsed)));
                let end = StallEnd { elapsed: elapsed.to_duration(), verdict, fork };
                self.emit(Event::StallEnded { id, end });
            }
            Change::RequestBlocked { id, frame, route, elapsed, is_over } => {
                let route_name = self.meter.routes.name(route);
                let request = BlockedRequest { stall: id, frame, route, route_name, elapsed, at, is_over };
                self.emit(Event::RequestBlocked(request));
            }
            Change::EndedUnseen { id, poll, worker, elapsed, route, cause } => {
                let Some(context) = context else { return };
                let unseen = UnseenStall { id, poll, worker, elapsed, route, cause };
                self.emit_ended_unseen(unseen, &context.thread);
            }
        }
    }

    /// Examines the thread of a poll that has become a stall, and emits the event.
    fn emit_started(&mut self, examiner: &mut Examiner, started: StartedPoll, context: PollContext, at: Nanos) {
        let StartedPoll { id, poll, worker, elapsed, route } = started;
        let PollContext { thread, baseline, readings } = context;
        let identity = StallIdentity::Poll(poll.key.number);
        let readings = PollReadings::new(poll.start, readings);
        let mut stall = self.stall(id, &poll, worker, &thread);
        stall.elapsed = elapsed.to_duration();
        stall.route = self.route(route);
        let latest_request = poll.request.map(|request| request.route).filter(|_| route.is_none());
        stall.latest_request = self.route(latest_request);
        let origin = StallOrigin { runtime: poll.runtime, site: poll.site, route, parent_route: poll.parent_route };
        let target = ExaminationTarget { thread, identity, start: poll.start, baseline, readings };
        self.start(examiner, StartedStall { stall, origin }, target, at);
    }

    /// Reads the thread of an ongoing stall at a scan. Returns whether the stall has to be examined
    /// again.
    fn scan(&mut self, id: StallId, elapsed: Nanos, at: Nanos) -> bool {
        self.scan_readings.start(at);
        let turns = self.ongoing.len().div_ceil(MAX_SCAN_READINGS).max(1) as u64;
        let is_its_turn = (id.0 + self.scan_readings.scan).is_multiple_of(turns);
        let Some(stall) = self.ongoing.get_mut(&id) else { return false };
        let tid = stall.thread.tid.filter(|_| is_its_turn);
        let clock = &self.meter.clock;
        let reading = tid.and_then(|tid| procfs::reading(tid, || clock.moment()));
        // A reading from after the end of the stall may be about another poll.
        let reading = reading.filter(|_| stall.identity.is_current(&stall.thread));
        stall.scan(elapsed, reading.as_ref(), self.meter.threshold);
        let is_due = stall.is_examination_due(elapsed, self.meter.threshold);
        self.scan_readings.examinations += usize::from(is_due);
        is_due && self.scan_readings.examinations <= MAX_SCAN_EXAMINATIONS
    }

    /// Returns the verdict about a stall that ended after `elapsed`.
    fn verdict(&self, stall: &OngoingStall, elapsed: Nanos, end: Option<PollEnd>) -> CpuVerdict {
        let clock = &self.meter.clock;
        let after = stall.thread.tid.and_then(|tid| procfs::times(tid, || clock.moment()));
        let end = end.unwrap_or(PollEnd { at: stall.start + elapsed, cpu: None });
        stall.readings.verdict_at_end(elapsed, end, after, self.meter.threshold)
    }

    /// Returns the time of a stall that started at a moment, and ended after `elapsed`.
    fn past(&self, start: Nanos, elapsed: Nanos) -> PastTime {
        let started_ago = self.meter.clock.moment().saturating_sub(start);
        PastTime { started_ago, ended_ago: started_ago.saturating_sub(elapsed) }
    }

    /// Examines the thread of an ongoing stall again, and emits the event.
    fn emit_progress(&mut self, examiner: &mut Examiner, id: StallId, progress: Progress) {
        let Progress { elapsed, at, is_report } = progress;
        let Some(stall) = self.ongoing.get_mut(&id) else { return };
        let subject = Subject {
            thread: &stall.thread,
            identity: &stall.identity,
            baseline: stall.baseline,
            readings: &stall.readings,
            previous: Some(stall.examined_readings()),
            elapsed,
            at,
        };
        let event = match examiner.examine(&subject) {
            // The next scan reports the end.
            Examination::Over { .. } => Event::StallStillOngoing { id, elapsed: elapsed.to_duration(), at },
            Examination::Found(found) => {
                let since = stall.examined(elapsed, ExaminationSummary::of(&found)).to_duration();
                let lock_wait = locks::wait(stall.thread.tid, found.cause, found.state);
                let Diagnosis { cause, syscall, on_cpu, kernel, stack, no_stack, spans, verdict, .. } = *found;
                let elapsed = elapsed.to_duration();
                Event::StallProgress(Box::new(StallProgress {
                    id,
                    elapsed,
                    at,
                    since,
                    is_report,
                    cause,
                    syscall,
                    on_cpu,
                    kernel,
                    spans,
                    stack,
                    no_stack,
                    lock_wait,
                    verdict,
                }))
            }
        };
        self.report_degradation();
        self.emit(event);
    }

    /// Emits a stall that was over before a scan found it.
    fn emit_ended_unseen(&mut self, unseen: UnseenStall, thread: &ThreadState) {
        let UnseenStall { id, poll, worker, elapsed, route, cause } = unseen;
        let mut stall = self.stall(id, &poll, worker, thread);
        stall.phase = Phase::Resolved;
        stall.elapsed = elapsed.to_duration();
        stall.cause = cause;
        set_fork(&mut stall, thread, self.past(poll.start, elapsed));
        stall.route = self.route(route);
        let origin = StallOrigin { runtime: poll.runtime, site: poll.site, route, parent_route: poll.parent_route };
        self.emit(Event::StallEndedUnseen { stall: Box::new(stall), origin });
    }

    /// Examines a worker that is blocked by a task that is not watched, as observed at the moment
    /// `at`, and emits the event.
    pub(super) fn emit_unwatched(&mut self, examiner: &mut Examiner, unwatched: UnwatchedStall, at: Nanos) {
        let UnwatchedStall { id, runtime, worker, thread, identity, certainty, start, elapsed } = unwatched;
        // A waiting thread has used no CPU time since the stall started.
        let baseline = match &identity {
            StallIdentity::Worker(worker) => worker.cpu,
            StallIdentity::Poll(_) => None,
        };
        let poll = Poll::unwatched(thread.id, runtime, start);
        let mut stall = self.stall(id, &poll, worker, &thread);
        (stall.certainty, stall.elapsed_is_lower_bound) = (certainty, true);
        stall.elapsed = elapsed.to_duration();
        let origin = StallOrigin { runtime, site: SiteId::OTHER, route: None, parent_route: None };
        let readings = PollReadings::new(start, []);
        let target = ExaminationTarget { thread, identity, start, baseline, readings };
        self.start(examiner, StartedStall { stall, origin }, target, at);
    }

    /// Examines a stall that starts, emits it, and keeps what the next examination needs.
    fn start(&mut self, examiner: &mut Examiner, started: StartedStall, target: ExaminationTarget, at: Nanos) {
        let StartedStall { mut stall, origin } = started;
        let ExaminationTarget { thread, identity, start, baseline, readings } = target;
        let elapsed = Nanos::from(stall.elapsed);
        let subject = Subject {
            thread: &thread,
            identity: &identity,
            baseline,
            readings: &readings,
            previous: None,
            elapsed,
            at,
        };
        let (summary, stack, verdict) = match examiner.examine(&subject) {
            Examination::Over { verdict } => {
                (stall.cause, stall.no_stack) = (cause_of_ended(verdict), Some(NoStack::EndedFirst));
                let since_scan = self.meter.clock.moment().saturating_sub(at);
                set_fork(&mut stall, &thread, PastTime { started_ago: elapsed + since_scan, ended_ago: since_scan });
                (ExaminationSummary { cause: stall.cause, state: None, baseline, readings }, None, verdict)
            }
            Examination::Found(found) => {
                let summary = ExaminationSummary::of(&found);
                (stall.cause, stall.on_cpu, stall.syscall) = (found.cause, found.on_cpu, found.syscall);
                stall.set_kernel_usage(found.kernel);
                (stall.spans, stall.no_stack) = (found.spans, found.no_stack);
                (summary, found.stack, found.verdict)
            }
        };
        let lock_wait = locks::wait(thread.tid, stall.cause, summary.state);
        self.report_degradation();
        #[cfg(feature = "server")]
        let poll = match &identity {
            StallIdentity::Poll(number) => Some(PollKey { thread: thread.id, number: *number }),
            StallIdentity::Worker(_) => None,
        };
        let liveness = Arc::new(StallLiveness { thread: thread.clone(), identity: identity.clone() });
        self.ongoing.insert(StallId(stall.id), OngoingStall::new(thread, identity, start, elapsed, summary));
        let started = StallStarted {
            stall,
            origin,
            #[cfg(feature = "server")]
            poll,
            at,
            liveness,
            stack,
            lock_wait,
            verdict,
        };
        self.emit(Event::StallStarted(Box::new(started)));
    }

    fn emit(&mut self, event: Event) {
        (self.sink)(event);
    }
}

/// Sets the time of the longest fork in a stall that ended before it was examined. A fork that took
/// most of it is its cause.
fn set_fork(stall: &mut Stall, thread: &ThreadState, time: PastTime) {
    stall.fork = longest_fork(thread, time);
    if stall.cause == Cause::Unknown && stall.is_mostly_fork() {
        stall.cause = Cause::Cpu;
    }
}

/// Returns the cause of a stall that ended before it was examined.
fn cause_of_ended(verdict: CpuVerdict) -> Cause {
    match verdict {
        CpuVerdict::Starved => Cause::Starved,
        CpuVerdict::Computed => Cause::Cpu,
        CpuVerdict::Other => Cause::Unknown,
    }
}
