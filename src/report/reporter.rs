//! The watchdog thread's end of reporting: has a stall examined, enters it into the book, hands it to the teller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use pollwatch_stack::{Address, RawStack};

use super::sums::Account;
use super::tasks::{Place, TaskNews};
use super::teller::{LogKey, Told};
use crate::detect::examine::{Examiner, Finding, First};
use crate::detect::scan::{Change, Excuse, Poll, PollKey};
use crate::detect::shedding;
use crate::detect::still::Still;
use crate::measure::route::RouteId;
use crate::measure::site::SiteId;
use crate::measure::task_id;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Certainty};
use crate::model::stall::{Phase, Stall};
use crate::shared::Shared;
use crate::util::lock;

/// A stall that goes on.
struct Going {
    thread: Arc<ThreadState>,
    still: Still,
    first: Option<First>,
    place: LogKey,
}

/// A worker that is blocked by a task that nobody wrapped.
pub(crate) struct Unwatched {
    pub(crate) id: u64,
    pub(crate) runtime: u16,
    pub(crate) worker: u16,
    pub(crate) thread: Arc<ThreadState>,
    pub(crate) still: Still,
    pub(crate) certainty: Certainty,
    /// In nanoseconds of the watchdog's clock.
    pub(crate) begin: u64,
    pub(crate) elapsed: u64,
}

/// See the module's text.
pub(crate) struct Reporter {
    shared: Arc<Shared>,
    examiner: Examiner,
    teller: SyncSender<Told>,
    going: HashMap<u64, Going>,
    told_lack: bool,
}

impl Reporter {
    pub(crate) fn new(shared: Arc<Shared>, teller: SyncSender<Told>) -> Reporter {
        Reporter { examiner: Examiner::new(shared.clone()), shared, teller, going: HashMap::new(), told_lack: false }
    }

    /// Carries out one change. `at` is the clock reading of the look; `about` gives a poll's thread, what was known when the poll was
    /// first seen, and how long the thread had waited for a CPU in all before it began.
    pub(crate) fn tell(
        &mut self,
        change: Change,
        at: u64,
        about: impl FnOnce(&Poll) -> Option<(Arc<ThreadState>, Option<First>, Option<u64>)>,
    ) {
        match change {
            Change::Began { id, poll, worker, elapsed, route } => {
                let Some((thread, first, before)) = about(&poll) else { return };
                let still = Still::Poll(poll.key.number);
                let mut found = self.examiner.examine(&thread, &still, first, before);
                if self.examiner.is_excused(&thread, &poll, (elapsed, found.cause), before) {
                    found.cause = Cause::Starved;
                }
                self.tell_lack();
                let mut stall = self.stall(id, Phase::Ongoing, &poll, worker, &thread);
                stall.elapsed = Duration::from_nanos(elapsed);
                stall.route = self.route(route);
                stall.latest_request =
                    self.route(poll.request.map(|request| request.route).filter(|_| route.is_none()));
                self.begin(stall, found, (&poll, route), (thread, still), at);
            }
            Change::Continued { id, elapsed } => {
                let Some(going) = self.going.get(&id) else { return };
                let found = self.examiner.examine(&going.thread, &going.still, going.first, None);
                let place = going.place;
                self.tell_lack();
                let Finding { on_cpu, stack, syscall, cause, spans, .. } = found;
                let mut book = lock(&self.shared.book);
                book.set_spans(id, spans);
                let stall = book.update(id, Duration::from_nanos(elapsed), on_cpu, (cause, syscall), at);
                drop(book);
                self.send_some(stall, place, stack);
            }
            Change::GoesOn { id, elapsed } => {
                lock(&self.shared.book).go_on(id, Duration::from_nanos(elapsed), at);
            }
            Change::Ended { id, elapsed } => {
                let stall = lock(&self.shared.book).end(id, Duration::from_nanos(elapsed));
                // What went on was told as going on.
                let Some(Going { place, .. }) = self.going.remove(&id) else { return };
                self.send_some(stall, place, None);
            }
            Change::Request { id, frame, route, elapsed, over } => {
                let name = self.shared.meter.routes.name(route);
                lock(&self.shared.book).request(id, (frame, route, &name), elapsed, at, over);
                if let Some(going) = self.going.get_mut(&id) {
                    going.place.route = Some(route);
                }
            }
            Change::Missed { id, poll, worker, elapsed, route, excuse } => {
                let Some((thread, ..)) = about(&poll) else { return };
                let mut stall = self.stall(id, Phase::Resolved, &poll, worker, &thread);
                stall.elapsed = Duration::from_nanos(elapsed);
                stall.cause = match excuse {
                    None => Cause::Unknown,
                    Some(Excuse::Paused) => Cause::Paused,
                    Some(Excuse::Starved) => Cause::Starved,
                };
                stall.route = self.route(route);
                stall.explain();
                let (account, place) = keys(&stall, &poll, route);
                lock(&self.shared.book).enter(stall.clone(), account);
                self.send(Told::Stall { stall: stall.into(), place, stack: None });
            }
        }
    }

    /// Tells of a worker that is blocked by a task that nobody wrapped, as it was seen at clock reading `at`.
    pub(crate) fn tell_unwatched(&mut self, unwatched: Unwatched, at: u64) {
        let Unwatched { id, runtime, worker, thread, still, certainty, begin, elapsed } = unwatched;
        // A thread that stood used no CPU since.
        let stands = match &still {
            Still::Worker(worker) => worker.cpu,
            Still::Poll(_) => None,
        };
        let first = stands.map(|cpu| First { cpu, at: begin, run_delay: None });
        let found = self.examiner.examine(&thread, &still, first, None);
        self.tell_lack();
        let poll = Poll {
            key: PollKey { thread: thread.id, number: 0 },
            begin,
            runtime,
            site: SiteId::OTHER,
            watched: None,
            request: None,
            parent_route: None,
            task: 0,
            stands_since: None,
            waited: 0,
        };
        let mut stall = self.stall(id, Phase::Ongoing, &poll, worker, &thread);
        stall.certainty = certainty;
        stall.elapsed_is_lower_bound = true;
        stall.elapsed = Duration::from_nanos(elapsed);
        self.begin(stall, found, (&poll, None), (thread, still), at);
    }

    /// Enters and tells a stall that goes on, with what was found when its thread was examined.
    fn begin(
        &mut self,
        mut stall: Stall,
        found: Finding,
        (poll, route): (&Poll, Option<RouteId>),
        (thread, still): (Arc<ThreadState>, Still),
        at: u64,
    ) {
        (stall.cause, stall.on_cpu, stall.syscall) = (found.cause, found.on_cpu, found.syscall);
        stall.spans = found.spans.unwrap_or_default();
        stall.explain();
        let (account, place) = keys(&stall, poll, route);
        let going = Going { thread: thread.clone(), still: still.clone(), first: found.first, place };
        self.going.insert(stall.id, going);
        lock(&self.shared.book).begin(stall.clone(), account, thread, still, at);
        self.send(Told::Stall { stall: stall.into(), place, stack: found.stack });
    }

    /// Whether a thread has been examined since this was last asked: its stack may have been waited for.
    pub(crate) fn has_examined(&mut self) -> bool {
        self.examiner.has_examined()
    }

    /// The addresses in a thread's stack, outermost first, while it is in what `still` says.
    pub(crate) fn addresses(&mut self, thread: &ThreadState, still: &Still) -> Option<Vec<Address>> {
        self.examiner.addresses(thread, still)
    }

    /// Tells, once, what keeps stacks from being taken that was not known at the start.
    fn tell_lack(&mut self) {
        let now = self.shared.stacks.now();
        if !self.told_lack
            && now != self.shared.stacks
            && let Some((which, why)) = now.lacking()
        {
            self.told_lack = true;
            self.cannot(format!("{which} are told without stacks: {why}"));
        }
    }

    /// Has it logged that something cannot be done.
    pub(crate) fn cannot(&mut self, what: String) {
        self.send(Told::Cannot(what));
    }

    /// Tells that the process stood still.
    pub(crate) fn tell_pause(&mut self, nanos: u64) {
        self.send(Told::Pause { nanos });
    }

    /// Tells of the panics of tasks since the last time.
    pub(crate) fn tell_panics(&mut self) {
        for panic in self.shared.meter.panics.take() {
            let place = self.place((panic.runtime, panic.site));
            // SAFETY: the bits are those that `to_bits` made in the panic's task.
            let task = unsafe { task_id::from_bits(panic.task) };
            self.send(Told::Task(TaskNews::Panicked { place, task, text: panic.text }));
        }
    }

    /// Tells of a place that has more tasks than the limit.
    pub(crate) fn tell_growth(&mut self, key: (u16, SiteId), alive: u64) {
        let limit = self.shared.warn_above_alive_tasks;
        self.send(Told::Task(TaskNews::Grown { place: self.place(key), alive, limit }));
    }

    fn place(&self, key: (u16, SiteId)) -> Place {
        let meter = &self.shared.meter;
        let runtime = meter.runtimes.get(key.0).map_or_else(|| "other".into(), |r| r.name.clone());
        Place { runtime, site: meter.sites.get(key.1), key }
    }

    /// Tells that requests are turned away from here on, or are let in again.
    pub(crate) fn tell_shed(&mut self, told: shedding::Told) {
        self.send(Told::Shed(told));
    }

    fn stall(&self, id: u64, phase: Phase, poll: &Poll, worker: u16, thread: &ThreadState) -> Stall {
        let meter = &self.shared.meter;
        let ago = Duration::from_nanos(meter.clock.nanos(meter.clock.now()).saturating_sub(poll.begin));
        Stall {
            id,
            phase,
            certainty: Certainty::Measured,
            runtime: meter.runtimes.get(poll.runtime).map_or_else(|| "other".into(), |r| r.name.clone()),
            worker: Some(worker as usize),
            thread: thread.name.clone(),
            // SAFETY: the bits are those that a poll of this process published, made by `to_bits`, or 0.
            task: unsafe { task_id::from_bits(poll.task) },
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

    fn route(&self, route: Option<RouteId>) -> Option<Arc<str>> {
        route.map(|route| self.shared.meter.routes.name(route))
    }

    fn send_some(&mut self, stall: Option<Stall>, place: LogKey, stack: Option<RawStack>) {
        if let Some(stall) = stall {
            self.send(Told::Stall { stall: stall.into(), place, stack });
        }
    }

    /// Never waits: a log or a callback that takes too long loses reports, not detection.
    fn send(&mut self, told: Told) {
        if self.teller.try_send(told).is_err() {
            self.shared.untold.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a stall is counted under, and what its log lines are limited by.
fn keys(stall: &Stall, poll: &Poll, route: Option<RouteId>) -> (Account, LogKey) {
    let (runtime, site, certainty) = (poll.runtime, poll.site, stall.certainty);
    (Account { runtime, site, cause: stall.cause, certainty }, LogKey { runtime, site, route, certainty })
}
