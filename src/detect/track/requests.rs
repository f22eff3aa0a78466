//! Requests that block by themselves: the parts of stalls that are reported under a route. Pure.

use std::collections::HashMap;

use super::{Change, Poll, PollKey, ScannedPolls, StepContext};
use crate::model::id::{FrameNumber, RouteId, StallId};
use crate::model::time::Nanos;

/// A request inside a running poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenRequest {
    /// The number of the request's frame.
    pub(crate) frame: FrameNumber,
    pub(crate) route: RouteId,
    /// The moment at which the poll entered the request.
    pub(crate) start: Nanos,
}

/// A finished part of a request that lasted at least the threshold, as its thread published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedRequest {
    /// The poll that contains the part.
    pub(crate) poll: PollKey,
    pub(crate) request: OpenRequest,
    pub(crate) duration: Nanos,
}

impl EndedRequest {
    fn elapsed(&self, context: StepContext<'_>) -> Nanos {
        context.duration_without_pauses(self.request.start, self.duration)
    }
}

/// Finished requests whose polls have not been reported yet.
#[derive(Debug, Default)]
pub(super) struct PendingRequests(HashMap<PollKey, PollRequests>);

/// The finished requests of one poll.
#[derive(Debug, Default)]
struct PollRequests {
    ended: Vec<EndedRequest>,
    /// The number of scans that have passed.
    scans: u8,
}

/// The number of scans within which the poll of a finished request has to be found: the poll may
/// have started after the slots were read.
const MAX_SCANS: u8 = 2;
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
    pub(super) fn last_route(&self, poll: PollKey, context: StepContext<'_>) -> Option<RouteId> {
        let mut ended = self.0.get(&poll)?.ended.iter().rev();
        Some(ended.find(|ended| ended.elapsed(context) >= context.threshold)?.request.route)
    }

    /// Removes the requests of a poll that is reported as the stall `id`. Returns their changes.
    pub(super) fn take<'a>(
        &mut self,
        poll: PollKey,
        id: StallId,
        context: StepContext<'a>,
    ) -> impl Iterator<Item = Change> + use<'a> {
        let pending = self.0.remove(&poll).unwrap_or_default();
        pending.ended.into_iter().filter_map(move |request| change_of_ended(&request, id, context))
    }

    /// Removes the requests whose polls have not been found in time.
    pub(super) fn remove_expired(&mut self, scan: &ScannedPolls) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|poll, pending| {
            pending.scans = pending.scans.saturating_add(1);
            pending.scans < MAX_SCANS
                || scan.unread.contains(&poll.thread)
                || scan.running.iter().any(|running| running.key == *poll)
        });
    }
}

/// Returns the change for a finished request of the stall `id`, if it was long enough by itself.
pub(super) fn change_of_ended(ended: &EndedRequest, id: StallId, context: StepContext<'_>) -> Option<Change> {
    let (OpenRequest { frame, route, .. }, elapsed) = (ended.request, ended.elapsed(context));
    (elapsed >= context.threshold).then_some(Change::RequestBlocked { id, frame, route, elapsed, is_over: true })
}

/// Returns the change for the request that the stall `id` is in, once that is long enough by
/// itself.
pub(super) fn change_of_running(poll: &Poll, id: StallId, context: StepContext<'_>) -> Option<Change> {
    let OpenRequest { frame, route, start } = poll.request?;
    let elapsed = context.elapsed(poll, start);
    (elapsed >= context.threshold).then_some(Change::RequestBlocked { id, frame, route, elapsed, is_over: false })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::detect::pause::Pauses;
    use crate::detect::track::tests::{END, MS, T, WORKER, on_worker, poll, running};
    use crate::detect::track::{EndedPoll, Tracker};
    use crate::model::cause::Cause;

    fn route(n: u16) -> RouteId {
        RouteId::from_bits(n).unwrap()
    }

    fn request(frame: u64, start: Nanos) -> OpenRequest {
        OpenRequest { frame: FrameNumber(frame), route: route(frame as u16), start }
    }

    /// A poll that starts at 0, in a request since `start`.
    fn within(start: Nanos) -> Poll {
        Poll { request: Some(request(2, start)), ..poll(1, Nanos::ZERO) }
    }

    fn over(poll: Poll, request: OpenRequest, duration: Nanos) -> ScannedPolls {
        ScannedPolls { ended_requests: vec![EndedRequest { poll: poll.key, request, duration }], ..running(&[poll]) }
    }

    fn reported(id: u64, frame: u64, elapsed: Nanos, is_over: bool) -> Change {
        Change::RequestBlocked {
            id: StallId(id),
            frame: FrameNumber(frame),
            route: route(frame as u16),
            elapsed,
            is_over,
        }
    }

    #[test]
    fn the_first_report_names_the_route_though_the_request_started_a_little_later() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(MS);
        assert_eq!(tracker.next_scan(2 * MS, &running(&[p]), &pauses), T + MS, "the scan comes when both are due");
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), []);
        let started =
            Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: T + MS, route: Some(route(2)) };
        assert_eq!(tracker.step(T + MS, &running(&[p]), &pauses, on_worker), [started, reported(1, 2, T, false)]);
        let ended = ScannedPolls {
            ended: vec![EndedPoll { poll: p, duration: 15 * MS, worker: Some(WORKER), end: END }],
            ..ScannedPolls::default()
        };
        let scan = ScannedPolls { ended_requests: over(p, request(2, MS), 14 * MS).ended_requests, ..ended };
        let ended = Change::Ended { id: StallId(1), elapsed: 15 * MS, end: Some(END), whole: 15 * MS };
        assert_eq!(tracker.step(16 * MS, &scan, &pauses, on_worker), [reported(1, 2, 14 * MS, true), ended]);
    }

    #[test]
    fn a_request_that_started_much_later_is_reported_when_it_is_long_enough_itself() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = within(6 * MS);
        let started = Change::Started { id: StallId(1), poll: p, worker: Some(WORKER), elapsed: T, route: None };
        assert_eq!(tracker.step(T, &running(&[p]), &pauses, on_worker), [started]);
        let unchanged = |elapsed| Change::StillOngoing { id: StallId(1), elapsed };
        assert_eq!(tracker.step(15 * MS, &running(&[p]), &pauses, on_worker), [unchanged(15 * MS)]);
        let reported = [reported(1, 2, T, false), unchanged(16 * MS)];
        assert_eq!(tracker.step(16 * MS, &running(&[p]), &pauses, on_worker), reported);
    }

    #[test]
    fn several_short_requests_have_no_route() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = poll(1, Nanos::ZERO);
        let poll_in = |frame| Poll { request: Some(request(frame, frame * 6 * MS)), ..p };
        assert_eq!(tracker.step(T, &running(&[poll_in(1)]), &pauses, on_worker).len(), 1);
        assert_eq!(
            tracker.step(15 * MS, &running(&[poll_in(2)]), &pauses, on_worker),
            [Change::StillOngoing { id: StallId(1), elapsed: 15 * MS }]
        );
        // An end like this is never published, and would not count.
        let short = tracker.step(17 * MS, &over(poll_in(2), request(1, 6 * MS), 6 * MS), &pauses, on_worker);
        assert_eq!(short, [Change::StillOngoing { id: StallId(1), elapsed: 17 * MS }]);
    }

    #[test]
    fn a_stall_that_ended_unseen_has_its_route() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let p = poll(7, Nanos::ZERO);
        let scan = over(p, request(8, Nanos::ZERO), 12 * MS);
        // Its end may be published one scan before that of its poll.
        assert_eq!(tracker.step(9 * MS, &scan, &pauses, on_worker), []);
        let scan = ScannedPolls {
            ended: vec![EndedPoll { poll: p, duration: 13 * MS, worker: Some(WORKER), end: END }],
            ..ScannedPolls::default()
        };
        let unseen = Change::EndedUnseen {
            id: StallId(1),
            poll: p,
            worker: Some(WORKER),
            elapsed: 13 * MS,
            route: Some(route(8)),
            cause: Cause::Unknown,
        };
        assert_eq!(tracker.step(14 * MS, &scan, &pauses, on_worker), [unseen, reported(1, 8, 12 * MS, true)]);
        assert!(tracker.pending.0.is_empty());
    }

    #[test]
    fn ended_requests_without_a_stall_are_forgotten() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        for number in 0..100 {
            let scan = ScannedPolls {
                running: Vec::new(),
                ..over(poll(number, Nanos::ZERO), request(9, Nanos::ZERO), 12 * MS)
            };
            assert_eq!(tracker.step(T, &scan, &pauses, on_worker), []);
        }
        assert!(tracker.pending.0.len() <= usize::from(MAX_SCANS), "{:?}", tracker.pending);
    }
}
