//! The store of stalls: the ongoing ones, the recent ones, and the totals. The watchdog thread and
//! the report thread write it, any thread reads it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::Stack;

use super::deadlocks::{FoundDeadlock, FoundDeadlocks};
use super::findings::WaitedFor;
use super::ongoing::{StallRecord, StoredStall, UpdatedStall};
use super::recent::RecentStalls;
use super::segments::SampleNumber;
use super::totals::{StallKey, StallTotals};
use crate::model::cause::Certainty;
use crate::model::event::{BlockedRequest, StallEnd, StallProgress, StallStarted};
#[cfg(feature = "server")]
use crate::model::id::PollKey;
use crate::model::id::{RuntimeId, StallId, WorkerIndex};
use crate::model::late_runtime::LateRuntime;
use crate::model::stall::Stall;
use crate::model::time::Nanos;
use crate::model::victims::Victims;

/// A worker that is blocked by a task that was not wrapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObservedWorker {
    /// `None` for a worker that has never parked.
    pub(crate) worker: Option<WorkerIndex>,
    /// How long it had been blocked at the moment `at`.
    pub(crate) elapsed: Nanos,
    pub(crate) at: Nanos,
}

/// The number of reports of late runtimes that are kept.
const MAX_LATE: usize = 16;

/// The stalls of one watchdog.
#[derive(Debug, Default)]
pub(crate) struct StallStore {
    recent: RecentStalls,
    ongoing: Vec<StoredStall>,
    /// The stalls that are over, and of which captured stacks are not symbolized yet.
    resolving: Vec<StoredStall>,
    deadlocks: FoundDeadlocks,
    totals: StallTotals,
    /// The latest reports of late runtimes, the oldest first.
    late: VecDeque<LateRuntime>,
}

impl StallStore {
    /// Inserts an ongoing stall. `has_stack` says that its stack was captured, which follows by
    /// [`set_stack`](Self::set_stack).
    pub(super) fn insert_ongoing(&mut self, started: StallStarted, has_stack: bool) -> UpdatedStall {
        let mut ongoing = StoredStall::new(started, has_stack);
        let updated = ongoing.updated();
        self.recent.push(updated.record.clone());
        self.ongoing.push(ongoing);
        updated
    }

    /// Inserts a stall that has ended already.
    pub(super) fn insert_resolved(&mut self, record: StallRecord) {
        let StallRecord { stall, origin, .. } = &record;
        self.totals.add(StallKey::new(*origin, stall), stall.cause, 1, Nanos::from(stall.elapsed));
        self.recent.push(record);
    }

    /// Adds the results of a further examination of an ongoing stall.
    pub(super) fn examine(&mut self, progress: StallProgress, has_stack: bool) -> Option<UpdatedStall> {
        let id = progress.id;
        let index = self.position(id)?;
        let ongoing = &mut self.ongoing[index];
        ongoing.examine(progress, has_stack, &mut self.totals);
        if ongoing.has_left_lock() {
            self.deadlocks.remove(id);
        }
        let updated = ongoing.updated();
        self.recent.replace(&updated.record);
        Some(updated)
    }

    /// Takes in a stack of an ongoing stall that had been requested at the latest examination. It
    /// follows by [`set_stack`](Self::set_stack).
    pub(super) fn await_late_stack(&mut self, id: StallId) -> Option<UpdatedStall> {
        let index = self.position(id)?;
        let ongoing = &mut self.ongoing[index];
        ongoing.await_late_stack();
        Some(ongoing.updated())
    }

    /// Sets how long an ongoing stall had lasted at the moment `at`. The recent stalls show it with
    /// the next update.
    pub(crate) fn set_elapsed(&mut self, id: StallId, elapsed: Duration, at: Nanos) {
        if let Some(index) = self.position(id) {
            self.ongoing[index].set_elapsed(elapsed, at);
        }
    }

    /// Records a request that alone was long enough, within an ongoing stall or one that was just
    /// inserted. From here on, an ongoing stall has the route of the request.
    pub(crate) fn record_request(&mut self, request: &BlockedRequest) {
        let Some(index) = self.position(request.stall) else {
            return self.totals.add_request(request.route, 1, request.elapsed);
        };
        let ongoing = &mut self.ongoing[index];
        // No request in a root blocks a worker.
        if ongoing.key().is_root {
            return;
        }
        let is_known = ongoing.stall().route.as_ref() == Some(&request.route_name);
        ongoing.record_request(request, &mut self.totals);
        if !is_known {
            self.recent.replace(ongoing.record());
        }
    }

    /// Ends a stall, and returns its last state.
    pub(super) fn resolve(&mut self, id: StallId, end: StallEnd) -> Option<UpdatedStall> {
        let index = self.position(id)?;
        self.deadlocks.remove(id);
        let mut ongoing = self.ongoing.swap_remove(index);
        ongoing.resolve(end, &mut self.totals);
        let updated = ongoing.updated();
        self.recent.replace(&updated.record);
        if updated.is_pending {
            self.resolving.push(ongoing);
        }
        Some(updated)
    }

    /// Sets a stack that was symbolized, or drops the sample if there is none. A deadlock is over
    /// when the stall has moved to another location. Returns the state of the stall after that.
    pub(super) fn set_stack(
        &mut self,
        id: StallId,
        sample: SampleNumber,
        stack: Option<Stack>,
        mut found: WaitedFor,
    ) -> Option<UpdatedStall> {
        let is_it = |stall: &&mut StoredStall| stall.stall().id == id.0;
        let ongoing = self.ongoing.iter_mut().chain(&mut self.resolving).find(is_it)?;
        let (deadlock, has_stack) = (found.deadlock.take(), stack.is_some());
        ongoing.set_stack(sample, stack, found);
        if has_stack && ongoing.stall().location_changed == Some(true) {
            self.deadlocks.remove(id);
        }
        if let Some(deadlock) = deadlock.filter(|_| !ongoing.has_left_lock()) {
            self.deadlocks.insert(id, ongoing.stall().runtime.clone(), &deadlock);
        }
        let updated = ongoing.updated();
        self.recent.replace(&updated.record);
        if !updated.is_pending {
            self.resolving.retain(|stall| stall.stall().id != id.0);
        }
        Some(updated)
    }

    /// Sets the tasks that have waited behind a stall so far. Returns the stall as it is then, if
    /// it is still known.
    pub(super) fn set_victims(&mut self, id: StallId, victims: Victims) -> Option<StallRecord> {
        let stored = self.ongoing.iter_mut().chain(&mut self.resolving).find(|stored| stored.stall().id == id.0);
        let (before, record) = match stored {
            Some(stored) => {
                let before = stored.set_victims(victims.clone());
                self.recent.replace(stored.record());
                (before, Some((stored.key().runtime, stored.record().clone())))
            }
            None => {
                let record = self.recent.get_mut(id.0)?;
                record.version += 1;
                let before = record.stall.victims.replace(victims.clone());
                (before, Some((record.origin.runtime, record.clone())))
            }
        };
        let (runtime, record) = record?;
        let before = before.unwrap_or_default();
        let waited = victims.waited.saturating_sub(before.waited);
        self.totals.add_victims(runtime, victims.tasks.saturating_sub(before.tasks), waited.into());
        Some(record)
    }

    /// Counts the ongoing stalls whose end will not be found, because the watchdog stops.
    pub(super) fn count_ongoing(&mut self) {
        self.ongoing.iter_mut().for_each(|ongoing| ongoing.count(&mut self.totals));
    }

    /// Returns the totals at the moment `now`, with the time of ongoing stalls until then.
    pub(crate) fn totals(&mut self, now: Nanos) -> StallTotals {
        for ongoing in &mut self.ongoing {
            ongoing.accrue(now, &mut self.totals);
        }
        self.totals.clone()
    }

    /// Returns the workers of a runtime that are observed to be blocked by tasks that were not
    /// wrapped. Workers that are blocked in measured polls are found by their slots instead.
    pub(crate) fn observed_workers(&self, runtime: RuntimeId) -> Vec<ObservedWorker> {
        let observed = self.ongoing.iter().filter(|ongoing| {
            let key = ongoing.key();
            key.certainty == Certainty::Observed && key.runtime == runtime && ongoing.liveness.open_frames().is_some()
        });
        let workers = observed.map(|ongoing| {
            let worker = ongoing.stall().worker.and_then(|worker| u16::try_from(worker).ok()).map(WorkerIndex);
            let elapsed = Nanos::from(ongoing.stall().elapsed);
            ObservedWorker { worker, elapsed, at: ongoing.at }
        });
        workers.collect()
    }

    /// Returns an ongoing stall in one line.
    pub(super) fn summary_of(&self, id: StallId) -> Option<Arc<str>> {
        let stall = self.ongoing.get(self.position(id)?)?.stall();
        let site = stall.site.location().map(|_| format!(", in a task spawned at {}", stall.site));
        Some(format!("{}{}", stall.summary(), site.unwrap_or_default()).into())
    }

    /// Adds a report of a late runtime.
    pub(super) fn push_late(&mut self, runtime: RuntimeId, late: LateRuntime) {
        self.totals.add_late(runtime, late.reason);
        if self.late.len() >= MAX_LATE {
            self.late.pop_front();
        }
        self.late.push_back(late);
    }

    /// Returns the latest reports of late runtimes, the oldest first.
    pub(crate) fn late_runtimes(&self) -> Vec<LateRuntime> {
        self.late.iter().cloned().collect()
    }

    /// Returns the recent stalls, at most `limit`, most recent last.
    pub(crate) fn recent(&self, limit: usize) -> Vec<Stall> {
        self.recent.list(limit)
    }

    /// Returns the deadlocks that are not known to be over. The poll of each is still open, though
    /// the watchdog thread may not have observed its end yet.
    pub(crate) fn deadlocks(&self) -> Vec<FoundDeadlock> {
        let mut found = self.deadlocks.list();
        found.retain(|deadlock| {
            let stall = self.position(deadlock.stall).map(|index| &self.ongoing[index]);
            stall.is_some_and(|stall| stall.liveness.open_frames().is_some())
        });
        found
    }

    /// Returns whether any stall is ongoing.
    pub(crate) fn has_ongoing(&self) -> bool {
        !self.ongoing.is_empty()
    }

    /// Returns the ongoing stalls of a runtime.
    pub(crate) fn ongoing_of(&self, runtime: &str) -> Vec<Stall> {
        let of_runtime = self.ongoing.iter().map(StoredStall::stall).filter(|stall| &*stall.runtime == runtime);
        of_runtime.cloned().collect()
    }

    /// Returns the id of the ongoing stall of a poll.
    #[cfg(feature = "server")]
    pub(crate) fn id_of(&self, poll: PollKey) -> Option<u64> {
        let ongoing = self.ongoing.iter().find(|ongoing| ongoing.poll == Some(poll));
        ongoing.map(|ongoing| ongoing.stall().id)
    }

    fn position(&self, id: StallId) -> Option<usize> {
        self.ongoing.iter().position(|ongoing| ongoing.stall().id == id.0)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
