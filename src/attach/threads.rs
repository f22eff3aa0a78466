//! The threads of the process, as the engine knows them.

use std::collections::VecDeque;
use std::sync::Arc;

use pollwatch_stack::Tid;

use super::run_times::RunTimes;
use super::runtimes::RuntimeFlavor;
use crate::detect::outside::observation::EntryId;
use crate::detect::time_account::ThreadTimes;
use crate::model::id::RuntimeId;
use crate::model::time::Nanos;

/// The readings of a thread that are kept.
const MAX_READINGS: usize = 16;

/// A thread of the process.
pub(super) struct TargetThread {
    pub(super) name: Arc<str>,
    /// The runtime that the thread drives, or has driven last.
    pub(super) member: Option<Membership>,
    /// True once a stack of the thread was read whole.
    pub(super) is_read: bool,
    /// The counts at the moment at which the thread was found to drive no runtime.
    pub(super) classified: Option<RunTimes>,
    /// The counts that were read last, and since when they have been the same.
    pub(super) latest: Option<UnchangedTimes>,
    /// The counts at the moment at which the symbols that its stack needs could not be used.
    pub(super) awaits_symbols: Option<RunTimes>,
    /// True if the thread was in `block_in_place`, and has not been parked since. Another thread
    /// may have its worker.
    pub(super) has_handed_on: bool,
    /// The latest readings, the oldest first.
    pub(super) readings: VecDeque<ThreadTimes>,
}

/// Counts of a thread that has not run since they were read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnchangedTimes {
    pub(super) times: RunTimes,
    pub(super) since: Nanos,
}

/// The runtime of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) flavor: RuntimeFlavor,
    pub(super) runtime: RuntimeId,
}

impl TargetThread {
    /// Returns the oldest reading that is kept.
    pub(super) fn earlier(&self) -> Option<RunTimes> {
        let of = |times: &ThreadTimes| RunTimes {
            cpu: times.cpu,
            run_delay: times.run_delay.unwrap_or_default(),
            runs: times.runs,
        };
        self.readings.front().map(of).or(self.classified)
    }

    /// Notes the counts as they were read. Returns since when they have been the same.
    pub(super) fn note_times(&mut self, at: Nanos, times: RunTimes) -> Nanos {
        let same = self.latest.filter(|latest| latest.times == times);
        self.latest.insert(same.unwrap_or(UnchangedTimes { times, since: at })).since
    }

    /// Keeps a reading. Returns whether the thread has run since the one before.
    pub(super) fn note(&mut self, at: Nanos, times: RunTimes) -> bool {
        if self.readings.len() >= MAX_READINGS {
            self.readings.pop_front();
        }
        let RunTimes { cpu, run_delay, runs } = times;
        let is_runnable = self.readings.back().is_some_and(|latest| latest.runs != runs || latest.cpu != cpu);
        self.readings.push_back(ThreadTimes { at, cpu, run_delay: Some(run_delay), runs, is_runnable });
        is_runnable
    }
}

/// Returns the id by which the detector knows a thread.
pub(super) fn entry(tid: Tid) -> EntryId {
    EntryId(tid.as_raw() as u64)
}

/// Returns the thread that the detector knows by this id.
pub(super) fn tid(entry: EntryId) -> Tid {
    Tid::from_raw(entry.0 as i32)
}
