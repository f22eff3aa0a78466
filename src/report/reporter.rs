//! The watchdog thread's end of reporting: has a stall examined, enters it into the book, hands it to the teller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use super::book::Account;
use super::stall::{Phase, Stall};
use super::tasks::{Place, TaskNews};
use super::teller::{LogKey, Told};
use crate::detect::capture::RawStack;
use crate::detect::cause::Cause;
use crate::detect::examine::{Examiner, Finding, First};
use crate::detect::scan::{Change, Excuse, Poll};
use crate::detect::shedding;
use crate::measure::route::RouteId;
use crate::measure::site::SiteId;
use crate::measure::task_id;
use crate::measure::thread::ThreadState;
use crate::shared::Shared;
use crate::util::lock;

/// A stall that goes on.
struct Going {
    thread: Arc<ThreadState>,
    number: u64,
    first: Option<First>,
    place: LogKey,
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

    pub(crate) fn warm(&mut self) {
        self.examiner.warm();
    }

    /// Carries out one change. `at` is the clock reading of the look; `thread` gives the poll's thread where a poll is named, and
    /// what was known when the poll was first seen.
    pub(crate) fn tell(
        &mut self,
        change: Change,
        at: u64,
        thread: impl FnOnce(u64) -> Option<(Arc<ThreadState>, Option<First>)>,
    ) {
        match change {
            Change::Began { id, poll, worker, elapsed, route } => {
                let Some((thread, first)) = thread(poll.key.thread) else { return };
                let found = self.examiner.examine(&thread, poll.key.number, first);
                self.tell_lack();
                let mut stall = self.stall(id, Phase::Ongoing, &poll, worker, &thread);
                stall.elapsed = Duration::from_nanos(elapsed);
                (stall.cause, stall.on_cpu) = (found.cause, found.on_cpu);
                stall.syscall.clone_from(&found.syscall);
                stall.route = self.route(route);
                stall.latest_request =
                    self.route(poll.request.map(|request| request.route).filter(|_| route.is_none()));
                stall.spans = found.spans.unwrap_or_default();
                stall.explain();
                let account = Account { runtime: poll.runtime, site: poll.site, cause: stall.cause };
                let place = LogKey { runtime: poll.runtime, site: poll.site, route };
                let first = found.first;
                self.going.insert(id, Going { thread: thread.clone(), number: poll.key.number, first, place });
                lock(&self.shared.book).begin(stall.clone(), account, thread, poll.key.number, at);
                self.send(Told::Stall { stall: stall.into(), place, stack: found.stack });
            }
            Change::Continued { id, elapsed } => {
                let Some(going) = self.going.get(&id) else { return };
                let found = self.examiner.examine(&going.thread, going.number, going.first);
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
                let Some((thread, _)) = thread(poll.key.thread) else { return };
                let mut stall = self.stall(id, Phase::Resolved, &poll, worker, &thread);
                stall.elapsed = Duration::from_nanos(elapsed);
                stall.cause = match excuse {
                    None => Cause::Unknown,
                    Some(Excuse::Paused) => Cause::Paused,
                    Some(Excuse::Starved) => Cause::Starved,
                };
                stall.route = self.route(route);
                stall.explain();
                let account = Account { runtime: poll.runtime, site: poll.site, cause: stall.cause };
                lock(&self.shared.book).enter(stall.clone(), account);
                let place = LogKey { runtime: poll.runtime, site: poll.site, route };
                self.send(Told::Stall { stall: stall.into(), place, stack: None });
            }
        }
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
        let limit = self.shared.alive_tasks_limit;
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
            runtime: meter.runtimes.get(poll.runtime).map_or_else(|| "other".into(), |r| r.name.clone()),
            worker: Some(worker as usize),
            thread: thread.name.clone(),
            // SAFETY: the bits are those that a poll of this process published, made by `to_bits`, or 0.
            task: unsafe { task_id::from_bits(poll.task) },
            site: meter.sites.get(poll.site),
            watched: poll.watched.map(|site| meter.sites.get(site)),
            route: None,
            spawned_under: self.route(poll.spawned_under),
            latest_request: None,
            spans: Vec::new(),
            cause: Cause::Unknown,
            began: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            elapsed: Duration::ZERO,
            elapsed_at_least: meter.sampled,
            on_cpu: None,
            syscall: None,
            stack: None,
            moving: None,
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
