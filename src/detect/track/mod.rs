//! Tracks polls from scan to scan: which of them are stalls, when each is reported again, and when
//! the next scan is due. Pure: scans and times in, changes out.

mod change;
mod handed_on;
mod poll;
mod requests;

use std::collections::{HashMap, HashSet};

use super::pause::Pauses;
use super::time_account::TimeAccount;
use crate::model::cause::Cause;
use crate::model::event::CpuVerdict;
use crate::model::id::{PollKey, StallId, ThreadNumber};
use crate::model::time::Nanos;
use crate::util::backoff::next_doubling;

pub(crate) use change::Change;
use handed_on::{PollSighting, SightedPolls};
pub(crate) use poll::{EndedPoll, Poll, PollState};
use requests::PendingRequests;
pub(crate) use requests::{EndedRequest, OpenRequest};

/// The state of a poll that has crossed the threshold.
#[derive(Debug)]
enum TrackedPoll {
    Stall {
        id: StallId,
        /// The duration of the stall at the latest scan that found it on its worker.
        confirmed: Nanos,
        /// The duration of the stall when the next report is due.
        next_report: Nanos,
    },
    /// The poll is not, or no longer, on a worker: it is never a stall again.
    Ignored,
}

/// What the tracker knows of a running poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrackedState {
    /// The poll has not crossed the threshold, or nothing was decided about it yet.
    Untracked,
    /// The poll is this ongoing stall.
    Stall(StallId),
    /// The poll is on no worker, or over.
    OffWorker,
}

/// The polls that one scan of all slots and slow-poll rings found.
#[derive(Debug, Default)]
pub(crate) struct ScannedPolls {
    pub(crate) running: Vec<Poll>,
    pub(crate) ended: Vec<EndedPoll>,
    pub(crate) ended_requests: Vec<EndedRequest>,
    /// The threads whose slots changed too fast to be read: nothing is concluded about them.
    pub(crate) unread: Vec<ThreadNumber>,
    /// The number of polls that have an account.
    pub(crate) accounts: usize,
}

/// Tracks the polls that have crossed the threshold.
#[derive(Debug)]
pub(crate) struct Tracker {
    threshold: Nanos,
    tracked: HashMap<PollKey, TrackedPoll>,
    pending: PendingRequests,
    sighted: SightedPolls,
    last_id: StallId,
}

/// The moment of a step, and what turns moments into durations.
#[derive(Clone, Copy, Debug)]
struct StepContext<'a> {
    now: Nanos,
    threshold: Nanos,
    pauses: &'a Pauses,
}

impl StepContext<'_> {
    /// Returns how long a running poll, or the part of it that started at `start`, has lasted.
    fn elapsed(&self, poll: &Poll, start: Nanos) -> Nanos {
        without_pauses(start, poll.allowed_since.unwrap_or(self.now).min(self.now), self.pauses)
    }

    /// Returns the duration of a poll, or of a part of one, without the pauses in it. It started at
    /// `start` and ended `duration` later.
    fn duration_without_pauses(&self, start: Nanos, duration: Nanos) -> Nanos {
        without_pauses(start, start + duration, self.pauses)
    }
}

/// A request may start later than its poll by a threshold divided by this. Then the stall is
/// reported when the request has reached the threshold as well, so that the first report names the
/// route.
const LATE_REQUEST_DIVISOR: u64 = 8;

impl Tracker {
    pub(crate) fn new(threshold: Nanos) -> Tracker {
        Tracker {
            threshold,
            tracked: HashMap::new(),
            pending: PendingRequests::default(),
            sighted: SightedPolls::default(),
            last_id: StallId(0),
        }
    }

    /// Returns what a scan changes. `state` is called at most once for a poll, and only for long
    /// ones and those that started within one, since it takes locks.
    pub(crate) fn step(
        &mut self,
        now: Nanos,
        scan: &ScannedPolls,
        pauses: &Pauses,
        mut state: impl FnMut(&Poll) -> PollState,
    ) -> Vec<Change> {
        let context = StepContext { now, threshold: self.threshold, pauses };
        let (mut known, mut changes) = (HashMap::new(), Vec::new());
        let mut state = |poll: &Poll| *known.entry(poll.key).or_insert_with(|| state(poll));
        for ended in &scan.ended_requests {
            match self.tracked.get(&ended.poll) {
                Some(TrackedPoll::Stall { id, .. }) => changes.extend(requests::change_of_ended(ended, *id, context)),
                Some(TrackedPoll::Ignored) => {}
                None => self.pending.add(*ended),
            }
        }
        for poll in &scan.running {
            self.step_running(poll, scan, context, &mut state, &mut changes);
        }
        for ended in &scan.ended {
            let is_running = scan.running.iter().any(|running| running.key == ended.poll.key);
            let worker = ended.worker.filter(|_| !self.tracked.contains_key(&ended.poll.key));
            let end = ended.poll.start + ended.duration;
            let may_have_been_off =
                worker.is_some_and(|worker| self.sighted.may_have_been_off(&ended.poll, worker, end, scan, &mut state));
            self.end_poll(ended, is_running, may_have_been_off, context, &mut changes);
        }
        self.pending.remove_expired(scan);
        self.sighted.keep(&scan.running, |key| self.tracked.contains_key(key));
        self.end_vanished(scan, &mut changes);
        changes
    }

    /// Handles a running poll.
    fn step_running(
        &mut self,
        poll: &Poll,
        scan: &ScannedPolls,
        context: StepContext<'_>,
        state: &mut impl FnMut(&Poll) -> PollState,
        changes: &mut Vec<Change>,
    ) {
        let elapsed = context.elapsed(poll, poll.start);
        match self.tracked.get(&poll.key) {
            Some(TrackedPoll::Ignored) => {}
            Some(TrackedPoll::Stall { .. }) => self.continue_stall(poll, elapsed, state(poll), context, changes),
            None => {
                let due = due_after(self.threshold, poll);
                // A poll that may be short by itself is judged again in a moment, or is over by
                // then.
                if SightedPolls::is_due(elapsed, self.threshold) {
                    let found = state(poll);
                    let sighting = PollSighting { poll, found, elapsed, scan, context };
                    let has_kept = self.sighted.sight(sighting, state);
                    if has_kept && elapsed >= due && !may_be_short(poll, elapsed, due) {
                        self.start_stall(poll, elapsed, found, context, changes);
                    }
                }
            }
        }
    }

    /// Handles a running poll that has reached the threshold.
    fn start_stall(
        &mut self,
        poll: &Poll,
        elapsed: Nanos,
        state: PollState,
        context: StepContext<'_>,
        changes: &mut Vec<Change>,
    ) {
        let worker = match state {
            PollState::OnWorker(worker) => Some(worker),
            PollState::OffWorker if poll.is_root => None,
            PollState::OffWorker => {
                self.tracked.insert(poll.key, TrackedPoll::Ignored);
                return;
            }
            PollState::Finished => return,
        };
        let id = self.new_id();
        let next_report = next_report(self.threshold, elapsed);
        self.tracked.insert(poll.key, TrackedPoll::Stall { id, confirmed: elapsed, next_report });
        let is_long = |request: &OpenRequest| context.elapsed(poll, request.start) >= self.threshold;
        let route = poll.request.filter(is_long).map(|request| request.route);
        let route = route.or_else(|| self.pending.last_route(poll.key, context));
        changes.push(Change::Started { id, poll: *poll, worker, elapsed, route });
        changes.extend(self.pending.take(poll.key, id, context));
        changes.extend(requests::change_of_running(poll, id, context));
    }

    /// Handles a running poll that is a stall.
    fn continue_stall(
        &mut self,
        poll: &Poll,
        elapsed: Nanos,
        state: PollState,
        context: StepContext<'_>,
        changes: &mut Vec<Change>,
    ) {
        let Some(TrackedPoll::Stall { id, confirmed, next_report: due }) = self.tracked.get_mut(&poll.key) else {
            return;
        };
        let id = *id;
        match state {
            PollState::OffWorker if !poll.is_root => {
                // The poll left its worker at an unknown moment after the scan that last found it
                // there.
                changes.push(Change::Ended { id, elapsed: *confirmed, end: None, whole: *confirmed });
                self.tracked.insert(poll.key, TrackedPoll::Ignored);
            }
            PollState::OnWorker(_) | PollState::OffWorker => {
                *confirmed = elapsed.max(*confirmed);
                changes.extend(requests::change_of_running(poll, id, context));
                if elapsed >= *due {
                    *due = next_report(self.threshold, elapsed);
                    changes.push(Change::ReportDue { id, elapsed });
                } else {
                    changes.push(Change::StillOngoing { id, elapsed });
                }
            }
            // The exact duration is among the ended polls, of this scan or the next.
            PollState::Finished => {}
        }
    }

    /// Handles a finished poll. `is_running` says whether the same scan found its frame as well,
    /// and `may_have_been_off` whether it may have been off its worker for most of its time.
    fn end_poll(
        &mut self,
        ended: &EndedPoll,
        is_running: bool,
        may_have_been_off: bool,
        context: StepContext<'_>,
        changes: &mut Vec<Change>,
    ) {
        let poll = ended.poll;
        let tracked = self.tracked.remove(&poll.key);
        if is_running {
            // A poll is pushed to the ring before its frame is popped, so that the next scan may
            // find the frame again.
            self.tracked.insert(poll.key, TrackedPoll::Ignored);
        }
        let is_stall = ended.worker.is_some() || poll.is_root;
        match tracked {
            Some(TrackedPoll::Stall { id, confirmed, .. }) if is_stall => {
                let elapsed = context.duration_without_pauses(poll.start, ended.duration).max(confirmed);
                changes.push(Change::Ended { id, elapsed, end: Some(ended.end), whole: elapsed });
            }
            // The poll left its worker at an unknown moment after the scan that last found it
            // there.
            Some(TrackedPoll::Stall { id, confirmed, .. }) => {
                let whole = context.duration_without_pauses(poll.start, ended.duration).max(confirmed);
                changes.push(Change::Ended { id, elapsed: confirmed, end: Some(ended.end), whole });
            }
            None if is_stall && !may_have_been_off && ended.duration >= self.threshold => {
                self.end_unseen(ended, context, changes);
            }
            _ => {}
        }
    }

    /// Handles a stall that was over before a scan found it.
    fn end_unseen(&mut self, ended: &EndedPoll, context: StepContext<'_>, changes: &mut Vec<Change>) {
        let EndedPoll { poll, duration, worker, .. } = *ended;
        let elapsed = context.duration_without_pauses(poll.start, duration);
        let verdict = poll.account.map_or_else(
            || {
                // Nothing was read of this thread. What is known is that no thread got a CPU.
                let starved = context.pauses.starved_within(poll.start, poll.start + duration);
                let is_short = elapsed.saturating_sub(starved) < self.threshold;
                if is_short { CpuVerdict::Starved } else { CpuVerdict::Other }
            },
            |account| account.verdict(elapsed, self.threshold),
        );
        let cause = match verdict {
            _ if elapsed < self.threshold => Cause::Paused,
            CpuVerdict::Starved => Cause::Starved,
            CpuVerdict::Computed => Cause::Cpu,
            CpuVerdict::Other => Cause::Unknown,
        };
        let elapsed = if cause.is_blamed() { elapsed } else { duration };
        let (id, route) = (self.new_id(), self.pending.last_route(poll.key, context));
        changes.push(Change::EndedUnseen { id, poll, worker, elapsed, route, cause });
        let requests = self.pending.take(poll.key, id, context);
        // No request blocks a worker in a root, or in a poll that was short by itself.
        changes.extend(requests.filter(|_| cause.is_blamed() && !poll.is_root));
    }

    /// Ends the stalls whose end was lost (a full ring, a thread that exited) with the duration
    /// that was last confirmed.
    fn end_vanished(&mut self, scan: &ScannedPolls, changes: &mut Vec<Change>) {
        if self.tracked.is_empty() {
            return;
        }
        let running: HashSet<PollKey> = scan.running.iter().map(|poll| poll.key).collect();
        self.tracked.retain(|key, tracked| {
            let may_run = running.contains(key) || scan.unread.contains(&key.thread);
            if let (false, TrackedPoll::Stall { id, confirmed, .. }) = (may_run, tracked) {
                changes.push(Change::Ended { id: *id, elapsed: *confirmed, end: None, whole: *confirmed });
            }
            may_run
        });
    }

    /// Returns the moment at which the next scan is due: the earliest at which a poll could be due,
    /// but no sooner than a quarter of a threshold after this scan, and no later than one
    /// threshold. A poll that starts after this scan cannot be due before `now + threshold`.
    pub(crate) fn next_scan(&self, now: Nanos, scan: &ScannedPolls, pauses: &Pauses) -> Nanos {
        let due = |poll: &Poll| {
            let after = match self.tracked.get(&poll.key) {
                None => due_after(self.threshold, poll),
                Some(TrackedPoll::Stall { next_report, .. }) => *next_report,
                Some(TrackedPoll::Ignored) => return None,
            };
            if poll.allowed_since.is_some() {
                return None;
            }
            Some(poll.start + after + pauses.stopped_within(poll.start, now))
        };
        let earliest = scan.running.iter().filter_map(due).min().unwrap_or(Nanos::MAX);
        earliest.clamp(now + self.threshold / 4, now + self.threshold)
    }

    /// Returns whether any stall is ongoing.
    pub(crate) fn has_stalls(&self) -> bool {
        self.tracked.values().any(|tracked| matches!(tracked, TrackedPoll::Stall { .. }))
    }

    /// Returns whether a poll is an ongoing stall.
    pub(crate) fn is_stall(&self, poll: &PollKey) -> bool {
        matches!(self.tracked.get(poll), Some(TrackedPoll::Stall { .. }))
    }

    /// Returns whether a running poll has been judged: it is a stall, or never will be.
    pub(crate) fn is_tracked(&self, poll: &PollKey) -> bool {
        self.tracked.contains_key(poll)
    }

    /// Returns what is known of a running poll.
    pub(crate) fn state_of(&self, poll: &PollKey) -> TrackedState {
        match self.tracked.get(poll) {
            Some(TrackedPoll::Stall { id, .. }) => TrackedState::Stall(*id),
            Some(TrackedPoll::Ignored) => TrackedState::OffWorker,
            None => TrackedState::Untracked,
        }
    }

    /// Returns the id of a new stall. Stalls are counted from 1, by whichever detector finds them.
    pub(crate) fn new_id(&mut self) -> StallId {
        self.last_id.0 += 1;
        self.last_id
    }
}

/// Returns how long a poll lasts until it is reported.
fn due_after(threshold: Nanos, poll: &Poll) -> Nanos {
    let later = poll.request.map_or(Nanos::ZERO, |request| request.start.saturating_sub(poll.start));
    if later <= threshold / LATE_REQUEST_DIVISOR { threshold + later } else { threshold }
}

/// Returns the duration at which a stall that has lasted for `elapsed` is reported again: 2, 4, 8
/// ... thresholds.
pub(crate) fn next_report(threshold: Nanos, elapsed: Nanos) -> Nanos {
    Nanos(next_doubling(threshold.0, elapsed.0))
}

/// Returns whether a poll is due only because it was kept from a CPU, for less than half of its
/// time: it may still turn out to be long by itself, or short. A poll that was kept off for longer
/// is reported at once, as starved.
fn may_be_short(poll: &Poll, elapsed: Nanos, due: Nanos) -> bool {
    let may_be_short = |account: TimeAccount| account.own_time(elapsed) < due && account.run_delay.likely < elapsed / 2;
    poll.account.is_some_and(may_be_short)
}

/// Returns the time from one moment to another without the pauses in it.
pub(super) fn without_pauses(start: Nanos, end: Nanos, pauses: &Pauses) -> Nanos {
    end.saturating_sub(start).saturating_sub(pauses.stopped_within(start, end))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
