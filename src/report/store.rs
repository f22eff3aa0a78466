//! The store of stalls: the ongoing ones, the recent ones, and the totals. The watchdog thread and
//! the dispatcher write it, any thread reads it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::totals::{StallKey, StallTotals};
use crate::model::cause::{Cause, Certainty, Syscall};
use crate::model::event::{BlockedRequest, Liveness, StallOrigin, StallStarted};
#[cfg(feature = "server")]
use crate::model::id::PollKey;
use crate::model::id::{FrameNumber, RouteId, RuntimeId, StallId, WorkerIndex};
use crate::model::stall::{Phase, Stall};
use crate::model::time::Nanos;

/// The largest number of stalls that [`Watchdog::stalls`](crate::Watchdog::stalls) returns.
pub(crate) const MAX_RECENT: usize = 256;
/// The largest number of ended requests that are remembered for one ongoing stall.
const MAX_ENDED_REQUESTS: usize = 64;

/// A stall and its origin, which decides under which keys it is counted.
#[derive(Clone, Debug)]
pub(crate) struct StallRecord {
    pub(crate) stall: Stall,
    pub(crate) origin: StallOrigin,
}

/// An ongoing request of an ongoing stall.
#[derive(Debug)]
struct OngoingRequest {
    frame: FrameNumber,
    route: RouteId,
    elapsed: Nanos,
    /// The moment at which `elapsed` was measured.
    at: Nanos,
    /// The part of the request's time that is in the totals already.
    counted: Nanos,
}

/// An ongoing stall.
#[derive(Debug)]
pub(crate) struct OngoingStall {
    record: StallRecord,
    key: StallKey,
    #[cfg(feature = "server")]
    poll: Option<PollKey>,
    liveness: Arc<dyn Liveness>,
    /// The moment at which `stall.elapsed` was measured.
    at: Nanos,
    /// The part of the stall's time that is in the totals already. Totals never decrease.
    counted: Nanos,
    requests: Vec<OngoingRequest>,
    /// The frames of requests that have ended. A scan may observe such a frame once more, because a
    /// request publishes its end before it pops its frame.
    ended_requests: VecDeque<FrameNumber>,
}

/// A worker that is blocked by a task that was not wrapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObservedWorker {
    pub(crate) worker: WorkerIndex,
    /// How long it had been blocked at the moment `at`.
    pub(crate) elapsed: Nanos,
    pub(crate) at: Nanos,
}

/// The stalls of one watchdog.
#[derive(Debug, Default)]
pub(crate) struct StallStore {
    recent: VecDeque<Stall>,
    ongoing: Vec<OngoingStall>,
    totals: StallTotals,
}

impl OngoingStall {
    /// Sets the duration of the stall at the moment `at`.
    pub(crate) fn set_elapsed(&mut self, elapsed: Duration, at: Nanos) {
        (self.record.stall.elapsed, self.at) = (elapsed, at);
    }

    /// Adds the results of a later examination.
    pub(crate) fn refine(
        &mut self,
        cause: Cause,
        syscall: Option<Syscall>,
        on_cpu: Option<Duration>,
        spans: Option<Vec<Arc<str>>>,
    ) {
        let stall = &mut self.record.stall;
        // The stall keeps the cause of its first examination. A system call found under another
        // cause would contradict it.
        if cause == stall.cause {
            stall.syscall = syscall.or(stall.syscall.take());
        }
        stall.on_cpu = on_cpu.or(stall.on_cpu);
        if let Some(spans) = spans {
            stall.spans = spans;
        }
    }

    /// Counts a request. It is counted once, however often it is recorded; the time of one that is
    /// not over is added by [`accrue`](OngoingStall::accrue).
    fn count_request(&mut self, request: &BlockedRequest, totals: &mut StallTotals) {
        let BlockedRequest { frame, route, elapsed, at, is_over, .. } = *request;
        if self.ended_requests.contains(&frame) {
            return;
        }
        let known = self.requests.iter().position(|request| request.frame == frame);
        let index = known.unwrap_or_else(|| {
            totals.add_request(route, 1, Nanos::ZERO);
            self.requests.push(OngoingRequest { frame, route, elapsed, at, counted: Nanos::ZERO });
            self.requests.len() - 1
        });
        let request = &mut self.requests[index];
        (request.elapsed, request.at) = (elapsed, at);
        if is_over {
            self.end_request(index, totals);
        }
    }

    /// Ends a request, and adds the rest of its time.
    fn end_request(&mut self, index: usize, totals: &mut StallTotals) {
        let request = self.requests.swap_remove(index);
        totals.add_request(request.route, 0, request.elapsed.saturating_sub(request.counted));
        self.ended_requests.push_back(request.frame);
        if self.ended_requests.len() > MAX_ENDED_REQUESTS {
            self.ended_requests.pop_front();
        }
    }

    /// Moves the time that has passed until `now` into the totals.
    fn accrue(&mut self, now: Nanos, totals: &mut StallTotals) {
        let mut elapsed = Nanos::from(self.record.stall.elapsed);
        // The watchdog thread may not have observed the end yet. Only if the slot still shows the
        // poll, the stall has lasted until now.
        let open_frames = self.liveness.open_frames();
        if open_frames.is_some() {
            elapsed += now.saturating_sub(self.at);
        }
        let growth = elapsed.saturating_sub(self.counted);
        self.counted += growth;
        totals.add(self.key, 0, growth);
        for request in &mut self.requests {
            let is_open = open_frames.as_ref().is_some_and(|frames| frames.contains(&request.frame));
            let since = if is_open { now.saturating_sub(request.at) } else { Nanos::ZERO };
            let growth = (request.elapsed + since).saturating_sub(request.counted);
            request.counted += growth;
            totals.add_request(request.route, 0, growth);
        }
    }
}

impl StallStore {
    /// Inserts an ongoing stall.
    pub(crate) fn insert_ongoing(&mut self, started: StallStarted) {
        let StallStarted { stall, origin, at, liveness, .. } = started;
        let key = StallKey::new(origin, &stall);
        self.totals.add(key, 1, Nanos::ZERO);
        self.push_recent(stall.clone());
        self.ongoing.push(OngoingStall {
            record: StallRecord { stall, origin },
            key,
            #[cfg(feature = "server")]
            poll: started.poll,
            liveness,
            at,
            counted: Nanos::ZERO,
            requests: Vec::new(),
            ended_requests: VecDeque::new(),
        });
    }

    /// Inserts a stall that has ended already.
    pub(crate) fn insert_resolved(&mut self, record: StallRecord) {
        let StallRecord { stall, origin } = record;
        self.totals.add(StallKey::new(origin, &stall), 1, Nanos::from(stall.elapsed));
        self.push_recent(stall);
    }

    /// Updates an ongoing stall, and returns its state after that.
    pub(crate) fn update(&mut self, id: StallId, update: impl FnOnce(&mut OngoingStall)) -> Option<StallRecord> {
        let ongoing = self.ongoing_mut(id)?;
        update(ongoing);
        let record = ongoing.record.clone();
        self.replace_recent(&record.stall);
        Some(record)
    }

    /// Sets how long an ongoing stall had lasted at the moment `at`. The recent stalls show it with
    /// the next update.
    pub(crate) fn set_elapsed(&mut self, id: StallId, elapsed: Duration, at: Nanos) {
        if let Some(ongoing) = self.ongoing_mut(id) {
            ongoing.set_elapsed(elapsed, at);
        }
    }

    /// Records a request that alone was long enough, within an ongoing stall or one that was just
    /// inserted. From here on, an ongoing stall has the route of the request.
    pub(crate) fn record_request(&mut self, request: BlockedRequest) {
        let Some(index) = self.ongoing.iter().position(|ongoing| ongoing.record.stall.id == request.stall.0) else {
            return self.totals.add_request(request.route, 1, request.elapsed);
        };
        self.set_route(index, &request);
        let ongoing = &mut self.ongoing[index];
        if ongoing.key.cause.is_blamed() {
            ongoing.count_request(&request, &mut self.totals);
        }
    }

    /// Gives an ongoing stall the route of a request, also where it is shown as a recent one.
    fn set_route(&mut self, index: usize, request: &BlockedRequest) {
        let StallRecord { stall, origin } = &mut self.ongoing[index].record;
        origin.route = Some(request.route);
        if stall.route.as_ref() == Some(&request.route_name) {
            return;
        }
        let recent = self.recent.iter_mut().rev().find(|recent| recent.id == stall.id);
        for stall in recent.into_iter().chain([stall]) {
            stall.route = Some(request.route_name.clone());
        }
    }

    /// Ends a stall, and returns its last state.
    pub(crate) fn resolve(&mut self, id: StallId, elapsed: Duration) -> Option<StallRecord> {
        let index = self.ongoing.iter().position(|ongoing| ongoing.record.stall.id == id.0)?;
        let OngoingStall { mut record, key, counted, requests, .. } = self.ongoing.swap_remove(index);
        // A request whose end was not recorded counts until it was last observed.
        for request in requests {
            self.totals.add_request(request.route, 0, request.elapsed.saturating_sub(request.counted));
        }
        record.stall.phase = Phase::Resolved;
        record.stall.elapsed = elapsed;
        self.totals.add(key, 0, Nanos::from(elapsed).saturating_sub(counted));
        self.replace_recent(&record.stall);
        Some(record)
    }

    /// Sets the stack that the dispatcher has symbolized, and the reason and advice that follow
    /// from it.
    pub(crate) fn set_explanation(&mut self, reported: &Stall) {
        let ongoing = self.ongoing.iter_mut().map(|ongoing| &mut ongoing.record.stall);
        let ongoing = ongoing.filter(|stall| stall.id == reported.id);
        for stall in ongoing.chain(self.recent.iter_mut().rev().find(|stall| stall.id == reported.id)) {
            stall.stack.clone_from(&reported.stack);
            stall.location_changed = reported.location_changed;
            (stall.reason, stall.advice) = (reported.reason, reported.advice);
        }
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
            let key = &ongoing.key;
            key.certainty == Certainty::Observed && key.runtime == runtime && ongoing.liveness.open_frames().is_some()
        });
        let workers = observed.filter_map(|ongoing| {
            let worker = WorkerIndex(u16::try_from(ongoing.record.stall.worker?).ok()?);
            let elapsed = Nanos::from(ongoing.record.stall.elapsed);
            Some(ObservedWorker { worker, elapsed, at: ongoing.at })
        });
        workers.collect()
    }

    /// Returns the recent stalls, most recent last.
    pub(crate) fn recent(&self) -> Vec<Stall> {
        self.recent.iter().cloned().collect()
    }

    /// Returns the id of the ongoing stall of a poll.
    #[cfg(feature = "server")]
    pub(crate) fn id_of(&self, poll: PollKey) -> Option<u64> {
        let ongoing = self.ongoing.iter().find(|ongoing| ongoing.poll == Some(poll));
        ongoing.map(|ongoing| ongoing.record.stall.id)
    }

    fn ongoing_mut(&mut self, id: StallId) -> Option<&mut OngoingStall> {
        self.ongoing.iter_mut().find(|ongoing| ongoing.record.stall.id == id.0)
    }

    fn push_recent(&mut self, stall: Stall) {
        if self.recent.len() == MAX_RECENT {
            let resolved = self.recent.iter().position(|stall| stall.phase == Phase::Resolved).unwrap_or(0);
            self.recent.remove(resolved);
        }
        self.recent.push_back(stall);
    }

    fn replace_recent(&mut self, stall: &Stall) {
        if let Some(entry) = self.recent.iter_mut().rev().find(|entry| entry.id == stall.id) {
            entry.clone_from(stall);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
