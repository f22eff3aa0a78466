//! The requests of one stall that block the worker for the threshold or longer by themselves, and
//! their part of the totals.

use std::collections::VecDeque;

use super::totals::StallTotals;
use crate::model::event::BlockedRequest;
use crate::model::id::{FrameNumber, RouteId};
use crate::model::time::Nanos;

/// The largest number of ended requests that are remembered for one ongoing stall.
const MAX_ENDED: usize = 64;

/// An ongoing request of an ongoing stall.
#[derive(Debug)]
struct OngoingRequest {
    frame: FrameNumber,
    route: RouteId,
    elapsed: Nanos,
    /// The moment at which `elapsed` was measured.
    at: Nanos,
    /// The part of the request's time that is in the totals already, or is excused.
    accrued: Nanos,
}

/// The part of a stall's requests of one route that is not in the totals.
#[derive(Debug)]
struct PendingRoute {
    route: RouteId,
    /// The number of requests, which are counted when the stall is.
    uncounted: u64,
    /// The time for which no task is blamed.
    excused: Nanos,
}

/// The requests of one ongoing stall.
#[derive(Debug, Default)]
pub(super) struct StallRequests {
    ongoing: Vec<OngoingRequest>,
    /// The frames of requests that have ended. A scan may observe such a frame once more, because a
    /// request publishes its end before it pops its frame.
    ended: VecDeque<FrameNumber>,
    pending: Vec<PendingRoute>,
}

impl StallRequests {
    /// Records a request, however often it is observed. `is_blamed` says whether the running
    /// segment is the task's own.
    pub(super) fn record(&mut self, request: &BlockedRequest, is_blamed: bool, totals: &mut StallTotals) {
        let BlockedRequest { frame, route, elapsed, at, is_over, .. } = *request;
        if self.ended.contains(&frame) {
            return;
        }
        let known = self.ongoing.iter().position(|request| request.frame == frame);
        let index = known.unwrap_or_else(|| {
            self.pending_of(route).uncounted += 1;
            self.ongoing.push(OngoingRequest { frame, route, elapsed, at, accrued: Nanos::ZERO });
            self.ongoing.len() - 1
        });
        let request = &mut self.ongoing[index];
        (request.elapsed, request.at) = (elapsed, at);
        if is_over {
            let request = self.ongoing.swap_remove(index);
            self.add_time(request.route, request.elapsed.saturating_sub(request.accrued), is_blamed, totals);
            self.ended.push_back(request.frame);
            if self.ended.len() > MAX_ENDED {
                self.ended.pop_front();
            }
        }
    }

    /// Moves the time until the moment `now` of the requests in `open_frames` into the totals, and
    /// of the others the time until they were last observed.
    pub(super) fn accrue(
        &mut self,
        now: Nanos,
        open_frames: Option<&[FrameNumber]>,
        is_blamed: bool,
        totals: &mut StallTotals,
    ) {
        for index in 0..self.ongoing.len() {
            let request = &mut self.ongoing[index];
            let is_open = open_frames.is_some_and(|frames| frames.contains(&request.frame));
            let since = if is_open { now.saturating_sub(request.at) } else { Nanos::ZERO };
            let growth = (request.elapsed + since).saturating_sub(request.accrued);
            request.accrued += growth;
            let route = request.route;
            self.add_time(route, growth, is_blamed, totals);
        }
    }

    /// Counts the requests that are not counted yet, if the stall counts under a cause for which
    /// its task is to blame.
    pub(super) fn count(&mut self, is_blamed: bool, totals: &mut StallTotals) {
        for pending in &mut self.pending {
            let count = std::mem::take(&mut pending.uncounted);
            if is_blamed && count > 0 {
                totals.add_request(pending.route, count, Nanos::ZERO);
            }
        }
    }

    /// Adds the time that was excused and turned out to be computed: at most `computed` for each
    /// route.
    pub(super) fn add_excused(&mut self, computed: Nanos, totals: &mut StallTotals) {
        for pending in &mut self.pending {
            let time = std::mem::take(&mut pending.excused).min(computed);
            if time > Nanos::ZERO {
                totals.add_request(pending.route, 0, time);
            }
        }
    }

    fn add_time(&mut self, route: RouteId, time: Nanos, is_blamed: bool, totals: &mut StallTotals) {
        match is_blamed {
            true => totals.add_request(route, 0, time),
            false => self.pending_of(route).excused += time,
        }
    }

    fn pending_of(&mut self, route: RouteId) -> &mut PendingRoute {
        let index = self.pending.iter().position(|pending| pending.route == route).unwrap_or_else(|| {
            self.pending.push(PendingRoute { route, uncounted: 0, excused: Nanos::ZERO });
            self.pending.len() - 1
        });
        &mut self.pending[index]
    }
}
