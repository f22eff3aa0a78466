//! What a look finds: the polls that go on, and those that have ended.

use std::collections::HashMap;
use std::sync::Arc;

use super::Watcher;
use crate::detect::procfs;
use crate::detect::scan::{EndedPoll, EndedRequest, Look, Poll, PollKey, Request};
use crate::detect::workers;
use crate::measure::ended::Ended;
use crate::measure::route::RouteId;
use crate::measure::site::SiteId;
use crate::measure::slot::{Kind, Reading, What};
use crate::measure::thread::ThreadState;

/// A look, with the threads that it speaks of.
pub(super) struct Seen {
    pub(super) at: u64,
    pub(super) now: u64,
    pub(super) look: Look,
    pub(super) threads: HashMap<u64, Arc<ThreadState>>,
    pub(super) workers: workers::Look,
    pub(super) fingerprint: u64,
}

impl Watcher {
    /// Reads all slots, then what has ended: a poll that is in neither began after.
    pub(super) fn look(&mut self) -> Seen {
        let shared = self.shared.clone();
        let meter = &shared.meter;
        let at = meter.clock.now();
        let mut look = Look::default();
        let mut threads = HashMap::new();
        let mut fingerprint = 0u64;
        let live = meter.threads();
        for thread in &live {
            match thread.slot.read() {
                Some(reading) => {
                    fingerprint = fingerprint.wrapping_add(reading.state);
                    self.polls_of(thread, &reading, &mut look.running);
                }
                None => {
                    fingerprint = fingerprint.wrapping_add(1);
                    look.unread.push(thread.id);
                }
            }
        }
        for thread in live.into_iter().chain(meter.take_departed()) {
            thread.ended.drain(|ended| match What::unpack(ended.what) {
                What { kind: Kind::Route, route, .. } => {
                    look.ended_requests.extend(route.map(|route| self.ended_request_of(&thread, &ended, route)));
                }
                what => look.ended.push(self.ended_of(&thread, &ended, what)),
            });
            threads.insert(thread.id, thread);
        }
        let workers = self.workers.look(meter);
        // As it was before: a worker that is unparked meanwhile keeps the watchdog from falling asleep.
        fingerprint = fingerprint.wrapping_add(workers.fingerprint);
        Seen { at, now: meter.clock.nanos(at), look, threads, workers, fingerprint }
    }

    fn polls_of(&self, thread: &ThreadState, reading: &Reading, polls: &mut Vec<Poll>) {
        let clock = &self.shared.meter.clock;
        for (frame, what, stands) in reading.polls() {
            let mut poll = self.poll_of(thread, frame.number, frame.begin, what, frame.task);
            poll.watched = reading.scope_of(frame);
            poll.parent_route = reading.parent_route(frame);
            poll.request = reading.request_of(frame).map(|(request, route)| Request {
                frame: request.number,
                route,
                begin: clock.nanos(request.begin),
            });
            poll.stands_since = stands.map(|reading| clock.nanos(reading));
            // Matters until it is told; and some are never, and last (the `block_on` roots of a multi-thread runtime).
            let nanos = clock.delta(frame.begin, stands.unwrap_or_else(|| clock.now()));
            if nanos >= self.shared.meter.threshold && !self.tracker.is_tracked(&poll.key) {
                poll.waited = self.waited(thread, poll.begin);
            }
            polls.push(poll);
        }
    }

    fn poll_of(&self, thread: &ThreadState, number: u64, begin: u64, what: What, task: u64) -> Poll {
        Poll {
            key: PollKey { thread: thread.id, number },
            begin: self.shared.meter.clock.nanos(begin),
            runtime: what.runtime,
            site: thread.tally.cell(what.index).map_or(SiteId::OTHER, |cell| cell.site()),
            watched: None,
            request: None,
            parent_route: what.route,
            task,
            stands_since: None,
            waited: 0,
        }
    }

    fn ended_request_of(&self, thread: &ThreadState, ended: &Ended, route: RouteId) -> EndedRequest {
        let begin = self.shared.meter.clock.nanos(ended.begin);
        let poll = PollKey { thread: thread.id, number: ended.task };
        EndedRequest { poll, request: Request { frame: ended.number, route, begin }, nanos: ended.nanos }
    }

    fn ended_of(&self, thread: &ThreadState, ended: &Ended, what: What) -> EndedPoll {
        let mut poll = self.poll_of(thread, ended.number, ended.begin, what, ended.task);
        if ended.worker.is_some() && !self.tracker.is_tracked(&poll.key) {
            poll.waited = self.waited(thread, poll.begin);
        }
        EndedPoll { poll, nanos: ended.nanos, worker: ended.worker }
    }

    /// How long a thread has been kept from a CPU since the last look before a poll of it began, as far as that is known.
    fn waited(&self, thread: &ThreadState, begin: u64) -> u64 {
        let waited = || {
            let before = self.waits.before(thread.id, begin, thread.waited)?;
            Some(procfs::run_delay(thread.tid?)?.saturating_sub(before))
        };
        waited().unwrap_or(0)
    }
}
