//! Turns the changes of the tracker into [`Event`]s: has the thread examined where that is due, and
//! resolves all names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pollwatch_stack::RawStack;

use super::examine::{Baseline, Diagnosis, Examination, Examiner};
use super::identity::{StallIdentity, StallLiveness};
use super::stack_coverage;
use super::track::{Change, NotBlamed, Poll};
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Certainty};
use crate::model::coverage::StackCoverage;
use crate::model::event::{BlockedRequest, Event, Notice, StallOrigin, StallProgress, StallStarted, TaskGroup};
#[cfg(feature = "server")]
use crate::model::id::PollKey;
use crate::model::id::{RuntimeId, StallId, WorkerIndex};
use crate::model::stall::{Phase, Stall};
use crate::model::time::Nanos;

/// The receiver of events. It is called on the watchdog thread, and must neither block nor take
/// long.
pub(crate) type EventSink = Box<dyn FnMut(Event) + Send>;

/// An ongoing stall that has been examined.
struct ExaminedStall {
    thread: Arc<ThreadState>,
    identity: StallIdentity,
    /// The baseline of the next examination.
    baseline: Option<Baseline>,
}

/// The thread of a poll, and earlier readings of that thread.
pub(super) struct PollContext {
    pub(super) thread: Arc<ThreadState>,
    /// The thread's CPU time when the poll was first observed.
    pub(super) baseline: Option<Baseline>,
    /// The thread's run delay before the poll started.
    pub(super) run_delay_before: Option<Nanos>,
}

/// A worker that is blocked by a task that is not watched.
pub(super) struct UnwatchedStall {
    pub(super) id: StallId,
    pub(super) runtime: RuntimeId,
    pub(super) worker: WorkerIndex,
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
    worker: WorkerIndex,
    elapsed: Nanos,
    route: Option<RouteId>,
}

/// A poll that was over before a scan found it: the fields of [`Change::EndedUnseen`].
struct UnseenStall {
    id: StallId,
    poll: Poll,
    worker: WorkerIndex,
    elapsed: Nanos,
    route: Option<RouteId>,
    not_blamed: Option<NotBlamed>,
}

/// A stall that starts, with the stack of its first examination.
struct StartedStall {
    stall: Stall,
    origin: StallOrigin,
    stack: Option<RawStack>,
}

/// Emits the changes of the tracker as events, into a sink.
pub(super) struct Emitter {
    meter: Arc<Meter>,
    sink: EventSink,
    stacks: StackCoverage,
    ongoing: HashMap<StallId, ExaminedStall>,
    has_reported_degradation: bool,
}

impl Emitter {
    /// `stacks` is the coverage at the start.
    pub(super) fn new(meter: Arc<Meter>, stacks: StackCoverage, sink: EventSink) -> Emitter {
        Emitter { meter, sink, stacks, ongoing: HashMap::new(), has_reported_degradation: false }
    }

    /// Emits the event of a change. At the start of a stall, and at each further report of an
    /// ongoing one, the thread is examined first. `at` is the moment of the scan; `context` returns
    /// the thread of a poll, or `None` when the thread is unknown. Without it nothing is emitted.
    pub(super) fn emit_change(
        &mut self,
        examiner: &mut Examiner,
        change: Change,
        at: Nanos,
        context: impl FnOnce(&Poll) -> Option<PollContext>,
    ) {
        match change {
            Change::Started { id, poll, worker, elapsed, route } => {
                let Some(context) = context(&poll) else { return };
                self.emit_started(examiner, StartedPoll { id, poll, worker, elapsed, route }, context, at);
            }
            Change::ReportDue { id, elapsed } => self.emit_progress(examiner, id, elapsed, at),
            Change::StillOngoing { id, elapsed } => {
                self.emit(Event::StallStillOngoing { id, elapsed: elapsed.to_duration(), at });
            }
            Change::Ended { id, elapsed } => {
                self.ongoing.remove(&id);
                self.emit(Event::StallEnded { id, elapsed: elapsed.to_duration() });
            }
            Change::RequestBlocked { id, frame, route, elapsed, is_over } => {
                let route_name = self.meter.routes.name(route);
                let request = BlockedRequest { stall: id, frame, route, route_name, elapsed, at, is_over };
                self.emit(Event::RequestBlocked(request));
            }
            Change::EndedUnseen { id, poll, worker, elapsed, route, not_blamed } => {
                let Some(context) = context(&poll) else { return };
                let unseen = UnseenStall { id, poll, worker, elapsed, route, not_blamed };
                self.emit_ended_unseen(unseen, &context.thread);
            }
        }
    }

    /// Examines the thread of a poll that has become a stall, and emits the event.
    fn emit_started(&mut self, examiner: &mut Examiner, started: StartedPoll, context: PollContext, at: Nanos) {
        let StartedPoll { id, poll, worker, elapsed, route } = started;
        let PollContext { thread, baseline, run_delay_before } = context;
        let identity = StallIdentity::Poll(poll.key.number);
        let examination = examiner.examine(&thread, &identity, baseline, run_delay_before);
        let mut stall = self.stall(id, Phase::Ongoing, &poll, worker, &thread);
        stall.elapsed = elapsed.to_duration();
        stall.route = self.route(route);
        let latest_request = poll.request.map(|request| request.route).filter(|_| route.is_none());
        stall.latest_request = self.route(latest_request);
        let was_starved = examiner.was_delayed_by_starvation(&thread, &poll, elapsed, &examination, run_delay_before);
        let examined = ExaminedStall { thread, identity, baseline: examination.baseline() };
        let stack = record_diagnosis(&mut stall, examination);
        if was_starved {
            stall.cause = Cause::Starved;
        }
        let origin = StallOrigin { runtime: poll.runtime, site: poll.site, route };
        self.start(StartedStall { stall, origin, stack }, examined, at);
    }

    /// Examines the thread of an ongoing stall again, and emits the event.
    fn emit_progress(&mut self, examiner: &mut Examiner, id: StallId, elapsed: Nanos, at: Nanos) {
        let Some(ExaminedStall { thread, identity, baseline }) = self.ongoing.get(&id) else { return };
        let examination = examiner.examine(thread, identity, *baseline, None);
        self.report_degradation();
        let elapsed = elapsed.to_duration();
        let progress = match examination {
            Examination::Over { .. } => StallProgress {
                id,
                elapsed,
                at,
                cause: Cause::Unknown,
                syscall: None,
                on_cpu: None,
                spans: None,
                stack: None,
            },
            Examination::Found(Diagnosis { cause, syscall, on_cpu, baseline: _, stack, spans }) => {
                StallProgress { id, elapsed, at, cause, syscall, on_cpu, spans: Some(spans), stack }
            }
        };
        self.emit(Event::StallProgress(Box::new(progress)));
    }

    /// Emits a stall that was over before a scan found it.
    fn emit_ended_unseen(&mut self, unseen: UnseenStall, thread: &ThreadState) {
        let UnseenStall { id, poll, worker, elapsed, route, not_blamed } = unseen;
        let mut stall = self.stall(id, Phase::Resolved, &poll, worker, thread);
        stall.elapsed = elapsed.to_duration();
        stall.cause = match not_blamed {
            None => Cause::Unknown,
            Some(NotBlamed::Paused) => Cause::Paused,
            Some(NotBlamed::Starved) => Cause::Starved,
        };
        stall.route = self.route(route);
        let origin = StallOrigin { runtime: poll.runtime, site: poll.site, route };
        self.emit(Event::StallEndedUnseen { stall: Box::new(stall), origin });
    }

    /// Examines a worker that is blocked by a task that is not watched, as observed at the moment
    /// `at`, and emits the event.
    pub(super) fn emit_unwatched(&mut self, examiner: &mut Examiner, unwatched: UnwatchedStall, at: Nanos) {
        let UnwatchedStall { id, runtime, worker, thread, identity, certainty, start, elapsed } = unwatched;
        // A waiting thread has used no CPU time since the stall started.
        let waiting = match &identity {
            StallIdentity::Worker(worker) => worker.cpu,
            StallIdentity::Poll(_) => None,
        };
        let baseline = waiting.map(|cpu| Baseline { cpu, at: start, run_delay: None });
        let examination = examiner.examine(&thread, &identity, baseline, None);
        let poll = Poll::unwatched(thread.id, runtime, start);
        let mut stall = self.stall(id, Phase::Ongoing, &poll, worker, &thread);
        stall.certainty = certainty;
        stall.elapsed_is_lower_bound = true;
        stall.elapsed = elapsed.to_duration();
        let examined = ExaminedStall { thread, identity, baseline: examination.baseline() };
        let stack = record_diagnosis(&mut stall, examination);
        let origin = StallOrigin { runtime, site: SiteId::OTHER, route: None };
        self.start(StartedStall { stall, origin, stack }, examined, at);
    }

    /// Emits the start of a stall, and keeps what the next examination needs.
    fn start(&mut self, started: StartedStall, examined: ExaminedStall, at: Nanos) {
        self.report_degradation();
        let StartedStall { stall, origin, stack } = started;
        let ExaminedStall { thread, identity, .. } = &examined;
        #[cfg(feature = "server")]
        let poll = match identity {
            StallIdentity::Poll(number) => Some(PollKey { thread: thread.id, number: *number }),
            StallIdentity::Worker(_) => None,
        };
        let liveness = Arc::new(StallLiveness { thread: thread.clone(), identity: identity.clone() });
        self.ongoing.insert(StallId(stall.id), examined);
        let started = StallStarted {
            stall,
            origin,
            #[cfg(feature = "server")]
            poll,
            at,
            liveness,
            stack,
        };
        self.emit(Event::StallStarted(Box::new(started)));
    }

    /// Emits, once, a reason for missing stacks that was not known at the start.
    fn report_degradation(&mut self) {
        let now = stack_coverage::now(self.stacks);
        if !self.has_reported_degradation
            && now != self.stacks
            && let Some((which, why)) = now.lacking()
        {
            self.has_reported_degradation = true;
            self.emit_degraded(format!("{which} are reported without stacks: {why}"));
        }
    }

    /// Emits that a function of pollwatch is missing or limited.
    pub(super) fn emit_degraded(&mut self, what: impl Into<String>) {
        self.emit(Event::Notice(Notice::Degraded(what.into())));
    }

    /// Emits that the process was stopped for a time.
    pub(super) fn emit_pause(&mut self, length: Nanos) {
        self.emit(Event::Notice(Notice::ProcessPaused(length.to_duration())));
    }

    /// Emits the panics of tasks since the previous call.
    pub(super) fn emit_task_panics(&mut self) {
        for panic in self.meter.panics.take() {
            let group = self.task_group(panic.runtime, panic.site);
            // SAFETY: the bits are those that `TaskBits::of` made in the panic's task.
            let task = unsafe { panic.task.id() };
            self.emit(Event::Notice(Notice::TaskPanicked { group, task, message: panic.text }));
        }
    }

    /// Emits that a site has more tasks than `limit`.
    pub(super) fn emit_task_growth(&mut self, runtime: RuntimeId, site: SiteId, alive: u64, limit: u64) {
        let group = self.task_group(runtime, site);
        self.emit(Event::Notice(Notice::TasksGrew { group, alive, limit }));
    }

    fn emit(&mut self, event: Event) {
        (self.sink)(event);
    }

    fn task_group(&self, runtime: RuntimeId, site: SiteId) -> TaskGroup {
        TaskGroup { runtime: self.runtime_name(runtime), site: self.meter.sites.get(site), key: (runtime, site) }
    }

    fn runtime_name(&self, id: RuntimeId) -> Arc<str> {
        self.meter.runtimes.get(id).map_or_else(|| "other".into(), |runtime| runtime.name.clone())
    }

    fn route(&self, route: Option<RouteId>) -> Option<Arc<str>> {
        route.map(|route| self.meter.routes.name(route))
    }

    /// Returns a stall with all that is known without an examination.
    fn stall(&self, id: StallId, phase: Phase, poll: &Poll, worker: WorkerIndex, thread: &ThreadState) -> Stall {
        let meter = &self.meter;
        let ago = meter.clock.nanos(meter.clock.now()).saturating_sub(poll.start).to_duration();
        Stall {
            id: id.0,
            phase,
            certainty: Certainty::Measured,
            runtime: self.runtime_name(poll.runtime),
            worker: Some(worker.index()),
            thread: thread.name.clone(),
            // SAFETY: the bits are those that a poll of this process published, made by
            // `TaskBits::of`, or 0.
            task: unsafe { poll.task.id() },
            site: meter.sites.get(poll.site),
            watched: poll.watched.map(|site| meter.sites.get(site)),
            route: None,
            parent_route: self.route(poll.parent_route),
            latest_request: None,
            spans: Vec::new(),
            cause: Cause::Unknown,
            started_at: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            elapsed: Duration::ZERO,
            elapsed_is_lower_bound: false,
            on_cpu: None,
            syscall: None,
            stack: None,
            location_changed: None,
            reason: "",
            advice: None,
        }
    }
}

/// Enters the results of an examination into a stall. Returns the stack.
fn record_diagnosis(stall: &mut Stall, examination: Examination) -> Option<RawStack> {
    let Examination::Found(found) = examination else { return None };
    (stall.cause, stall.on_cpu, stall.syscall) = (found.cause, found.on_cpu, found.syscall);
    stall.spans = found.spans;
    found.stack
}
