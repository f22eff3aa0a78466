//! Requests that block by themselves: the parts of stalls that are told under a route. Pure.

use std::collections::HashMap;

use super::{Change, Poll, PollKey, Scan, effective};
use crate::detect::pause::Pauses;
use crate::model::id::RouteId;

/// A request inside a poll, right now; times in nanoseconds of the watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its frame's push number.
    pub(crate) frame: u64,
    pub(crate) route: RouteId,
    pub(crate) begin: u64,
}

impl Request {
    /// How long it has lasted by `now`, as a part of `poll`.
    pub(super) fn elapsed(&self, poll: &Poll, now: u64, pauses: &Pauses) -> u64 {
        effective(self.begin, poll.paused_since.unwrap_or(now).min(now), pauses)
    }
}

/// A part of a request that lasted at least the threshold and told so at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedRequest {
    /// The poll that it was a part of.
    pub(crate) poll: PollKey,
    pub(crate) request: Request,
    pub(crate) nanos: u64,
}

impl EndedRequest {
    fn elapsed(&self, pauses: &Pauses) -> u64 {
        effective(self.request.begin, self.request.begin + self.nanos, pauses)
    }
}

/// Requests that are over, and whose polls have not been told yet.
#[derive(Debug, Default)]
pub(super) struct PendingRequests(HashMap<PollKey, PendingOfPoll>);

#[derive(Debug, Default)]
struct PendingOfPoll {
    ended: Vec<EndedRequest>,
    /// Looks that have passed.
    looks: u8,
}

/// Looks in which the poll of an ended request has to turn up: it may have begun after the slots were read.
const PATIENCE: u8 = 2;
/// Of one poll (pipelined requests), kept at most.
const MAX_A_POLL: usize = 64;

impl PendingRequests {
    pub(super) fn add(&mut self, ended: EndedRequest) {
        let waits = self.0.entry(ended.poll).or_default();
        if waits.ended.len() < MAX_A_POLL {
            waits.ended.push(ended);
        }
    }

    /// The last of a poll that was long enough.
    pub(super) fn last(&self, poll: PollKey, threshold: u64, pauses: &Pauses) -> Option<RouteId> {
        let long = self.0.get(&poll)?.ended.iter().rev().find(|ended| ended.elapsed(pauses) >= threshold)?;
        Some(long.request.route)
    }

    /// Those of a poll that is told as a stall.
    pub(super) fn take(&mut self, poll: PollKey, id: u64, threshold: u64, pauses: &Pauses, changes: &mut Vec<Change>) {
        for ended in self.0.remove(&poll).map(|waits| waits.ended).unwrap_or_default() {
            changes.extend(of_ended(&ended, id, threshold, pauses));
        }
    }

    /// Forgets those whose polls are gone.
    pub(super) fn tidy(&mut self, scan: &Scan) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|poll, waits| {
            waits.looks = waits.looks.saturating_add(1);
            waits.looks < PATIENCE
                || scan.unread.contains(&poll.thread)
                || scan.running.iter().any(|running| running.key == *poll)
        });
    }
}

/// What is told of a request that is over, in the stall `id`.
pub(super) fn of_ended(ended: &EndedRequest, id: u64, threshold: u64, pauses: &Pauses) -> Option<Change> {
    let (Request { frame, route, .. }, elapsed) = (ended.request, ended.elapsed(pauses));
    (elapsed >= threshold).then_some(Change::Request { id, frame, route, elapsed, over: true })
}

/// What is told of the request that a stall is in, once it is long enough by itself.
pub(super) fn of_running(poll: &Poll, id: u64, now: u64, threshold: u64, pauses: &Pauses) -> Option<Change> {
    let request = poll.request?;
    let elapsed = request.elapsed(poll, now, pauses);
    let (frame, route) = (request.frame, request.route);
    (elapsed >= threshold).then_some(Change::Request { id, frame, route, elapsed, over: false })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::detect::track::tests::{MS, T, on_worker, poll, running};
    use crate::detect::track::{EndedPoll, Tracker};

    fn route(n: u16) -> RouteId {
        RouteId::from_bits(n).unwrap()
    }

    fn request(frame: u64, begin: u64) -> Request {
        Request { frame, route: route(frame as u16), begin }
    }

    /// A poll that begins at 0, in a request since `begin`.
    fn within(begin: u64) -> Poll {
        Poll { request: Some(request(2, begin)), ..poll(1, 0) }
    }

    fn over(poll: Poll, request: Request, nanos: u64) -> Scan {
        Scan { ended_requests: vec![EndedRequest { poll: poll.key, request, nanos }], ..running(&[poll]) }
    }

    fn told(id: u64, frame: u64, elapsed: u64, over: bool) -> Change {
        Change::Request { id, frame, route: route(frame as u16), elapsed, over }
    }

    #[test]
    fn the_first_report_names_the_route_though_the_request_began_a_little_later() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(MS);
        assert_eq!(tracker.next_scan(2 * MS, &running(&[p]), &pauses), T + MS, "the scan comes when both are due");
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), []);
        let began = Change::Started { id: 1, poll: p, worker: 0, elapsed: T + MS, route: Some(route(2)) };
        assert_eq!(tracker.step(T + MS, &running(&[p]), &pauses, on_worker), [began, told(1, 2, T, false)]);
        let ended = Scan { ended: vec![EndedPoll { poll: p, nanos: 15 * MS, worker: Some(0) }], ..Scan::default() };
        let scan = Scan { ended_requests: over(p, request(2, MS), 14 * MS).ended_requests, ..ended };
        let ended = Change::Ended { id: 1, elapsed: 15 * MS };
        assert_eq!(tracker.step(16 * MS, &scan, &pauses, on_worker), [told(1, 2, 14 * MS, true), ended]);
    }

    #[test]
    fn one_that_began_much_later_is_told_when_it_is_long_enough_itself() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(6 * MS);
        let began = Change::Started { id: 1, poll: p, worker: 0, elapsed: T, route: None };
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), [began]);
        let goes_on = |elapsed| Change::Unchanged { id: 1, elapsed };
        assert_eq!(tracker.step(15 * MS, &running(&[p]), &pauses, on_worker), [goes_on(15 * MS)]);
        let told = [told(1, 2, T, false), goes_on(16 * MS)];
        assert_eq!(tracker.step(16 * MS, &running(&[p]), &pauses, on_worker), told);
    }

    #[test]
    fn several_short_ones_have_no_route() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = poll(1, 0);
        let poll_in = |frame| Poll { request: Some(request(frame, frame * 6 * MS)), ..p };
        assert_eq!(tracker.step(T, &running(&[poll_in(1)]), &pauses, on_worker).len(), 1);
        assert_eq!(
            tracker.step(15 * MS, &running(&[poll_in(2)]), &pauses, on_worker),
            [Change::Unchanged { id: 1, elapsed: 15 * MS }]
        );
        // An end like this is never published, and would not count.
        let short = tracker.step(17 * MS, &over(poll_in(2), request(1, 6 * MS), 6 * MS), &pauses, on_worker);
        assert_eq!(short, [Change::Unchanged { id: 1, elapsed: 17 * MS }]);
    }

    #[test]
    fn one_that_ended_unseen_has_its_route() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = poll(7, 0);
        let scan = over(p, request(8, 0), 12 * MS);
        // Its end may be published one scan before that of its poll.
        assert_eq!(tracker.step(9 * MS, &scan, &pauses, on_worker), []);
        let scan = Scan { ended: vec![EndedPoll { poll: p, nanos: 13 * MS, worker: Some(0) }], ..Scan::default() };
        let missed = Change::EndedUnseen {
            id: 1,
            poll: p,
            worker: 0,
            elapsed: 13 * MS,
            route: Some(route(8)),
            exoneration: None,
        };
        assert_eq!(tracker.step(14 * MS, &scan, &pauses, on_worker), [missed, told(1, 8, 12 * MS, true)]);
        assert!(tracker.pending.0.is_empty());
    }

    #[test]
    fn ended_requests_without_a_stall_are_forgotten() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        for number in 0..100 {
            let scan = Scan { running: Vec::new(), ..over(poll(number, 0), request(9, 0), 12 * MS) };
            assert_eq!(tracker.step(T, &scan, &pauses, on_worker), []);
        }
        assert!(tracker.pending.0.len() <= usize::from(PATIENCE), "{:?}", tracker.pending);
    }
}
