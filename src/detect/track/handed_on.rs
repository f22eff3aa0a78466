//! Polls that may have got their worker back shortly before they ended.
//!
//! When a call of `block_in_place` ends, its thread takes the worker back if no other thread has it
//! at that moment. That is so while a second call hands the same worker on, in the microseconds
//! until a thread of the pool has got a CPU. Then the first poll ends on a worker that it did not
//! block for most of its time, and its thread cannot tell.
//!
//! The second call shows it: its poll started within the first one, and either is off its worker
//! or was on the same one. If a scan finds such another poll, the first one is a stall only if it
//! was found on its worker earlier. A late scan that finds it there for the first time waits for
//! the next one.

use std::collections::HashMap;

use super::{Poll, PollState, ScannedPolls, StepContext};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{PollKey, WorkerIndex};
use crate::model::time::Nanos;

/// From this part of a threshold on, a poll that is found on its worker counts as one that has kept
/// it: what blocks in `block_in_place` mostly enters it at once.
const EARLY: u64 = 8;

/// What scans have shown of a running poll that they found on its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerHistory {
    /// It had the worker before it reached the threshold.
    Kept,
    /// It was found on the worker late, and may have got it back just before.
    Doubtful,
}

/// The running polls that were found on their workers, and are no stalls yet.
#[derive(Debug, Default)]
pub(super) struct SightedPolls(HashMap<PollKey, WorkerHistory>);

/// A scan that has found a running poll after some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct PollSighting<'a> {
    pub(super) poll: &'a Poll,
    pub(super) found: PollState,
    pub(super) elapsed: Nanos,
    pub(super) scan: &'a ScannedPolls,
    pub(super) context: StepContext<'a>,
}

impl SightedPolls {
    /// Returns whether the state of a running poll that is no stall yet has to be known. The poll
    /// may end as a stall before the next scan.
    pub(super) fn is_due(elapsed: Nanos, threshold: Nanos) -> bool {
        elapsed >= threshold / EARLY
    }

    /// Records a sighting. Returns false if the poll is on a worker that it may have got back just
    /// before.
    pub(super) fn sight(&mut self, sighting: PollSighting<'_>, state: impl FnMut(&Poll) -> PollState) -> bool {
        let PollSighting { poll, found, elapsed, scan, context } = sighting;
        let PollState::OnWorker(worker) = found else {
            self.0.remove(&poll.key);
            return true;
        };
        if self.0.contains_key(&poll.key) {
            return true;
        }
        let is_doubtful = elapsed >= context.threshold && may_have_been_off(poll, worker, context.now, scan, state);
        self.0.insert(poll.key, if is_doubtful { WorkerHistory::Doubtful } else { WorkerHistory::Kept });
        !is_doubtful
    }

    /// Returns whether a poll that ended on a worker may have been off it for most of its time.
    pub(super) fn may_have_been_off(
        &self,
        poll: &Poll,
        worker: WorkerIndex,
        end: Nanos,
        scan: &ScannedPolls,
        state: impl FnMut(&Poll) -> PollState,
    ) -> bool {
        self.0.get(&poll.key) != Some(&WorkerHistory::Kept) && may_have_been_off(poll, worker, end, scan, state)
    }

    /// Forgets the polls that are over, and those that are stalls.
    pub(super) fn keep(&mut self, running: &[Poll], is_tracked: impl Fn(&PollKey) -> bool) {
        self.0.retain(|key, _| !is_tracked(key) && running.iter().any(|poll| poll.key == *key));
    }
}

/// Returns whether a poll that was on `worker` at the moment `end` may have been off it for most of
/// its time. `state` returns the state of a running poll.
fn may_have_been_off(
    poll: &Poll,
    worker: WorkerIndex,
    end: Nanos,
    scan: &ScannedPolls,
    mut state: impl FnMut(&Poll) -> PollState,
) -> bool {
    let started_within = |other: &Poll| {
        other.runtime == poll.runtime
            && other.key.thread != poll.key.thread
            // A poll of no task is the argument of a `block_on`, whose thread has no worker.
            && other.task != TaskBits::NONE
            && other.start > poll.start
            && other.start < end
    };
    let shows = |other: Option<WorkerIndex>| other.is_none_or(|other| other == worker);
    scan.ended.iter().any(|other| started_within(&other.poll) && shows(other.worker))
        || scan.running.iter().any(|other| {
            started_within(other)
                && match state(other) {
                    PollState::OnWorker(other) => shows(Some(other)),
                    PollState::OffWorker => true,
                    PollState::Finished => false,
                }
        })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::tests::{END, MS, T, WORKER, on_worker, poll, running};
    use super::super::*;
    use super::*;
    use crate::model::id::{RuntimeId, ThreadNumber};

    fn off_worker(_: &Poll) -> PollState {
        PollState::OffWorker
    }

    /// A poll of another thread, which starts at this moment.
    fn other(start: Nanos) -> Poll {
        let mut poll = poll(1, start);
        poll.key.thread = ThreadNumber(2);
        poll
    }

    fn end(poll: Poll, worker: Option<WorkerIndex>) -> EndedPoll {
        EndedPoll { poll, duration: 15 * MS, worker, end: END }
    }

    /// Returns whether a poll that started at 1 ms and ended on its worker at 16 ms is reported by
    /// a scan that finds these others.
    fn is_reported(ended: &[EndedPoll], running: &[Poll], state: fn(&Poll) -> PollState) -> bool {
        let mut all = vec![end(poll(1, MS), Some(WORKER))];
        all.extend(ended);
        let scan = ScannedPolls { running: running.to_vec(), ended: all, ..ScannedPolls::default() };
        let changes = Tracker::new(T).step(20 * MS, &scan, &Pauses::default(), state);
        changes.iter().any(|change| matches!(change, Change::EndedUnseen { poll, .. } if poll.start == MS))
    }

    #[test]
    fn a_poll_that_may_have_got_its_worker_back_is_no_stall() {
        assert!(is_reported(&[], &[], on_worker));
        assert!(!is_reported(&[], &[other(14 * MS)], off_worker));
        assert!(!is_reported(&[end(other(3 * MS), None)], &[], on_worker));
        assert!(!is_reported(&[end(other(3 * MS), Some(WORKER))], &[], on_worker), "one worker, two polls");
        assert!(!is_reported(&[], &[other(14 * MS)], on_worker), "one worker, two polls");
    }

    #[test]
    fn only_another_task_that_started_within_it_shows_that() {
        let other_worker = |_: &Poll| PollState::OnWorker(WorkerIndex(7));
        assert!(is_reported(&[], &[other(14 * MS)], other_worker));
        assert!(is_reported(&[end(other(3 * MS), Some(WorkerIndex(7)))], &[], on_worker));
        let over = |_: &Poll| PollState::Finished;
        assert!(is_reported(&[], &[other(14 * MS)], over));
        let outside = [
            other(MS / 2),
            other(17 * MS),
            Poll { runtime: RuntimeId(2), ..other(14 * MS) },
            Poll { task: TaskBits::NONE, ..other(14 * MS) },
        ];
        for outside in outside {
            assert!(is_reported(&[], &[outside], off_worker), "{outside:?}");
        }
    }

    /// The watchdog comes so late that the first scan meets a poll that may have got its worker
    /// back.
    #[test]
    fn a_running_poll_has_to_be_found_on_its_worker_twice() {
        let state = |poll: &Poll| match poll.key.thread {
            ThreadNumber(1) => PollState::OnWorker(WORKER),
            _ => PollState::OffWorker,
        };
        let (first, others) = (poll(1, MS), other(14 * MS));
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        assert_eq!(tracker.step(16 * MS, &running(&[first, others]), &pauses, state), []);
        let ended = ScannedPolls { ended: vec![end(first, Some(WORKER))], ..running(&[others]) };
        assert_eq!(tracker.step(18 * MS, &ended, &pauses, state), []);
        let mut tracker = Tracker::new(T);
        assert_eq!(tracker.step(16 * MS, &running(&[first, others]), &pauses, state), []);
        let changes = tracker.step(18 * MS, &running(&[first, others]), &pauses, state);
        assert!(matches!(changes[..], [Change::Started { .. }]), "{changes:?}");
        assert_eq!(tracker.step(19 * MS, &running(&[others]), &pauses, state).len(), 1, "it ends");
        assert!(tracker.sighted.0.is_empty());
    }

    /// A scan meets a poll 2 ms after its start, and the next one comes after its end.
    #[test]
    fn a_scan_that_found_the_poll_on_its_worker_is_evidence() {
        for (state, is_reported) in [(on_worker as fn(&Poll) -> PollState, true), (off_worker, false)] {
            let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
            let first = poll(1, MS);
            assert_eq!(tracker.step(3 * MS, &running(&[first]), &pauses, state), []);
            let ended = vec![end(first, Some(WORKER)), end(other(3 * MS), None)];
            let scan = ScannedPolls { ended, ..ScannedPolls::default() };
            let changes = tracker.step(16 * MS, &scan, &pauses, on_worker);
            assert_eq!(!changes.is_empty(), is_reported, "{changes:?}");
            assert!(tracker.sighted.0.is_empty());
        }
    }
}
