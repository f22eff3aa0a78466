//! Attributes delayed polls to stalls: which tasks waited behind a stall, and for how long. Pure:
//! stalls and delayed polls in, victims out.
//!
//! The rule: a poll has waited behind a stall if the same thread was in the stall, polls the same
//! runtime, and the wait overlaps the stall. The task was then in the queue or in the LIFO slot of
//! the worker that stalled, or in the queue that all workers share while no other one took it. The
//! overlap is the time that it waited behind the stall. A wait that overlaps several stalls of the
//! thread has a part in each. The stalls of one thread do not overlap, so no time counts twice.
//!
//! A poll on another thread than the stall's counts behind no stall: the task may have been stolen
//! from the queue of the worker that stalled, or may have waited behind short polls of its own
//! worker. Nothing distinguishes the two.

use std::collections::{HashMap, VecDeque};

use crate::measure::primitives::route::RouteId;
use crate::model::id::{RuntimeId, SiteId, StallId, ThreadNumber};
use crate::model::time::Nanos;

/// The most stalls of a thread whose victims are tracked at a time.
const MAX_STALLS: usize = 32;
/// The time after the end of a stall for which its victims are tracked. A task that waits longer
/// still has waited behind polls that came after the stall.
const TRACKED_FOR: Nanos = Nanos::from_secs(60);
/// The most groups of victims of one stall.
const MAX_GROUPS: usize = 16;

/// A poll that started long after the wake of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DelayedStart {
    /// The thread that polled the task.
    pub(crate) thread: ThreadNumber,
    pub(crate) runtime: RuntimeId,
    pub(crate) group: VictimGroupKey,
    pub(crate) woken: Nanos,
    /// The start of the poll.
    pub(crate) start: Nanos,
}

/// The key by which victims are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum VictimGroupKey {
    /// All tasks of a route, wherever they were spawned.
    Route(RouteId),
    /// The tasks of a site that have no route.
    Site(SiteId),
}

impl VictimGroupKey {
    pub(crate) fn new(route: Option<RouteId>, site: SiteId) -> VictimGroupKey {
        route.map_or(VictimGroupKey::Site(site), VictimGroupKey::Route)
    }
}

/// A number of victims, and the time that they waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VictimCount {
    pub(crate) tasks: u64,
    pub(crate) waited: Nanos,
}

impl VictimCount {
    fn add(&mut self, waited: Nanos) {
        self.tasks += 1;
        self.waited += waited;
    }
}

/// The victims of one stall so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VictimCounts {
    pub(crate) total: VictimCount,
    pub(crate) longest: Nanos,
    /// The first groups that occurred, bounded in number.
    pub(crate) groups: HashMap<VictimGroupKey, VictimCount>,
}

impl VictimCounts {
    fn add(&mut self, group: VictimGroupKey, waited: Nanos) {
        self.total.add(waited);
        self.longest = self.longest.max(waited);
        if self.groups.len() < MAX_GROUPS || self.groups.contains_key(&group) {
            self.groups.entry(group).or_default().add(waited);
        }
    }
}

/// A stall, as far as victims depend on it.
#[derive(Debug)]
struct StallSpan {
    id: StallId,
    runtime: RuntimeId,
    start: Nanos,
    /// `None` while the stall lasts.
    end: Option<Nanos>,
    victims: VictimCounts,
    /// The victims have changed since they were last taken.
    is_changed: bool,
}

/// A stall that has started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartedSpan {
    pub(crate) id: StallId,
    pub(crate) thread: ThreadNumber,
    pub(crate) runtime: RuntimeId,
    pub(crate) start: Nanos,
}

/// Tracks the victims of recent stalls.
#[derive(Debug, Default)]
pub(crate) struct VictimTracker {
    /// The stalls of each thread, the oldest first.
    threads: HashMap<ThreadNumber, VecDeque<StallSpan>>,
    /// The threads of the ongoing stalls.
    ongoing: HashMap<StallId, ThreadNumber>,
}

impl VictimTracker {
    /// Adds a stall. If the thread has too many, its oldest one is no longer tracked.
    pub(crate) fn start(&mut self, started: StartedSpan) {
        let StartedSpan { id, thread, runtime, start } = started;
        let stalls = self.threads.entry(thread).or_default();
        stalls.push_back(StallSpan {
            id,
            runtime,
            start,
            end: None,
            victims: VictimCounts::default(),
            is_changed: false,
        });
        self.ongoing.insert(id, thread);
        if stalls.len() > MAX_STALLS
            && let Some(oldest) = stalls.pop_front()
        {
            self.ongoing.remove(&oldest.id);
        }
    }

    /// Ends a stall `elapsed` after its start, or at the moment `end` where that is known.
    pub(crate) fn end(&mut self, id: StallId, elapsed: Nanos, end: Option<Nanos>) {
        let Some(thread) = self.ongoing.remove(&id) else { return };
        let stalls = self.threads.get_mut(&thread).into_iter().flatten();
        if let Some(stall) = stalls.into_iter().find(|stall| stall.id == id) {
            stall.end = Some(end.unwrap_or(stall.start + elapsed));
        }
    }

    /// Adds a delayed poll to the victims of the stalls that it waited behind.
    pub(crate) fn add(&mut self, poll: &DelayedStart) {
        for stall in self.threads.get_mut(&poll.thread).into_iter().flatten() {
            // A poll that starts within the stall is that of the stall itself, or within it.
            let Some(end) = stall.end.filter(|end| *end <= poll.start) else { continue };
            if stall.runtime == poll.runtime && poll.woken < end {
                stall.victims.add(poll.group, end.saturating_sub(stall.start.max(poll.woken)));
                stall.is_changed = true;
            }
        }
    }

    /// Returns the stalls whose victims have changed since the previous call, and forgets those
    /// that ended long ago.
    pub(crate) fn take_changed(&mut self, now: Nanos) -> Vec<(StallId, VictimCounts)> {
        let mut changed = Vec::new();
        for stall in self.threads.values_mut().flatten() {
            if std::mem::take(&mut stall.is_changed) {
                changed.push((stall.id, stall.victims.clone()));
            }
        }
        changed.sort_unstable_by_key(|(id, _)| *id);
        self.threads.retain(|_, stalls| {
            stalls.retain(|stall| stall.end.is_none_or(|end| now.saturating_sub(end) < TRACKED_FOR));
            !stalls.is_empty()
        });
        changed
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
