//! The runtimes in which `block_in_place` has handed workers on lately.
//!
//! When a call of `block_in_place` ends, its thread takes the worker back if no other thread has it
//! at that moment. That is so while a second call hands the same worker on, in the microseconds
//! until a thread of the pool has got a CPU. Then the first poll ends on a worker that it did not
//! block for most of its time, and the thread cannot tell. Only a scan within the poll can.

use std::collections::HashMap;

use super::Poll;
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// For this long after a poll was found off its worker, the end of a poll on a worker does not show
/// that it blocked this worker.
const DOUBT: Nanos = Nanos::from_secs(60);

/// For each runtime the moment at which a poll was last found off its worker.
#[derive(Debug, Default)]
pub(super) struct HandedOnWorkers(HashMap<RuntimeId, Nanos>);

impl HandedOnWorkers {
    /// Records that a poll was found off its worker at a moment. A poll of no task is the argument
    /// of a `block_on`, whose thread had no worker to hand on.
    pub(super) fn record(&mut self, poll: &Poll, at: Nanos) {
        if poll.task != TaskBits::NONE {
            self.0.insert(poll.runtime, at);
        }
    }

    /// Returns whether a poll that has ended on a worker may have been off it.
    pub(super) fn may_concern(&self, poll: &Poll, now: Nanos) -> bool {
        let latest = self.0.get(&poll.runtime).filter(|_| !poll.is_root);
        latest.is_some_and(|latest| now.saturating_sub(*latest) < DOUBT)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::tests::{END, MS, T, WORKER, on_worker, poll, running};
    use super::super::*;
    use super::*;

    /// Runs two polls in `block_in_place` for 15 ms. A scan meets the first one off its worker; the
    /// second one ends on a worker before any scan. Returns what is reported of the second.
    fn reported_of_second(first: Poll, second: Poll, delay: Nanos) -> Vec<Change> {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let off_worker = |_: &Poll| PollState::OffWorker;
        assert_eq!(tracker.step(first.start + T, &running(&[first]), &pauses, off_worker), []);
        let end = EndedPoll { poll: second, duration: 15 * MS, worker: Some(WORKER), end: END };
        let scan = ScannedPolls { ended: vec![end], ..ScannedPolls::default() };
        tracker.step(first.start + T + delay, &scan, &pauses, on_worker)
    }

    #[test]
    fn a_poll_that_may_have_got_its_worker_back_is_no_stall() {
        let (first, second) = (poll(1, MS), poll(2, 2 * MS));
        assert_eq!(reported_of_second(first, second, MS), []);
        assert_eq!(reported_of_second(first, second, DOUBT - Nanos(1)), []);
    }

    #[test]
    fn the_doubt_is_of_one_runtime_and_ends() {
        let (first, second) = (poll(1, MS), poll(2, 2 * MS));
        let is_reported =
            |first, second, delay| matches!(reported_of_second(first, second, delay)[..], [Change::EndedUnseen { .. }]);
        assert!(is_reported(first, second, DOUBT));
        assert!(is_reported(first, Poll { runtime: RuntimeId(2), ..second }, MS));
        assert!(is_reported(first, Poll { is_root: true, task: TaskBits::NONE, ..second }, MS));
        assert!(is_reported(Poll { task: TaskBits::NONE, ..first }, second, MS), "it had no worker to hand on");
    }

    #[test]
    fn the_end_of_a_poll_off_its_worker_shows_it_too() {
        let (mut tracker, pauses) = (Tracker::new(T), Pauses::default());
        let end = |poll, worker| EndedPoll { poll, duration: 15 * MS, worker, end: END };
        let ended = vec![end(poll(1, MS), Some(WORKER)), end(poll(2, MS), None)];
        let scan = ScannedPolls { ended, ..ScannedPolls::default() };
        assert_eq!(tracker.step(20 * MS, &scan, &pauses, on_worker), []);
    }
}
