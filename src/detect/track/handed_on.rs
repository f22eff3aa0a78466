//! Polls that may have got their worker back shortly before they ended.
//!
//! When a call of `block_in_place` ends, its thread takes the worker back if no other thread has it
//! at that moment. That is so while a second call hands the same worker on, in the microseconds
//! until a thread of the pool has got a CPU. Then the first poll ends on a worker that it did not
//! block for most of its time, and its thread cannot tell. Only a scan within the poll can.
//!
//! So in a runtime in which workers are handed on, the end of a poll on a worker is no evidence. A
//! poll that ends before it becomes a stall is reported only if a scan has found it on its worker
//! late enough.

use std::collections::{HashMap, HashSet};

use super::{Poll, PollState, StepContext};
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::{PollKey, RuntimeId};
use crate::model::time::Nanos;

/// For this long after a poll was found off its worker, others of its runtime may be.
const DOUBT: Nanos = Nanos::from_secs(60);

/// What scans have observed of polls and the workers that they hand on.
#[derive(Debug, Default)]
pub(super) struct HandedOnWorkers {
    /// For each runtime the moment at which a poll was last found off its worker.
    latest: HashMap<RuntimeId, Nanos>,
    /// The running polls that were on their worker for most of a threshold.
    confirmed: HashSet<PollKey>,
}

impl HandedOnWorkers {
    /// Records that a poll was found off its worker at a moment. A poll of no task is the argument
    /// of a `block_on`, whose thread had no worker to hand on.
    pub(super) fn record(&mut self, poll: &Poll, at: Nanos) {
        if poll.task != TaskBits::NONE {
            self.latest.insert(poll.runtime, at);
        }
    }

    /// Returns whether the state of a running poll has to be observed that is no stall yet. It may
    /// end as one before the next scan.
    pub(super) fn wants_state(&self, poll: &Poll, elapsed: Nanos, context: StepContext<'_>) -> bool {
        elapsed >= context.threshold.saturating_sub(context.threshold / 4) && self.is_in_doubt(poll, context.now)
    }

    /// Records the state of a running poll.
    pub(super) fn observe(&mut self, poll: &Poll, state: PollState, now: Nanos) {
        match state {
            PollState::OnWorker(_) => _ = self.confirmed.insert(poll.key),
            PollState::OffWorker => {
                self.confirmed.remove(&poll.key);
                self.record(poll, now);
            }
            PollState::Finished => {}
        }
    }

    /// Forgets the polls that are over.
    pub(super) fn keep(&mut self, running: &[Poll]) {
        self.confirmed.retain(|key| running.iter().any(|poll| poll.key == *key));
    }

    /// Returns whether a poll that has ended on a worker may have been off it for most of its time.
    pub(super) fn may_concern(&self, poll: &Poll, now: Nanos) -> bool {
        !self.confirmed.contains(&poll.key) && self.is_in_doubt(poll, now)
    }

    fn is_in_doubt(&self, poll: &Poll, now: Nanos) -> bool {
        let latest = self.latest.get(&poll.runtime).filter(|_| !poll.is_root);
        latest.is_some_and(|latest| now.saturating_sub(*latest) < DOUBT)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::tests::{END, MS, T, WORKER, on_worker, poll, running};
    use super::super::*;
    use super::*;

    fn off_worker(_: &Poll) -> PollState {
        PollState::OffWorker
    }

    fn end_on_worker(poll: Poll, duration: Nanos) -> ScannedPolls {
        let ended = vec![EndedPoll { poll, duration, worker: Some(WORKER), end: END }];
        ScannedPolls { ended, ..ScannedPolls::default() }
    }

    /// Runs two polls in `block_in_place` for 15 ms. A scan meets the first one off its worker; the
    /// second one ends on a worker before any scan. Returns whether the second one is reported.
    fn is_second_reported(first: Poll, second: Poll, delay: Nanos) -> bool {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        assert_eq!(tracker.step(first.start + T, &running(&[first]), &pauses, off_worker), []);
        let now = first.start + T + delay;
        let changes = tracker.step(now, &end_on_worker(second, 15 * MS), &pauses, on_worker);
        matches!(changes[..], [Change::EndedUnseen { .. }])
    }

    #[test]
    fn a_poll_that_may_have_got_its_worker_back_is_no_stall() {
        let (first, second) = (poll(1, MS), poll(2, 2 * MS));
        assert!(!is_second_reported(first, second, MS));
        assert!(!is_second_reported(first, second, DOUBT - Nanos(1)));
    }

    #[test]
    fn the_doubt_is_of_one_runtime_and_ends() {
        let (first, second) = (poll(1, MS), poll(2, 2 * MS));
        assert!(is_second_reported(first, second, DOUBT));
        assert!(is_second_reported(first, Poll { runtime: RuntimeId(2), ..second }, MS));
        assert!(is_second_reported(first, Poll { is_root: true, task: TaskBits::NONE, ..second }, MS));
        assert!(is_second_reported(Poll { task: TaskBits::NONE, ..first }, second, MS), "it had no worker");
    }

    #[test]
    fn the_end_of_a_poll_off_its_worker_shows_it_too() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let mut scan = end_on_worker(poll(1, MS), 15 * MS);
        scan.ended.push(EndedPoll { poll: poll(2, MS), duration: 15 * MS, worker: None, end: END });
        assert_eq!(tracker.step(20 * MS, &scan, &pauses, on_worker), []);
    }

    /// A scan meets a poll 1 ms before it is due, and the next one comes after its end.
    #[test]
    fn a_scan_that_found_the_poll_on_its_worker_for_long_is_evidence() {
        for (state, is_reported) in [(on_worker as fn(&Poll) -> PollState, true), (off_worker, false)] {
            let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
            let (first, second) = (poll(1, Nanos::ZERO), poll(2, 2 * MS));
            assert_eq!(tracker.step(T, &running(&[first]), &pauses, off_worker), []);
            assert_eq!(tracker.step(T + MS, &running(&[second]), &pauses, state), []);
            let changes = tracker.step(15 * MS, &end_on_worker(second, 12 * MS), &pauses, on_worker);
            assert_eq!(!changes.is_empty(), is_reported, "{changes:?}");
            assert!(tracker.handed_on.confirmed.is_empty());
        }
    }
}
