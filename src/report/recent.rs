//! The recent stalls, in a list of bounded size that keeps what is most worth reading.
//!
//! A flood of one kind of stalls does not push out the others: the first and the longest stall of
//! each kind stay longer than the rest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::ongoing::StallRecord;
use crate::model::cause::Cause;
use crate::model::event::StallOrigin;
use crate::model::stall::{Phase, Stall};

/// The largest number of stalls that [`Watchdog::stalls`](crate::Watchdog::stalls) returns.
pub(crate) const MAX_RECENT: usize = 256;
/// The number of stalls beyond [`MAX_RECENT`] that are removed together: to find out which ones
/// takes a pass over all of them.
const SLACK: usize = 32;

/// The stalls of one kind have the same runtime, site, route and cause.
type StallKind = (StallOrigin, Cause);

/// The stalls of one kind that are preferred.
struct OfKind {
    first: u64,
    longest: u64,
    /// The duration of the longest one.
    elapsed: Duration,
}

/// The recent stalls.
#[derive(Debug, Default)]
pub(crate) struct RecentStalls {
    /// The stalls by ascending id.
    records: VecDeque<StallRecord>,
}

impl RecentStalls {
    pub(crate) fn push(&mut self, record: StallRecord) {
        self.records.push_back(record);
        if self.records.len() >= MAX_RECENT + SLACK {
            let removed = self.removable(MAX_RECENT);
            self.records.retain(|record| !removed.contains(&record.stall.id));
        }
    }

    /// Replaces a stall by its state after an update, if it is still here.
    pub(crate) fn replace(&mut self, record: &StallRecord) {
        let id = record.stall.id;
        if let Some(entry) = self.records.iter_mut().rev().find(|entry| entry.stall.id == id) {
            entry.clone_from(record);
        }
    }

    /// Returns a stall, if it is still here.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut StallRecord> {
        self.records.iter_mut().rev().find(|record| record.stall.id == id)
    }

    /// Returns the stalls, at most `limit`, most recent last.
    pub(crate) fn list(&self, limit: usize) -> Vec<Stall> {
        let removed = self.removable(limit.min(MAX_RECENT));
        let listed = self.records.iter().filter(|record| !removed.contains(&record.stall.id));
        listed.map(|record| record.stall.clone()).collect()
    }

    /// Returns the ids of those that have to go so that `limit` are left: the oldest ones that are
    /// over and not preferred, then the oldest that are over, then the oldest.
    fn removable(&self, limit: usize) -> HashSet<u64> {
        let excess = self.records.len().saturating_sub(limit);
        let mut removed = HashSet::new();
        if excess == 0 {
            return removed;
        }
        let preferred = self.preferred(limit / 2);
        let is_over = |record: &StallRecord| record.stall.phase == Phase::Resolved;
        let is_plain = |record: &StallRecord| is_over(record) && !preferred.contains(&record.stall.id);
        let rules: [&dyn Fn(&StallRecord) -> bool; 3] = [&is_plain, &is_over, &|_| true];
        for is_removable in rules {
            for record in self.records.iter().filter(|record| is_removable(record)) {
                if removed.len() == excess {
                    return removed;
                }
                removed.insert(record.stall.id);
            }
        }
        removed
    }

    /// Returns the ids of the first and the longest stalls of each kind. Where these are more than
    /// `limit`, it returns the greatest ids, so that there is room for the latest stalls.
    fn preferred(&self, limit: usize) -> HashSet<u64> {
        let mut kinds: HashMap<StallKind, OfKind> = HashMap::new();
        for StallRecord { stall, origin, .. } in &self.records {
            let new = || OfKind { first: stall.id, longest: stall.id, elapsed: stall.elapsed };
            let of_kind = kinds.entry((*origin, stall.cause)).or_insert_with(new);
            if stall.elapsed > of_kind.elapsed {
                (of_kind.longest, of_kind.elapsed) = (stall.id, stall.elapsed);
            }
        }
        let mut ids: Vec<u64> = kinds.values().flat_map(|kind| [kind.first, kind.longest]).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.drain(..ids.len().saturating_sub(limit));
        ids.into_iter().collect()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::model::id::{RouteId, RuntimeId, SiteId};
    use crate::report::samples::stall;

    const ORIGIN: StallOrigin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None, parent_route: None };

    fn record(id: u64, millis: u64, cause: Cause, phase: Phase) -> StallRecord {
        StallRecord { stall: Stall { cause, phase, ..stall(id, millis) }, origin: ORIGIN, version: 0 }
    }

    fn ids(recent: &RecentStalls) -> Vec<u64> {
        recent.list(MAX_RECENT).iter().map(|stall| stall.id).collect()
    }

    #[test]
    fn a_flood_of_one_kind_does_not_push_out_another_one() {
        let mut recent = RecentStalls::default();
        recent.push(record(1, 50, Cause::Cpu, Phase::Resolved));
        for id in 2..=743 {
            let millis = if id == 100 { 90 } else { 10 };
            recent.push(record(id, millis, Cause::Starved, Phase::Resolved));
        }
        let ids = ids(&recent);
        assert_eq!(ids.len(), MAX_RECENT);
        assert_eq!(ids[..4], [1, 2, 100, 491], "the other kind, the first, the longest, then the latest");
        assert_eq!(ids.last(), Some(&743));
        let few: Vec<u64> = recent.list(8).iter().map(|stall| stall.id).collect();
        assert_eq!(few, [1, 2, 100, 739, 740, 741, 742, 743], "also in a shorter list");
    }

    #[test]
    fn many_kinds_leave_room_for_the_latest() {
        let mut recent = RecentStalls::default();
        for id in 1..=2_000 {
            let mut record = record(id, 10, Cause::Cpu, Phase::Resolved);
            record.origin.route = RouteId::from_bits(id as u16);
            recent.push(record);
        }
        let ids = ids(&recent);
        assert_eq!((ids.len(), ids[0]), (MAX_RECENT, 2_001 - MAX_RECENT as u64));
    }

    #[test]
    fn ongoing_stalls_stay_and_are_updated() {
        let mut recent = RecentStalls::default();
        recent.push(record(1, 10, Cause::Cpu, Phase::Ongoing));
        for id in 2..=1_000 {
            recent.push(record(id, 10, Cause::Cpu, Phase::Resolved));
        }
        recent.replace(&record(1, 99, Cause::Lock, Phase::Ongoing));
        let list = recent.list(MAX_RECENT);
        assert_eq!((list.len(), list[0].id, list[0].elapsed), (MAX_RECENT, 1, Duration::from_millis(99)));
        (1_001..1_400).for_each(|id| recent.push(record(id, 10, Cause::Cpu, Phase::Ongoing)));
        assert_eq!(recent.list(MAX_RECENT).len(), MAX_RECENT, "however many are ongoing");
    }
}
