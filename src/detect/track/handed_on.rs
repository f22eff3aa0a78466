//! Polls that may have got their worker back shortly before they ended.
//!
//! When a call of `block_in_place` ends, its thread takes the worker back if no other thread has it
//! at that moment. That is so while a second call hands the same worker on, in the microseconds
//! until a thread of the pool has got a CPU. Then the first poll ends on a worker that it did not
//! block for most of its time, and its thread cannot tell.
//!
//! The second call shows it: its poll started within the first one, and either is off its worker
//! or was on the same one. So a poll that ended before it became a stall is none if there is such
//! another poll, unless a scan has found it on its worker late enough.

use std::collections::HashSet;

use super::{EndedPoll, Poll, PollState, ScannedPolls};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{PollKey, WorkerIndex};
use crate::model::time::Nanos;

/// The running polls that were found on their worker late.
#[derive(Debug, Default)]
pub(super) struct ConfirmedPolls(HashSet<PollKey>);

impl ConfirmedPolls {
    /// Returns whether a running poll that is no stall yet has to be confirmed. It may end as a
    /// stall before the next scan.
    pub(super) fn is_due(elapsed: Nanos, threshold: Nanos) -> bool {
        elapsed >= threshold.saturating_sub(threshold / 4)
    }

    /// Records the state of a running poll.
    pub(super) fn observe(&mut self, poll: &Poll, state: PollState) {
        match state {
            PollState::OnWorker(_) => _ = self.0.insert(poll.key),
            PollState::OffWorker => _ = self.0.remove(&poll.key),
            PollState::Finished => {}
        }
    }

    /// Forgets the polls that are over.
    pub(super) fn keep(&mut self, running: &[Poll]) {
        self.0.retain(|key| running.iter().any(|poll| poll.key == *key));
    }

    /// Returns whether a poll that has ended on a worker may have been off it for most of its time,
    /// as far as a scan shows. `state` returns the state of a running poll.
    pub(super) fn may_have_been_off(
        &self,
        ended: &EndedPoll,
        scan: &ScannedPolls,
        mut state: impl FnMut(&Poll) -> PollState,
    ) -> bool {
        let Some(worker) = ended.worker.filter(|_| !self.0.contains(&ended.poll.key)) else { return false };
        let is_off = |other: Option<WorkerIndex>| other.is_none_or(|other| other == worker);
        scan.ended.iter().any(|other| started_within(&other.poll, ended) && is_off(other.worker))
            || scan.running.iter().any(|other| {
                started_within(other, ended)
                    && match state(other) {
                        PollState::OnWorker(other) => is_off(Some(other)),
                        PollState::OffWorker => true,
                        PollState::Finished => false,
                    }
            })
    }
}

/// Returns whether a poll of another task of the same runtime started within a poll that has ended.
/// A poll of no task is the argument of a `block_on`, whose thread has no worker.
fn started_within(other: &Poll, ended: &EndedPoll) -> bool {
    let EndedPoll { poll, duration, .. } = ended;
    other.runtime == poll.runtime
        && other.key.thread != poll.key.thread
        && other.task != TaskBits::NONE
        && other.start > poll.start
        && other.start < poll.start + *duration
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

    /// A scan meets a poll 1 ms before it is due, and the next one comes after its end.
    #[test]
    fn a_scan_that_found_the_poll_on_its_worker_for_long_is_evidence() {
        for (state, is_reported) in [(on_worker as fn(&Poll) -> PollState, true), (off_worker, false)] {
            let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
            let first = poll(1, MS);
            assert_eq!(tracker.step(T, &running(&[first]), &pauses, state), []);
            let ended = vec![end(first, Some(WORKER)), end(other(3 * MS), None)];
            let scan = ScannedPolls { ended, ..ScannedPolls::default() };
            let changes = tracker.step(16 * MS, &scan, &pauses, on_worker);
            assert_eq!(!changes.is_empty(), is_reported, "{changes:?}");
            assert!(tracker.confirmed.0.is_empty());
        }
    }
}
