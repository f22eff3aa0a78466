//! Which polls are stalls, when they are told again, and when to look next. Pure: slots and time in, changes out.

use std::collections::{HashMap, HashSet};

use super::pause::Pauses;
use crate::model::id::{PollKey, RouteId, SiteId};
use crate::util::backoff::next_doubling;

mod requests;

use requests::PendingRequests;
pub(crate) use requests::{EndedRequest, Request};

/// A poll that was seen; times in nanoseconds of the watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) key: PollKey,
    pub(crate) begin: u64,
    pub(crate) runtime: u16,
    pub(crate) site: SiteId,
    /// The innermost watched future inside it.
    pub(crate) watched: Option<SiteId>,
    /// The innermost request inside it.
    pub(crate) request: Option<Request>,
    /// The route of the request whose handler spawned it.
    pub(crate) parent_route: Option<RouteId>,
    pub(crate) task: u64,
    /// When it began to stand still, because a part of it is meant to block.
    pub(crate) paused_since: Option<u64>,
    /// How long its thread was kept from a CPU since shortly before it began, once it has lasted for the threshold and until it is
    /// tracked; 0 where that is not known.
    pub(crate) waited: u64,
}

/// A poll that lasted at least the threshold and told so at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedPoll {
    pub(crate) poll: Poll,
    pub(crate) nanos: u64,
    /// The worker that it blocked to its end.
    pub(crate) worker: Option<u16>,
}

/// Where a running poll is right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// It blocks this worker.
    OnWorker(u16),
    /// It blocks none: off the runtime's workers, or its worker's index has been handed on.
    OffWorker,
    /// It is over.
    Finished,
}

/// What happened to a stall. `elapsed` leaves pauses out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Started {
        id: u64,
        poll: Poll,
        worker: u16,
        elapsed: u64,
        /// Of a request in it that lasts at least the threshold by itself.
        route: Option<RouteId>,
    },
    Continued {
        id: u64,
        elapsed: u64,
    },
    /// It goes on, and is not told again yet.
    Unchanged {
        id: u64,
        elapsed: u64,
    },
    Ended {
        id: u64,
        elapsed: u64,
    },
    /// A request in it lasts at least the threshold by itself, or did until it was `over`. Told once more at each scan.
    Request {
        id: u64,
        frame: u64,
        route: RouteId,
        elapsed: u64,
        over: bool,
    },
    /// It was over before it was seen. With an exoneration it would have been short; then `elapsed` is all of it.
    EndedUnseen {
        id: u64,
        poll: Poll,
        worker: u16,
        elapsed: u64,
        route: Option<RouteId>,
        exoneration: Option<Exoneration>,
    },
}

/// Why a poll that was short by itself took long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exoneration {
    /// The process stood still.
    Paused,
    /// Nothing of it was given a CPU.
    Starved,
}

#[derive(Debug)]
enum Track {
    Stall {
        id: u64,
        seen: u64,
        next: u64,
    },
    /// Not, or no longer, on a worker: never a stall again.
    Ignored,
}

/// What one look at all slots found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) running: Vec<Poll>,
    pub(crate) ended: Vec<EndedPoll>,
    pub(crate) ended_requests: Vec<EndedRequest>,
    /// Threads whose slot moved too fast to be read: nothing is concluded about them.
    pub(crate) unread: Vec<u64>,
}

/// Remembers the polls that have crossed the threshold.
#[derive(Debug)]
pub(crate) struct Tracker {
    threshold: u64,
    tracked: HashMap<PollKey, Track>,
    pending: PendingRequests,
    last_id: u64,
}

/// A request may begin later in its poll than its poll by this part of a threshold: then the stall is told when the request has
/// lasted for the threshold, too, and its first report names the route.
const LATER: u64 = 8;

impl Tracker {
    pub(crate) fn new(threshold: u64) -> Tracker {
        Tracker { threshold, tracked: HashMap::new(), pending: PendingRequests::default(), last_id: 0 }
    }

    /// The changes since the last scan. `place` is asked about polls over the threshold only.
    pub(crate) fn step(
        &mut self,
        now: u64,
        scan: &Scan,
        pauses: &Pauses,
        mut place: impl FnMut(&Poll) -> PollState,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for ended in &scan.ended_requests {
            match self.tracked.get(&ended.poll) {
                Some(Track::Stall { id, .. }) => {
                    changes.extend(requests::of_ended(ended, *id, self.threshold, pauses));
                }
                Some(Track::Ignored) => {}
                None => self.pending.add(*ended),
            }
        }
        for poll in &scan.running {
            let elapsed = effective(poll.begin, poll.paused_since.unwrap_or(now).min(now), pauses);
            match self.tracked.get_mut(&poll.key) {
                Some(Track::Ignored) => {}
                Some(Track::Stall { id, seen, next }) => {
                    let id = *id;
                    match place(poll) {
                        PollState::OnWorker(_) => {
                            *seen = elapsed.max(*seen);
                            changes.extend(requests::of_running(poll, id, now, self.threshold, pauses));
                            if elapsed >= *next {
                                *next = next_doubling(self.threshold, elapsed);
                                changes.push(Change::Continued { id, elapsed });
                            } else {
                                changes.push(Change::Unchanged { id, elapsed });
                            }
                        }
                        // When it left its worker since it was last seen there, is not known.
                        PollState::OffWorker => {
                            changes.push(Change::Ended { id, elapsed: *seen });
                            self.tracked.insert(poll.key, Track::Ignored);
                        }
                        // Its true duration is among the ended ones, of this look or the next.
                        PollState::Finished => {}
                    }
                }
                // It is told in a moment, or is over by then.
                None if may_be_short(poll, elapsed, due_after(self.threshold, poll)) => {}
                None if elapsed >= due_after(self.threshold, poll) => match place(poll) {
                    PollState::OnWorker(worker) => {
                        let (id, threshold) = (self.new_id(), self.threshold);
                        let next = next_doubling(threshold, elapsed);
                        self.tracked.insert(poll.key, Track::Stall { id, seen: elapsed, next });
                        let inside =
                            poll.request.filter(|r| r.elapsed(poll, now, pauses) >= threshold).map(|r| r.route);
                        let route = inside.or_else(|| self.pending.last(poll.key, threshold, pauses));
                        changes.push(Change::Started { id, poll: *poll, worker, elapsed, route });
                        self.pending.take(poll.key, id, threshold, pauses, &mut changes);
                        changes.extend(requests::of_running(poll, id, now, threshold, pauses));
                    }
                    PollState::OffWorker => {
                        self.tracked.insert(poll.key, Track::Ignored);
                    }
                    PollState::Finished => {}
                },
                None => {}
            }
        }
        for ended in &scan.ended {
            let (poll, worker) = (ended.poll, ended.worker);
            let elapsed = effective(poll.begin, poll.begin + ended.nanos, pauses);
            let known = self.tracked.remove(&poll.key);
            if scan.running.iter().any(|running| running.key == poll.key) {
                // Its frame was seen in this very scan, and may be in the next: it leaves its word before it goes.
                self.tracked.insert(poll.key, Track::Ignored);
            }
            match (known, worker) {
                (Some(Track::Stall { id, seen, .. }), Some(_)) => {
                    changes.push(Change::Ended { id, elapsed: elapsed.max(seen) });
                }
                // It left its worker since it was last seen there; when, is not known.
                (Some(Track::Stall { id, seen, .. }), None) => changes.push(Change::Ended { id, elapsed: seen }),
                (None, Some(worker)) if ended.nanos >= self.threshold => {
                    let starved = pauses.starved(poll.begin, poll.begin + ended.nanos).max(poll.waited);
                    let exoneration = match () {
                        () if elapsed < self.threshold => Some(Exoneration::Paused),
                        () if elapsed.saturating_sub(starved) < self.threshold => Some(Exoneration::Starved),
                        () => None,
                    };
                    let elapsed = if exoneration.is_some() { ended.nanos } else { elapsed };
                    let (id, route) = (self.new_id(), self.pending.last(poll.key, self.threshold, pauses));
                    changes.push(Change::EndedUnseen { id, poll, worker, elapsed, route, exoneration });
                    let mut told = Vec::new();
                    self.pending.take(poll.key, id, self.threshold, pauses, &mut told);
                    // Of what was short by itself, no part is to blame.
                    changes.extend(told.into_iter().filter(|_| exoneration.is_none()));
                }
                _ => {}
            }
        }
        self.pending.tidy(scan);
        self.end_the_vanished(scan, &mut changes);
        changes
    }

    /// Their last word was lost (a full ring, a thread that exited): they end with what was seen.
    fn end_the_vanished(&mut self, scan: &Scan, changes: &mut Vec<Change>) {
        if self.tracked.is_empty() {
            return;
        }
        let there: HashSet<PollKey> = scan.running.iter().map(|p| p.key).collect();
        self.tracked.retain(|key, track| {
            let stays = there.contains(key) || scan.unread.contains(&key.thread);
            if let (false, Track::Stall { id, seen, .. }) = (stays, track) {
                changes.push(Change::Ended { id: *id, elapsed: *seen });
            }
            stays
        });
    }

    /// When to look again: at the earliest moment at which a poll could be due, but at most four times a threshold. A poll
    /// that begins after this look cannot be due before `now + threshold`.
    pub(crate) fn next_scan(&self, now: u64, scan: &Scan, pauses: &Pauses) -> u64 {
        let due = |poll: &Poll| {
            let after = match self.tracked.get(&poll.key) {
                None => due_after(self.threshold, poll),
                Some(Track::Stall { next, .. }) => *next,
                Some(Track::Ignored) => return None,
            };
            if poll.paused_since.is_some() {
                return None;
            }
            Some(poll.begin.saturating_add(after).saturating_add(pauses.overlap(poll.begin, now)))
        };
        let earliest = scan.running.iter().filter_map(due).min().unwrap_or(u64::MAX);
        earliest.clamp(now + self.threshold / 4, now + self.threshold)
    }

    /// Whether a stall goes on.
    pub(crate) fn has_stalls(&self) -> bool {
        self.tracked.values().any(|t| matches!(t, Track::Stall { .. }))
    }

    /// Whether it is settled what a poll that goes on is.
    pub(crate) fn is_tracked(&self, poll: &PollKey) -> bool {
        self.tracked.contains_key(poll)
    }

    /// Stalls are counted from 1, whoever finds them.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// How long a poll lasts until it is told.
fn due_after(threshold: u64, poll: &Poll) -> u64 {
    let later = poll.request.map_or(0, |request| request.begin.saturating_sub(poll.begin));
    threshold + if later <= threshold / LATER { later } else { 0 }
}

/// Whether a poll is due only because it was kept from a CPU, though for less than half of its time: such a one may still turn out to be
/// long by itself, or short. One that was kept off for longer is told at once, as starved.
fn may_be_short(poll: &Poll, elapsed: u64, due: u64) -> bool {
    elapsed >= due && elapsed.saturating_sub(poll.waited) < due && !spent_most_waiting(poll.waited, elapsed)
}

/// Whether a poll has spent most of its time waiting for a CPU.
pub(crate) fn spent_most_waiting(waited: u64, elapsed: u64) -> bool {
    waited >= elapsed / 2
}

/// The time from one moment to another without the pauses in it.
pub(super) fn effective(begin: u64, end: u64, pauses: &Pauses) -> u64 {
    end.saturating_sub(begin).saturating_sub(pauses.overlap(begin, end))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
