//! Requests that block by themselves: the parts of stalls that are told under a route. Pure.

use std::collections::HashMap;

use super::{Change, Look, Poll, PollKey, effective};
use crate::detect::pause::Pauses;
use crate::measure::route::RouteId;

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
        effective(self.begin, poll.stands_since.unwrap_or(now).min(now), pauses)
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
pub(super) struct Waiting(HashMap<PollKey, Waits>);

#[derive(Debug, Default)]
struct Waits {
    ended: Vec<EndedRequest>,
    /// Looks that have passed.
    looks: u8,
}

/// Looks in which the poll of an ended request has to turn up: it may have begun after the slots were read.
const PATIENCE: u8 = 2;
/// Of one poll (pipelined requests), kept at most.
const MAX_A_POLL: usize = 64;

impl Waiting {
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
    pub(super) fn tidy(&mut self, look: &Look) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|poll, waits| {
            waits.looks = waits.looks.saturating_add(1);
            waits.looks < PATIENCE
                || look.unread.contains(&poll.thread)
                || look.running.iter().any(|running| running.key == *poll)
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
