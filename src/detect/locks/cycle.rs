//! Deadlocks: threads that wait for locks of each other.

use std::collections::HashSet;

use pollwatch_stack::{Address, Holding, LockRef, LockSearch, Stack, Symbolizer, Tid, procfs};

use super::sightings::Sightings;
use super::snapshot::{self, GuardSnapshot, Holders};
use super::{futex, innermost};
use crate::measure::runtime::meter::Meter;
use crate::model::lock::{Deadlock, DeadlockedThread, LockWait};

/// The most threads of a deadlock.
const MAX_LENGTH: usize = 8;
/// The most deadlocks that are remembered as reported.
const MAX_REPORTED: usize = 64;

/// A thread that waits for a lock. It was given a CPU this often in its life: it has waited since
/// then if the number is the same later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct WaitingThread {
    tid: Tid,
    lock: Address,
    runs: u64,
}

/// A cycle of threads, in the order of their ids.
type CycleKey = Vec<WaitingThread>;

/// The cycles that were found.
#[derive(Debug, Default)]
pub(super) struct Cycles {
    seen: Sightings<CycleKey>,
    reported: HashSet<CycleKey>,
}

/// A cycle that a thread is part of.
pub(super) struct FoundCycle {
    /// True if the threads have waited unchanged since the cycle was first found.
    pub(super) is_confirmed: bool,
    /// The deadlock, the first time that it is confirmed.
    pub(super) new: Option<Deadlock>,
}

/// A thread of a cycle, with its stack.
struct Link {
    tid: Tid,
    lock: LockRef,
    stack: Stack,
}

impl Cycles {
    /// Returns the cycle that a thread is part of, which waits for a lock with this stack.
    pub(super) fn find(
        &mut self,
        meter: &Meter,
        snapshot: &GuardSnapshot,
        wait: LockWait,
        waited: LockRef,
        stack: &Stack,
    ) -> Option<FoundCycle> {
        let links = follow(snapshot, Link { tid: wait.tid, lock: waited, stack: stack.clone() })?;
        let mut key = Vec::new();
        for link in &links {
            key.push(WaitingThread { tid: link.tid, lock: link.lock.address, runs: procfs::ran(link.tid)?.times });
        }
        key.sort_unstable();
        let is_confirmed = self.seen.is_confirmed(key.clone());
        let is_new = is_confirmed && !self.reported.contains(&key);
        if is_new {
            if self.reported.len() >= MAX_REPORTED {
                self.reported.clear();
            }
            self.reported.insert(key);
        }
        Some(FoundCycle { is_confirmed, new: is_new.then(|| describe(meter, snapshot, &links)) })
    }
}

/// Follows the threads from one that waits to the holder of its lock, and so on, until it is the
/// first thread.
fn follow(snapshot: &GuardSnapshot, first: Link) -> Option<Vec<Link>> {
    let mut links = vec![first];
    loop {
        let latest = links.last()?;
        let Holders::One { tid, .. } = snapshot.holders(latest.lock) else { return None };
        if tid == links[0].tid {
            return Some(links);
        }
        // A cycle that does not contain the first thread is found by the stalls of its threads.
        if links.len() >= MAX_LENGTH || links.iter().any(|link| link.tid == tid) {
            return None;
        }
        let locks = snapshot.thread(tid)?.locks.as_ref()?;
        let futex = futex(locks.state())?;
        let stack = Symbolizer::shared().symbolize(locks.stack());
        let lock = LockSearch::waited_for(&stack, futex)?;
        links.push(Link { tid, lock, stack });
    }
}

fn describe(meter: &Meter, snapshot: &GuardSnapshot, links: &[Link]) -> Deadlock {
    let member = |index: usize| {
        let link = &links[index];
        let before = &links[(index + links.len() - 1) % links.len()];
        let known = snapshot::measured(meter, link.tid);
        let thread = snapshot.thread(link.tid);
        let holding = thread.and_then(|thread| thread.locks.as_ref()).map(|locks| locks.holds(before.lock));
        let frame = match holding {
            Some(Holding::Yes { frame }) => Some(frame),
            _ => None,
        };
        DeadlockedThread {
            name: snapshot::name(link.tid, known.as_deref()),
            tid: link.tid,
            site: known.as_deref().and_then(|thread| snapshot::site(meter, thread)),
            waits_for: link.lock.address,
            waits_at: innermost(&link.stack),
            holds_at: thread.and_then(|thread| thread.location(frame, Some(&link.stack))),
        }
    };
    Deadlock { threads: (0..links.len()).map(member).collect() }
}
