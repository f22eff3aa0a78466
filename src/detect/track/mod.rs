//! Tracks polls from scan to scan: which of them are stalls, when each is reported again, and when
//! the next scan is due. Pure: scans and times in, changes out.

mod requests;

use std::collections::{HashMap, HashSet};

use super::pause::Pauses;
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{FrameNumber, PollKey, RouteId, RuntimeId, SiteId};
use crate::util::backoff::next_doubling;

use requests::PendingRequests;
pub(crate) use requests::{EndedRequest, Request};

/// An observed poll. Times are in nanoseconds of the watchdog's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) key: PollKey,
    pub(crate) begin: u64,
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    /// The innermost watched future inside the poll.
    pub(crate) watched: Option<SiteId>,
    /// The innermost request inside the poll.
    pub(crate) request: Option<Request>,
    /// The route of the request whose handler spawned the task.
    pub(crate) parent_route: Option<RouteId>,
    pub(crate) task: TaskBits,
    /// The moment since which the poll does not count, because a part of it is meant to block.
    pub(crate) paused_since: Option<u64>,
    /// How long the poll's thread was kept from a CPU since shortly before the poll began. It is
    /// read once the poll has lasted for the threshold and until the poll is tracked; 0 where it is
    /// unknown.
    pub(crate) waited: u64,
}

/// A finished poll that lasted at least the threshold, as its thread published it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedPoll {
    pub(crate) poll: Poll,
    pub(crate) nanos: u64,
    /// The worker that the poll blocked to its end.
    pub(crate) worker: Option<u16>,
}

/// What a poll does to the workers of its runtime at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// It blocks this worker.
    OnWorker(u16),
    /// It blocks none: its thread is no worker, or the worker has been handed on.
    OffWorker,
    Finished,
}

/// What a scan changes about a stall. `elapsed` excludes pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Started {
        id: u64,
        poll: Poll,
        worker: u16,
        elapsed: u64,
        /// The route of a request in it that has lasted at least the threshold by itself.
        route: Option<RouteId>,
    },
    /// The stall is ongoing, and a further report is due.
    Continued {
        id: u64,
        elapsed: u64,
    },
    /// The stall is ongoing.
    Unchanged {
        id: u64,
        elapsed: u64,
    },
    Ended {
        id: u64,
        elapsed: u64,
    },
    /// A request in the stall has lasted at least the threshold by itself, or did until it was
    /// `over`. Repeated at each scan.
    Request {
        id: u64,
        frame: FrameNumber,
        route: RouteId,
        elapsed: u64,
        over: bool,
    },
    /// The stall was over before a scan found it. With an exoneration the poll was short by itself;
    /// then `elapsed` is all of its time.
    EndedUnseen {
        id: u64,
        poll: Poll,
        worker: u16,
        elapsed: u64,
        route: Option<RouteId>,
        exoneration: Option<Exoneration>,
    },
}

/// The reason why a poll that was short by itself took long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exoneration {
    /// The process stood still.
    Paused,
    /// The thread was given no CPU.
    Starved,
}

/// What is kept of a poll that has crossed the threshold.
#[derive(Debug)]
enum Track {
    Stall {
        id: u64,
        /// How long the stall had lasted at the latest scan that found it on its worker.
        seen: u64,
        /// How long it has lasted when the next report is due.
        next: u64,
    },
    /// The poll is not, or no longer, on a worker: it is never a stall again.
    Ignored,
}

/// What one scan of all slots found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) running: Vec<Poll>,
    pub(crate) ended: Vec<EndedPoll>,
    pub(crate) ended_requests: Vec<EndedRequest>,
    /// The threads whose slots changed too fast to be read: nothing is concluded about them.
    pub(crate) unread: Vec<u64>,
}

/// Tracks the polls that have crossed the threshold.
#[derive(Debug)]
pub(crate) struct Tracker {
    threshold: u64,
    tracked: HashMap<PollKey, Track>,
    pending: PendingRequests,
    last_id: u64,
}

/// A request may begin later than its poll by this part of a threshold. Then the stall is reported
/// when the request has reached the threshold as well, so that the first report names the route.
const LATE_REQUEST: u64 = 8;

impl Tracker {
    pub(crate) fn new(threshold: u64) -> Tracker {
        Tracker { threshold, tracked: HashMap::new(), pending: PendingRequests::default(), last_id: 0 }
    }

    /// Returns what a scan changes. `state` is asked about polls over the threshold only, since it
    /// takes locks.
    pub(crate) fn step(
        &mut self,
        now: u64,
        scan: &Scan,
        pauses: &Pauses,
        mut state: impl FnMut(&Poll) -> PollState,
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
            match self.tracked.get(&poll.key) {
                Some(Track::Ignored) => {}
                Some(Track::Stall { .. }) => {
                    self.continue_stall(poll, (now, elapsed), pauses, state(poll), &mut changes);
                }
                None => {
                    let due = due_after(self.threshold, poll);
                    // A poll that may be short by itself is judged again in a moment, or is over by
                    // then.
                    if elapsed >= due && !may_be_short(poll, elapsed, due) {
                        self.start_stall(poll, (now, elapsed), pauses, state(poll), &mut changes);
                    }
                }
            }
        }
        for ended in &scan.ended {
            let is_running = scan.running.iter().any(|running| running.key == ended.poll.key);
            self.end_poll(ended, is_running, pauses, &mut changes);
        }
        self.pending.tidy(scan);
        self.end_vanished(scan, &mut changes);
        changes
    }

    /// Handles a running poll that has reached the threshold.
    fn start_stall(
        &mut self,
        poll: &Poll,
        (now, elapsed): (u64, u64),
        pauses: &Pauses,
        state: PollState,
        changes: &mut Vec<Change>,
    ) {
        let worker = match state {
            PollState::OnWorker(worker) => worker,
            PollState::OffWorker => {
                self.tracked.insert(poll.key, Track::Ignored);
                return;
            }
            PollState::Finished => return,
        };
        let (id, threshold) = (self.new_id(), self.threshold);
        let next = next_doubling(threshold, elapsed);
        self.tracked.insert(poll.key, Track::Stall { id, seen: elapsed, next });
        let inside = poll.request.filter(|request| request.elapsed(poll, now, pauses) >= threshold);
        let route = inside.map(|request| request.route);
        let route = route.or_else(|| self.pending.last(poll.key, threshold, pauses));
        changes.push(Change::Started { id, poll: *poll, worker, elapsed, route });
        self.pending.take(poll.key, id, threshold, pauses, changes);
        changes.extend(requests::of_running(poll, id, now, threshold, pauses));
    }

    /// Handles a running poll that is a stall.
    fn continue_stall(
        &mut self,
        poll: &Poll,
        (now, elapsed): (u64, u64),
        pauses: &Pauses,
        state: PollState,
        changes: &mut Vec<Change>,
    ) {
        let Some(Track::Stall { id, seen, next }) = self.tracked.get_mut(&poll.key) else { return };
        let id = *id;
        match state {
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
            // It left its worker at an unknown moment after the scan that last found it there.
            PollState::OffWorker => {
                changes.push(Change::Ended { id, elapsed: *seen });
                self.tracked.insert(poll.key, Track::Ignored);
            }
            // Its exact duration is among the ended polls, of this scan or the next.
            PollState::Finished => {}
        }
    }

    /// Handles a finished poll. `is_running` says whether the same scan found its frame as well.
    fn end_poll(&mut self, ended: &EndedPoll, is_running: bool, pauses: &Pauses, changes: &mut Vec<Change>) {
        let (poll, worker) = (ended.poll, ended.worker);
        let elapsed = effective(poll.begin, poll.begin + ended.nanos, pauses);
        let known = self.tracked.remove(&poll.key);
        if is_running {
            // Its end is published before its frame goes, so the next scan may find the frame
            // again.
            self.tracked.insert(poll.key, Track::Ignored);
        }
        match (known, worker) {
            (Some(Track::Stall { id, seen, .. }), Some(_)) => {
                changes.push(Change::Ended { id, elapsed: elapsed.max(seen) });
            }
            // It left its worker at an unknown moment after the scan that last found it there.
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
                let mut of_requests = Vec::new();
                self.pending.take(poll.key, id, self.threshold, pauses, &mut of_requests);
                // No request is to blame for a poll that was short by itself.
                changes.extend(of_requests.into_iter().filter(|_| exoneration.is_none()));
            }
            _ => {}
        }
    }

    /// Ends the stalls whose end was lost (a full ring, a thread that exited) as they were last
    /// observed.
    fn end_vanished(&mut self, scan: &Scan, changes: &mut Vec<Change>) {
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

    /// Returns when the next scan is due: at the earliest moment at which a poll could be due, but
    /// at most four times a threshold. A poll that begins after this scan cannot be due before `now
    /// + threshold`.
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

    /// Returns whether any stall is ongoing.
    pub(crate) fn has_stalls(&self) -> bool {
        self.tracked.values().any(|t| matches!(t, Track::Stall { .. }))
    }

    /// Returns whether it is decided what a running poll is.
    pub(crate) fn is_tracked(&self, poll: &PollKey) -> bool {
        self.tracked.contains_key(poll)
    }

    /// Returns the id of a new stall. Stalls are counted from 1, whoever finds them.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// Returns how long a poll lasts until it is reported.
fn due_after(threshold: u64, poll: &Poll) -> u64 {
    let later = poll.request.map_or(0, |request| request.begin.saturating_sub(poll.begin));
    threshold + if later <= threshold / LATE_REQUEST { later } else { 0 }
}

/// Returns whether a poll is due only because it was kept from a CPU, for less than half of its
/// time: it may still turn out to be long by itself, or short. A poll that was kept off for longer
/// is reported at once, as starved.
fn may_be_short(poll: &Poll, elapsed: u64, due: u64) -> bool {
    elapsed >= due && elapsed.saturating_sub(poll.waited) < due && !spent_most_waiting(poll.waited, elapsed)
}

/// Returns whether a poll has spent at least half of its time waiting for a CPU.
pub(crate) fn spent_most_waiting(waited: u64, elapsed: u64) -> bool {
    waited >= elapsed / 2
}

/// Returns the time from one moment to another without the pauses in it.
pub(super) fn effective(begin: u64, end: u64, pauses: &Pauses) -> u64 {
    end.saturating_sub(begin).saturating_sub(pauses.overlap(begin, end))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
