//! The account of stalls: recent ones, going ones, and what they add up to. Written by the watchdog thread, read by all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::sums::{Account, Sums};
use crate::detect::still::Still;
use crate::measure::route::RouteId;
use crate::measure::thread::ThreadState;
use crate::model::cause::{Cause, Certainty, Syscall};
use crate::model::stall::{Phase, Stall};

/// Stalls that [`Watchdog::stalls`](crate::Watchdog::stalls) keeps.
pub(crate) const RECENT: usize = 256;

/// A request of a stall that goes on, itself going on.
#[derive(Debug)]
struct Request {
    frame: u64,
    route: RouteId,
    elapsed: u64,
    /// Clock reading at which `elapsed` was right.
    at: u64,
    shown: u64,
}

/// A stall that goes on.
#[derive(Debug)]
struct Ongoing {
    stall: Stall,
    account: Account,
    thread: Arc<ThreadState>,
    still: Still,
    /// Clock reading at which `stall.elapsed` was right.
    at: u64,
    /// Nanoseconds that the sums have shown of it: they never take any back.
    shown: u64,
    requests: Vec<Request>,
    /// Frames of those that are over: one may be seen once more, since it leaves its word before it goes.
    over: VecDeque<u64>,
}

/// Of one stall, kept at most.
const OVER: usize = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Book {
    recent: VecDeque<Stall>,
    ongoing: Vec<Ongoing>,
    sums: Sums,
}

impl Book {
    /// Enters a stall that goes on, seen at clock reading `at`.
    pub(crate) fn begin(&mut self, stall: Stall, account: Account, thread: Arc<ThreadState>, still: Still, at: u64) {
        self.sums.add(account, 1, 0);
        self.keep(stall.clone());
        self.ongoing.push(Ongoing {
            stall,
            account,
            thread,
            still,
            at,
            shown: 0,
            requests: Vec::new(),
            over: VecDeque::new(),
        });
    }

    /// Enters a stall that is over.
    pub(crate) fn enter(&mut self, stall: Stall, account: Account) {
        self.sums.add(account, 1, stall.elapsed.as_nanos() as u64);
        self.keep(stall);
    }

    /// Updates a stall that goes on; its state after that.
    pub(crate) fn update(
        &mut self,
        id: u64,
        elapsed: Duration,
        on_cpu: Option<Duration>,
        (cause, syscall): (Cause, Option<Syscall>),
        at: u64,
    ) -> Option<Stall> {
        let ongoing = self.ongoing.iter_mut().find(|o| o.stall.id == id)?;
        // The cause stays the first one; a call of another cause would contradict it.
        if cause == ongoing.stall.cause {
            ongoing.stall.syscall = syscall.or(ongoing.stall.syscall.take());
        }
        ongoing.at = at;
        ongoing.stall.elapsed = elapsed;
        ongoing.stall.on_cpu = on_cpu.or(ongoing.stall.on_cpu);
        let stall = ongoing.stall.clone();
        self.replace(&stall);
        Some(stall)
    }

    /// Enters the spans of the latest look at a stall that goes on; `None` when it was over by then. Shown by the update that follows.
    pub(crate) fn set_spans(&mut self, id: u64, spans: Option<Vec<Arc<str>>>) {
        if let (Some(ongoing), Some(spans)) = (self.ongoing.iter_mut().find(|o| o.stall.id == id), spans) {
            ongoing.stall.spans = spans;
        }
    }

    /// Notes how long a stall has lasted by the look at clock reading `at`.
    pub(crate) fn go_on(&mut self, id: u64, elapsed: Duration, at: u64) {
        if let Some(ongoing) = self.ongoing.iter_mut().find(|o| o.stall.id == id) {
            (ongoing.stall.elapsed, ongoing.at) = (elapsed, at);
        }
    }

    /// Counts a request that has lasted long enough by itself, in a stall that goes on or was just entered; once, however often it
    /// is told. `name` is what the stall is told under from here on.
    pub(crate) fn request(
        &mut self,
        id: u64,
        (frame, route, name): (u64, RouteId, &Arc<str>),
        elapsed: u64,
        at: u64,
        over: bool,
    ) {
        let Some(ongoing) = self.ongoing.iter_mut().find(|o| o.stall.id == id) else {
            return self.sums.add_request(route, 1, elapsed);
        };
        if ongoing.stall.route.as_ref() != Some(name) {
            ongoing.stall.route = Some(name.clone());
            let recent = self.recent.iter_mut().rev().find(|stall| stall.id == id);
            recent.into_iter().for_each(|stall| stall.route = Some(name.clone()));
        }
        if !ongoing.account.cause.is_blamed() {
            return;
        }
        if ongoing.over.contains(&frame) {
            return;
        }
        let known = ongoing.requests.iter().position(|request| request.frame == frame);
        let index = known.unwrap_or_else(|| {
            self.sums.add_request(route, 1, 0);
            ongoing.requests.push(Request { frame, route, elapsed, at, shown: 0 });
            ongoing.requests.len() - 1
        });
        let request = &mut ongoing.requests[index];
        (request.elapsed, request.at) = (elapsed, at);
        if over {
            self.sums.add_request(route, 0, elapsed.saturating_sub(request.shown));
            ongoing.requests.swap_remove(index);
            ongoing.over.push_back(frame);
            if ongoing.over.len() > OVER {
                ongoing.over.pop_front();
            }
        }
    }

    /// Ends a stall; its last state.
    pub(crate) fn end(&mut self, id: u64, elapsed: Duration) -> Option<Stall> {
        let index = self.ongoing.iter().position(|o| o.stall.id == id)?;
        let Ongoing { mut stall, account, shown, requests, .. } = self.ongoing.swap_remove(index);
        // What is left was a part of it to its end, as far as anybody knows.
        for request in requests {
            self.sums.add_request(request.route, 0, request.elapsed.saturating_sub(request.shown));
        }
        stall.phase = Phase::Resolved;
        stall.elapsed = elapsed;
        let nanos = elapsed.as_nanos() as u64;
        self.sums.add(account, 0, nanos.saturating_sub(shown));
        self.replace(&stall);
        Some(stall)
    }

    /// Enters what the teller found out about a stall.
    pub(crate) fn describe(&mut self, told: &Stall) {
        let ongoing = self.ongoing.iter_mut().map(|o| &mut o.stall).filter(|s| s.id == told.id);
        for stall in ongoing.chain(self.recent.iter_mut().rev().find(|s| s.id == told.id)) {
            stall.stack.clone_from(&told.stack);
            (stall.location_changed, stall.reason, stall.advice) = (told.location_changed, told.reason, told.advice);
        }
    }

    /// The sums of now, the time of the stalls that go on included. `since` gives the nanoseconds since a clock reading.
    pub(crate) fn sums(&mut self, since: impl Fn(u64) -> u64) -> Sums {
        for ongoing in &mut self.ongoing {
            let mut nanos = ongoing.stall.elapsed.as_nanos() as u64;
            let more = since(ongoing.at);
            let mut goes_on = false;
            // Only a poll that is still there, and in no part that is meant to block, has gone on: the watchdog may not yet
            // have heard of its end.
            let reading = ongoing.thread.slot.read();
            if ongoing.still.goes_on(&ongoing.thread, reading.as_ref()) {
                nanos += more;
                goes_on = true;
            }
            let grown = nanos.saturating_sub(ongoing.shown);
            ongoing.shown += grown;
            self.sums.add(ongoing.account, 0, grown);
            for request in &mut ongoing.requests {
                let is_there = || reading.iter().any(|r| r.frames().iter().any(|f| f.number == request.frame));
                let more = if goes_on && is_there() { since(request.at) } else { 0 };
                let grown = (request.elapsed + more).saturating_sub(request.shown);
                request.shown += grown;
                self.sums.add_request(request.route, 0, grown);
            }
        }
        self.sums.clone()
    }

    /// The workers of a runtime that are blocked for certain by a task that was not wrapped, and since which clock reading for how
    /// many nanoseconds. Those in a poll that is measured are read from its slot.
    pub(crate) fn standing(&self, runtime: u16) -> Vec<(u16, u64, u64)> {
        let certain = self.ongoing.iter().filter(|o| o.account.certainty == Certainty::Observed);
        let here = certain.filter(|o| o.account.runtime == runtime && o.still.goes_on(&o.thread, None));
        let standing = here.filter_map(|o| {
            let worker = u16::try_from(o.stall.worker?).ok()?;
            Some((worker, o.at, o.stall.elapsed.as_nanos() as u64))
        });
        standing.collect()
    }

    /// The recent stalls, most recent last.
    pub(crate) fn recent(&self) -> Vec<Stall> {
        self.recent.iter().cloned().collect()
    }

    /// The id of the stall that a poll of a thread is, while it goes on.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn id_of(&self, thread: u64, number: u64) -> Option<u64> {
        let ongoing = self.ongoing.iter().find(|o| o.thread.id == thread && o.still.is_poll(number));
        ongoing.map(|o| o.stall.id)
    }

    fn keep(&mut self, stall: Stall) {
        if self.recent.len() == RECENT {
            let over = self.recent.iter().position(|s| s.phase == Phase::Resolved).unwrap_or(0);
            self.recent.remove(over);
        }
        self.recent.push_back(stall);
    }

    fn replace(&mut self, stall: &Stall) {
        if let Some(entry) = self.recent.iter_mut().rev().find(|s| s.id == stall.id) {
            entry.clone_from(stall);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::meter::Meter;
    use crate::measure::site::SiteId;
    use crate::report::sums::Amount;

    const ACCOUNT: Account =
        Account { runtime: 1, site: SiteId(1), cause: Cause::Unknown, certainty: Certainty::Measured };

    fn stall(id: u64, millis: u64) -> Stall {
        Stall {
            id,
            phase: Phase::Ongoing,
            certainty: Certainty::Measured,
            runtime: "main".into(),
            worker: Some(0),
            thread: "t".into(),
            task: None,
            site: Meter::of(1, 1).sites.get(SiteId::OTHER),
            watched: None,
            route: None,
            parent_route: None,
            latest_request: None,
            spans: Vec::new(),
            cause: Cause::Unknown,
            started_at: std::time::SystemTime::UNIX_EPOCH,
            elapsed: Duration::from_millis(millis),
            elapsed_is_lower_bound: false,
            on_cpu: None,
            syscall: None,
            stack: None,
            location_changed: None,
            reason: "",
            advice: None,
        }
    }

    #[test]
    fn seconds_move_during_a_stall_and_never_go_back() {
        let meter = Meter::of(1_000_000, 10);
        let thread = Arc::new(ThreadState::new(&meter, 1));
        let number = thread.slot.push(0, 0, 0, None);
        let mut book = Book::default();
        book.begin(stall(1, 10), ACCOUNT, thread.clone(), Still::Poll(number), 0);
        let key = (1, SiteId(1));
        assert_eq!(book.sums(|_| 0).sites[&key], Amount { count: 1, nanos: 10_000_000 });
        assert_eq!(book.sums(|_| 5_000_000).sites[&key].nanos, 15_000_000);
        thread.slot.pop();
        assert_eq!(book.sums(|_| 9_000_000).sites[&key].nanos, 15_000_000, "it is over, though nobody has said so");
        assert_eq!(book.end(1, Duration::from_millis(14)).unwrap().phase, Phase::Resolved);
        assert_eq!(book.sums(|_| 0).sites[&key].nanos, 15_000_000, "what was shown stays");
        assert_eq!(book.sums(|_| 0).causes[&(1, Cause::Unknown)].count, 1);
    }

    #[test]
    fn a_request_is_counted_once_and_its_seconds_move() {
        let meter = Meter::of(1_000_000, 10);
        let thread = Arc::new(ThreadState::new(&meter, 1));
        let number = thread.slot.push(0, 0, 0, None);
        let frame = thread.slot.push(0, 0, 0, None);
        let (route, name) = (RouteId::OTHER, "other".into());
        let amount = |book: &mut Book, since| book.sums(|_| since).routes[&route];
        let mut book = Book::default();
        book.begin(stall(1, 10), ACCOUNT, thread.clone(), Still::Poll(number), 0);
        book.request(1, (frame, route, &name), 10, 0, false);
        book.request(1, (frame, route, &name), 12, 0, false);
        assert_eq!(book.recent()[0].route.as_deref(), Some("other"));
        assert_eq!(amount(&mut book, 5), Amount { count: 1, nanos: 17 });
        thread.slot.pop();
        assert_eq!(amount(&mut book, 50), Amount { count: 1, nanos: 17 }, "it is over, the poll goes on");
        book.request(1, (frame, route, &name), 14, 0, true);
        book.request(1, (frame + 1, route, &name), 20, 0, true);
        assert_eq!(amount(&mut book, 0), Amount { count: 2, nanos: 37 }, "another one of the same poll");
        book.request(1, (frame, route, &name), 14, 0, false);
        assert_eq!(amount(&mut book, 0), Amount { count: 2, nanos: 37 }, "seen before it went, told after it had gone");
        book.end(1, Duration::from_millis(20));
        // One whose stall was over before it was seen.
        book.request(2, (frame, route, &name), 11, 0, true);
        assert_eq!(amount(&mut book, 0), Amount { count: 3, nanos: 48 });
    }

    #[test]
    fn a_request_that_was_starved_is_not_blamed() {
        let meter = Meter::of(1_000_000, 10);
        let mut book = Book::default();
        let account = Account { cause: Cause::Starved, ..ACCOUNT };
        book.begin(stall(1, 10), account, Arc::new(ThreadState::new(&meter, 1)), Still::Poll(1), 0);
        book.request(1, (2, RouteId::OTHER, &"other".into()), 12, 0, true);
        assert!(book.sums(|_| 0).routes.is_empty());
    }

    #[test]
    fn keeps_the_recent_and_the_going() {
        let meter = Meter::of(1_000_000, 10);
        let thread = Arc::new(ThreadState::new(&meter, 1));
        let mut book = Book::default();
        book.begin(stall(1, 10), ACCOUNT, thread, Still::Poll(1), 0);
        for id in 2..2_000 {
            book.enter(Stall { phase: Phase::Resolved, ..stall(id, 10) }, ACCOUNT);
        }
        let recent = book.recent();
        assert_eq!(recent.len(), RECENT);
        assert_eq!((recent[0].id, recent[RECENT - 1].id), (1, 1_999));
        book.update(1, Duration::from_millis(99), None, (Cause::Unknown, None), 0);
        assert_eq!(book.recent()[0].elapsed, Duration::from_millis(99));
    }
}
