//! The check of the runtimes' pools for blocking work.
//!
//! The pools are read at most once in a quarter of the set time, while the watchdog is awake, and
//! before it falls asleep. While calls wait it stays awake for that. While a thread of a pool runs
//! a call, it wakes every 5 seconds, since a call that was queued outside of any poll wakes nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Watcher;
use super::observe::ScanResult;
use crate::detect::conditions::pool_watch::{PoolChange, PoolWatch};
use crate::measure::runtime::Runtime;
use crate::measure::runtime::blocking_pool::{self, PoolCounts};
use crate::model::condition::{BlockingPoolLoad, Condition, ConditionChange, ConditionKind};
use crate::model::id::{ConditionId, RuntimeId};
use crate::model::stall::Phase;
use crate::model::thread_dump::{ThreadDump, ThreadGroup, ThreadRole};
use crate::model::time::Nanos;

/// The longest time between two readings while calls wait.
const MAX_INTERVAL: Nanos = Nanos::from_millis(250);
/// The longest sleep while a thread of a pool runs a call.
const BUSY_SLEEP: Nanos = Nanos::from_secs(5);
/// The time for which the report waits for the stacks of the threads.
const STACKS_PATIENCE: Nanos = Nanos::from_secs(3);
/// The interval at which the threads of a full pool are read again.
const STACKS_INTERVAL: Nanos = Nanos::from_secs(10);
/// The most groups of threads that are kept of a full pool.
const MAX_GROUPS: usize = 16;

const REMEDY: &str = "find out why these calls take so long (their stacks), and bound how many start at a time (a Semaphore). Calls that \
     never return belong on threads of their own (std::thread). Builder::max_blocking_threads sets the size of the pool";

/// The pools of all runtimes.
#[derive(Debug, Default)]
pub(super) struct BlockingPools {
    by_runtime: HashMap<RuntimeId, WatchedPool>,
    /// The moment at which the next reading is due.
    next_reading: Nanos,
}

/// The pool of one runtime.
#[derive(Debug, Default)]
struct WatchedPool {
    watch: PoolWatch,
    is_busy: bool,
    full: Option<FullPool>,
}

/// A full pool.
#[derive(Debug)]
struct FullPool {
    id: ConditionId,
    condition: Condition,
    /// True once the condition was emitted. The first report waits for the threads' stacks.
    is_emitted: bool,
    /// The time of the request for a thread dump; `None` if none is wanted.
    requested: Option<Instant>,
    /// The moment at which the report no longer waits, or the threads are read again.
    due: Nanos,
}

impl FullPool {
    fn change(&self, runtime: RuntimeId, at: Nanos) -> ConditionChange {
        ConditionChange { id: self.id, runtime, at, condition: self.condition.clone() }
    }
}

impl Watcher {
    /// Reads the pools of all runtimes if that is due.
    pub(super) fn check_blocking_pools(&mut self, scan: &ScanResult) {
        if blocking_pool::PUBLISHED && self.pools_enabled() && scan.now >= self.blocking_pools.next_reading {
            self.blocking_pools.next_reading = scan.now + self.pool_interval();
            self.read_blocking_pools(scan.now);
        }
    }

    /// Reads the pools before the watchdog falls asleep. Returns the longest time that it may
    /// sleep: no limit if no thread of a pool is busy.
    pub(super) fn check_blocking_pools_before_sleep(&mut self, scan: &ScanResult) -> Option<Nanos> {
        if !blocking_pool::PUBLISHED || !self.pools_enabled() {
            return None;
        }
        self.read_blocking_pools(scan.now);
        let limit = |pool: &WatchedPool| match (pool.watch.is_open(), pool.is_busy) {
            (true, _) => Some(self.pool_interval()),
            (false, true) => Some(BUSY_SLEEP),
            (false, false) => None,
        };
        self.blocking_pools.by_runtime.values().filter_map(limit).min()
    }

    /// Returns the moment of the next reading, if one is due because calls wait.
    pub(super) fn next_pool_reading(&self) -> Option<Nanos> {
        let is_open = self.blocking_pools.by_runtime.values().any(|pool| pool.watch.is_open());
        is_open.then_some(self.blocking_pools.next_reading)
    }

    fn pools_enabled(&self) -> bool {
        self.settings.blocking_pool_full_after < Nanos::MAX
    }

    fn pool_interval(&self) -> Nanos {
        (self.settings.blocking_pool_full_after / 4).min(MAX_INTERVAL)
    }

    fn read_blocking_pools(&mut self, now: Nanos) {
        for runtime in self.meter.runtimes.all().iter().filter(|runtime| runtime.id != RuntimeId::OTHER) {
            let after = self.settings.blocking_pool_full_after;
            let counts = runtime.metrics().and_then(|metrics| PoolCounts::of(&metrics));
            let pool = self.blocking_pools.by_runtime.entry(runtime.id).or_default();
            pool.is_busy = counts.is_some_and(PoolCounts::is_busy);
            let change = match counts {
                Some(counts) => pool.watch.step(now, counts, after, &self.pauses),
                None => pool.watch.end(),
            };
            if let Some(change) = change {
                self.handle_pool_change(now, runtime, change, counts);
            }
        }
    }

    fn handle_pool_change(&mut self, now: Nanos, runtime: &Runtime, change: PoolChange, counts: Option<PoolCounts>) {
        let load = counts.map(|counts| BlockingPoolLoad {
            threads: counts.threads,
            waiting: counts.queued,
            groups: Vec::new(),
            longest_wait_at_least: None,
        });
        match change {
            PoolChange::Started { duration } => {
                let id = self.drivers.next_condition();
                let condition = Condition {
                    kind: ConditionKind::BlockingPoolFull,
                    phase: Phase::Ongoing,
                    runtime: runtime.name.clone(),
                    started_at: SystemTime::now().checked_sub(duration.to_duration()).unwrap_or(SystemTime::UNIX_EPOCH),
                    duration: duration.to_duration(),
                    stall: None,
                    stall_summary: None,
                    rescues: 0,
                    blocking_pool: load,
                    remedy: REMEDY,
                };
                let (requested, due) = (Some(Instant::now()), now + STACKS_PATIENCE);
                let full = FullPool { id, condition, is_emitted: false, requested, due };
                self.blocking_pools.by_runtime.entry(runtime.id).or_default().full = Some(full);
                self.update_full_pool(now, runtime);
            }
            PoolChange::Ongoing { duration } => {
                if let Some(full) = self.blocking_pools.full(runtime.id) {
                    full.condition.duration = duration.to_duration();
                    if let (Some(known), Some(load)) = (&mut full.condition.blocking_pool, load) {
                        (known.threads, known.waiting) = (load.threads, load.waiting);
                    }
                }
                self.update_full_pool(now, runtime);
            }
            PoolChange::Ended { duration } => {
                let Some(pool) = self.blocking_pools.by_runtime.get_mut(&runtime.id) else { return };
                let Some(mut full) = pool.full.take() else { return };
                full.condition.duration = duration.to_duration();
                if !full.is_emitted {
                    self.emitter.emit_condition(full.change(runtime.id, now));
                }
                full.condition.phase = Phase::Resolved;
                self.emitter.emit_condition(full.change(runtime.id, now));
            }
        }
    }

    /// Adds the threads of a full pool once they were read, and emits the condition.
    fn update_full_pool(&mut self, now: Nanos, runtime: &Runtime) {
        let Some(full) = self.blocking_pools.full(runtime.id) else { return };
        if full.requested.is_none() && now >= full.due {
            full.requested = Some(Instant::now());
        }
        if let Some(requested) = full.requested {
            let dump = self.settings.thread_dumps.poll(requested);
            if let (Some(dump), Some(load)) = (&dump, &mut full.condition.blocking_pool) {
                load.groups = pool_groups(dump, &runtime.name, load.threads);
                load.longest_wait_at_least = load.groups.iter().filter_map(|group| group.waits_at_least).max();
            }
            if dump.is_none() && !full.is_emitted && now < full.due {
                return;
            }
            if dump.is_some() {
                (full.requested, full.due) = (None, now + STACKS_INTERVAL);
            }
        }
        full.is_emitted = true;
        let change = full.change(runtime.id, now);
        self.emitter.emit_condition(change);
    }
}

impl BlockingPools {
    fn full(&mut self, runtime: RuntimeId) -> Option<&mut FullPool> {
        self.by_runtime.get_mut(&runtime)?.full.as_mut()
    }
}

/// Returns the groups of threads that are busy in the pool of a runtime, which has so many threads.
/// Those whose runtime is not known may be in any pool: they count if the others are fewer.
fn pool_groups(dump: &ThreadDump, name: &Arc<str>, threads: usize) -> Vec<ThreadGroup> {
    let of_pool = |is_it: fn(Option<&Arc<str>>, &Arc<str>) -> bool| {
        let is_of_pool = move |group: &&ThreadGroup| match &group.role {
            ThreadRole::BlockingPool { runtime } => !group.is_idle && is_it(runtime.as_ref(), name),
            _ => false,
        };
        dump.groups.iter().filter(is_of_pool)
    };
    let is_known = |runtime: Option<&Arc<str>>, name: &Arc<str>| runtime == Some(name);
    if of_pool(is_known).map(|group| group.count).sum::<usize>() >= threads {
        return of_pool(is_known).take(MAX_GROUPS).cloned().collect();
    }
    of_pool(|runtime, name| runtime.is_none_or(|known| known == name)).take(MAX_GROUPS).cloned().collect()
}
