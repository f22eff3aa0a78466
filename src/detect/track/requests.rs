//! Requests that block by themselves: the parts of stalls that are reported under a route. Pure.

use std::collections::HashMap;

use super::{Change, Poll, PollKey, Scan, effective};
use crate::detect::pause::Pauses;
use crate::model::id::{FrameNumber, RouteId};

/// A request inside a running poll. Times are in nanoseconds of the watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The number of the request's frame.
    pub(crate) frame: FrameNumber,
    pub(crate) route: RouteId,
    pub(crate) begin: u64,
}

impl Request {
    /// Returns how long the request has lasted at `now`, as a part of `poll`.
    pub(super) fn elapsed(&self, poll: &Poll, now: u64, pauses: &Pauses) -> u64 {
        effective(self.begin, poll.paused_since.unwrap_or(now).min(now), pauses)
    }
}

/// A finished part of a request that lasted at least the threshold, as its thread published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedRequest {
    /// The poll that contains the part.
    pub(crate) poll: PollKey,
    pub(crate) request: Request,
    pub(crate) nanos: u64,
}

impl EndedRequest {
    fn elapsed(&self, pauses: &Pauses) -> u64 {
        effective(self.request.begin, self.request.begin + self.nanos, pauses)
    }
}

/// Finished requests whose polls have not been reported yet.
#[derive(Debug, Default)]
pub(super) struct PendingRequests(HashMap<PollKey, PendingOfPoll>);

#[derive(Debug, Default)]
struct PendingOfPoll {
    ended: Vec<EndedRequest>,
    /// The number of scans that have passed.
    scans: u8,
}

/// The number of scans in which the poll of a finished request has to turn up: it may have begun
/// after the slots were read.
const PATIENCE: u8 = 2;
/// The number of requests of one poll that are kept (pipelined requests).
const MAX_PER_POLL: usize = 64;

impl PendingRequests {
    pub(super) fn add(&mut self, ended: EndedRequest) {
        let pending = self.0.entry(ended.poll).or_default();
        if pending.ended.len() < MAX_PER_POLL {
            pending.ended.push(ended);
        }
    }

    /// Returns the route of a poll's last request that was long enough.
    pub(super) fn last(&self, poll: PollKey, threshold: u64, pauses: &Pauses) -> Option<RouteId> {
        let long = self.0.get(&poll)?.ended.iter().rev().find(|ended| ended.elapsed(pauses) >= threshold)?;
        Some(long.request.route)
    }

    /// Takes the requests of a poll that is reported as a stall.
    pub(super) fn take(&mut self, poll: PollKey, id: u64, threshold: u64, pauses: &Pauses, changes: &mut Vec<Change>) {
        for ended in self.0.remove(&poll).map(|pending| pending.ended).unwrap_or_default() {
            changes.extend(of_ended(&ended, id, threshold, pauses));
        }
    }

    /// Drops the requests whose polls are gone.
    pub(super) fn tidy(&mut self, scan: &Scan) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|poll, pending| {
            pending.scans = pending.scans.saturating_add(1);
            pending.scans < PATIENCE
                || scan.unread.contains(&poll.thread)
                || scan.running.iter().any(|running| running.key == *poll)
        });
    }
}

/// Returns the change for a finished request of the stall `id`.
pub(super) fn of_ended(ended: &EndedRequest, id: u64, threshold: u64, pauses: &Pauses) -> Option<Change> {
    let (Request { frame, route, .. }, elapsed) = (ended.request, ended.elapsed(pauses));
    (elapsed >= threshold).then_some(Change::Request { id, frame, route, elapsed, over: true })
}

/// Returns the change for the request that the stall `id` is in, once that is long enough by
/// itself.
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
        Request { frame: FrameNumber(frame), route: route(frame as u16), begin }
    }

    /// A poll that begins at 0, in a request since `begin`.
    fn within(begin: u64) -> Poll {
        Poll { request: Some(request(2, begin)), ..poll(1, 0) }
    }

    fn over(poll: Poll, request: Request, nanos: u64) -> Scan {
        Scan { ended_requests: vec![EndedRequest { poll: poll.key, request, nanos }], ..running(&[poll]) }
    }

    fn reported(id: u64, frame: u64, elapsed: u64, over: bool) -> Change {
        Change::Request { id, frame: FrameNumber(frame), route: route(frame as u16), elapsed, over }
    }

    #[test]
    fn the_first_report_names_the_route_though_the_request_began_a_little_later() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(MS);
        assert_eq!(tracker.next_scan(2 * MS, &running(&[p]), &pauses), T + MS, "the scan comes when both are due");
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), []);
        let began = Change::Started { id: 1, poll: p, worker: 0, elapsed: T + MS, route: Some(route(2)) };
        assert_eq!(tracker.step(T + MS, &running(&[p]), &pauses, on_worker), [began, reported(1, 2, T, false)]);
        let ended = Scan { ended: vec![EndedPoll { poll: p, nanos: 15 * MS, worker: Some(0) }], ..Scan::default() };
        let scan = Scan { ended_requests: over(p, request(2, MS), 14 * MS).ended_requests, ..ended };
        let ended = Change::Ended { id: 1, elapsed: 15 * MS };
        assert_eq!(tracker.step(16 * MS, &scan, &pauses, on_worker), [reported(1, 2, 14 * MS, true), ended]);
    }

    #[test]
    fn a_request_that_began_much_later_is_reported_when_it_is_long_enough_itself() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(6 * MS);
        let began = Change::Started { id: 1, poll: p, worker: 0, elapsed: T, route: None };
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), [began]);
        let unchanged = |elapsed| Change::Unchanged { id: 1, elapsed };
        assert_eq!(tracker.step(15 * MS, &running(&[p]), &pauses, on_worker), [unchanged(15 * MS)]);
        let reported = [reported(1, 2, T, false), unchanged(16 * MS)];
        assert_eq!(tracker.step(16 * MS, &running(&[p]), &pauses, on_worker), reported);
    }

    #[test]
    fn several_short_requests_have_no_route() {
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
    fn a_stall_that_ended_unseen_has_its_route() {
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
        assert_eq!(tracker.step(14 * MS, &scan, &pauses, on_worker), [missed, reported(1, 8, 12 * MS, true)]);
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
