//! Tracks polls from scan to scan: which of them are stalls, when each is reported again, and when
//! the next scan is due. Pure: scans and times in, changes out.

mod change;
mod requests;

use std::collections::{HashMap, HashSet};

use super::pause::Pauses;
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{FrameNumber, PollKey, RouteId, RuntimeId, SiteId, StallId, ThreadNumber, WorkerIndex};
use crate::model::time::Nanos;
use crate::util::backoff::next_doubling;

pub(crate) use change::{Change, NotBlamed};
use requests::PendingRequests;
pub(crate) use requests::{EndedRequest, OpenRequest};

/// An observed poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) key: PollKey,
    /// The moment at which the poll started.
    pub(crate) start: Nanos,
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    /// The innermost watched future inside the poll.
    pub(crate) watched: Option<SiteId>,
    /// The innermost request inside the poll.
    pub(crate) request: Option<OpenRequest>,
    /// The route of the request whose handler spawned the task.
    pub(crate) parent_route: Option<RouteId>,
    /// The bits of the task's id, 0 where it has none.
    pub(crate) task: TaskBits,
    /// The moment since which the poll is in a scope of allowed blocking, where its time does not
    /// count.
    pub(crate) allowed_since: Option<Nanos>,
    /// The time that the poll's thread was kept from a CPU since shortly before the poll started.
    /// It is read once the poll has lasted for the threshold and until the poll is tracked; zero
    /// where it is unknown. For a finished poll it is an upper bound: the reading includes waits
    /// between the end of the poll and the scan. It is at most the poll's duration.
    pub(crate) run_delay: Nanos,
}

impl Poll {
    /// The unknown poll that a thread has been in since `start`, of a task that is not watched.
    pub(crate) fn unwatched(thread: ThreadNumber, runtime: RuntimeId, start: Nanos) -> Poll {
        Poll {
            key: PollKey { thread, number: FrameNumber::NONE },
            start,
            runtime,
            site: SiteId::OTHER,
            watched: None,
            request: None,
            parent_route: None,
            task: TaskBits::NONE,
            allowed_since: None,
            run_delay: Nanos::ZERO,
        }
    }
}

/// A finished poll that lasted at least the threshold, as its thread published it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedPoll {
    pub(crate) poll: Poll,
    pub(crate) duration: Nanos,
    /// The worker that the poll blocked to its end.
    pub(crate) worker: Option<WorkerIndex>,
}

/// The effect of a poll on the workers of its runtime at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// The poll blocks this worker.
    OnWorker(WorkerIndex),
    /// The poll blocks no worker: its thread is none, or the worker has been handed on.
    OffWorker,
    Finished,
}

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

/// The polls that one scan of all slots and slow-poll rings found.
#[derive(Debug, Default)]
pub(crate) struct ScannedPolls {
    pub(crate) running: Vec<Poll>,
    pub(crate) ended: Vec<EndedPoll>,
    pub(crate) ended_requests: Vec<EndedRequest>,
    /// The threads whose slots changed too fast to be read: nothing is concluded about them.
    pub(crate) unread: Vec<ThreadNumber>,
}

/// Tracks the polls that have crossed the threshold.
#[derive(Debug)]
pub(crate) struct Tracker {
    threshold: Nanos,
    tracked: HashMap<PollKey, TrackedPoll>,
    pending: PendingRequests,
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
        Tracker { threshold, tracked: HashMap::new(), pending: PendingRequests::default(), last_id: StallId(0) }
    }

    /// Returns what a scan changes. `state` is called for polls over the threshold only, since it
    /// takes locks.
    pub(crate) fn step(
        &mut self,
        now: Nanos,
        scan: &ScannedPolls,
        pauses: &Pauses,
        mut state: impl FnMut(&Poll) -> PollState,
    ) -> Vec<Change> {
        let context = StepContext { now, threshold: self.threshold, pauses };
        let mut changes = Vec::new();
        for ended in &scan.ended_requests {
            match self.tracked.get(&ended.poll) {
                Some(TrackedPoll::Stall { id, .. }) => changes.extend(requests::change_of_ended(ended, *id, context)),
                Some(TrackedPoll::Ignored) => {}
                None => self.pending.add(*ended),
            }
        }
        for poll in &scan.running {
            self.step_running(poll, context, &mut state, &mut changes);
        }
        for ended in &scan.ended {
            let is_running = scan.running.iter().any(|running| running.key == ended.poll.key);
            self.end_poll(ended, is_running, context, &mut changes);
        }
        self.pending.remove_expired(scan);
        self.end_vanished(scan, &mut changes);
        changes
    }

    /// Handles a running poll.
    fn step_running(
        &mut self,
        poll: &Poll,
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
                if elapsed >= due && !may_be_short(poll, elapsed, due) {
                    self.start_stall(poll, elapsed, state(poll), context, changes);
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
            PollState::OnWorker(worker) => worker,
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
            PollState::OnWorker(_) => {
                *confirmed = elapsed.max(*confirmed);
                changes.extend(requests::change_of_running(poll, id, context));
                if elapsed >= *due {
                    *due = next_report(self.threshold, elapsed);
                    changes.push(Change::ReportDue { id, elapsed });
                } else {
                    changes.push(Change::StillOngoing { id, elapsed });
                }
            }
            // The poll left its worker at an unknown moment after the scan that last found it
            // there.
            PollState::OffWorker => {
                changes.push(Change::Ended { id, elapsed: *confirmed });
                self.tracked.insert(poll.key, TrackedPoll::Ignored);
            }
            // The exact duration is among the ended polls, of this scan or the next.
            PollState::Finished => {}
        }
    }

    /// Handles a finished poll. `is_running` says whether the same scan found its frame as well.
    fn end_poll(&mut self, ended: &EndedPoll, is_running: bool, context: StepContext<'_>, changes: &mut Vec<Change>) {
        let poll = ended.poll;
        let tracked = self.tracked.remove(&poll.key);
        if is_running {
            // A poll is pushed to the ring before its frame is popped, so that the next scan may
            // find the frame again.
            self.tracked.insert(poll.key, TrackedPoll::Ignored);
        }
        match (tracked, ended.worker) {
            (Some(TrackedPoll::Stall { id, confirmed, .. }), Some(_)) => {
                let elapsed = context.duration_without_pauses(poll.start, ended.duration).max(confirmed);
                changes.push(Change::Ended { id, elapsed });
            }
            // The poll left its worker at an unknown moment after the scan that last found it
            // there.
            (Some(TrackedPoll::Stall { id, confirmed, .. }), None) => {
                changes.push(Change::Ended { id, elapsed: confirmed });
            }
            (None, Some(worker)) if ended.duration >= self.threshold => {
                self.end_unseen(ended, worker, context, changes);
            }
            _ => {}
        }
    }

    /// Handles a stall that was over before a scan found it.
    fn end_unseen(
        &mut self,
        ended: &EndedPoll,
        worker: WorkerIndex,
        context: StepContext<'_>,
        changes: &mut Vec<Change>,
    ) {
        let (poll, duration) = (ended.poll, ended.duration);
        let elapsed = context.duration_without_pauses(poll.start, duration);
        let starved = context.pauses.starved_within(poll.start, poll.start + duration).max(poll.run_delay);
        let not_blamed = if elapsed < self.threshold {
            Some(NotBlamed::Paused)
        } else if elapsed.saturating_sub(starved) < self.threshold {
            Some(NotBlamed::Starved)
        } else {
            None
        };
        let elapsed = if not_blamed.is_some() { duration } else { elapsed };
        let (id, route) = (self.new_id(), self.pending.last_route(poll.key, context));
        changes.push(Change::EndedUnseen { id, poll, worker, elapsed, route, not_blamed });
        let requests = self.pending.take(poll.key, id, context);
        // No request is to blame for a poll that was short by itself.
        changes.extend(requests.filter(|_| not_blamed.is_none()));
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
                changes.push(Change::Ended { id: *id, elapsed: *confirmed });
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

    /// Returns whether a running poll has been judged: it is a stall, or never will be.
    pub(crate) fn is_tracked(&self, poll: &PollKey) -> bool {
        self.tracked.contains_key(poll)
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
pub(super) fn next_report(threshold: Nanos, elapsed: Nanos) -> Nanos {
    Nanos(next_doubling(threshold.0, elapsed.0))
}

/// Returns whether a poll is due only because it was kept from a CPU, for less than half of its
/// time: it may still turn out to be long by itself, or short. A poll that was kept off for longer
/// is reported at once, as starved.
fn may_be_short(poll: &Poll, elapsed: Nanos, due: Nanos) -> bool {
    elapsed.saturating_sub(poll.run_delay) < due && !spent_most_waiting(poll.run_delay, elapsed)
}

/// Returns whether a poll has spent at least half of its time waiting for a CPU.
pub(crate) fn spent_most_waiting(run_delay: Nanos, elapsed: Nanos) -> bool {
    run_delay >= elapsed / 2
}

/// Returns the time from one moment to another without the pauses in it.
pub(super) fn without_pauses(start: Nanos, end: Nanos, pauses: &Pauses) -> Nanos {
    end.saturating_sub(start).saturating_sub(pauses.stopped_within(start, end))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod properties;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
