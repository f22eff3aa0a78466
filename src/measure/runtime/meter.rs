//! The meter of one watchdog: the state that all measured threads share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use crate::measure::counters::panics::Panics;
use crate::measure::counters::routes::RouteTotals;
use crate::measure::counters::sites::{CounterSums, SiteEvent};
use crate::measure::primitives::clock::Clock;
use crate::measure::primitives::route::{RouteId, Routes};
use crate::measure::primitives::site::{SiteId, Sites};
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::Runtimes;
use crate::measure::thread::ThreadState;
use crate::model::id::{RuntimeId, ThreadNumber};
use crate::model::time::Nanos;
use crate::util::lock;

/// The number of threads that are measured at a time. Further ones are counted, and not measured.
const MAX_THREADS: usize = 4096;
/// The number of exited threads that are kept for the watchdog to drain their slow-poll rings.
const MAX_DEPARTED: usize = 256;
/// The number of reasons for allowed blocking that are distinguished.
const MAX_REASONS: usize = 64;

/// The settings that concern measuring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) threshold: Nanos,
    pub(crate) max_sites: usize,
    pub(crate) max_routes: usize,
    /// `true` if the polls of each route have a histogram.
    #[cfg(feature = "tower")]
    pub(crate) route_histograms: bool,
}

/// The shared state of measuring. Hooks, futures and layers hold it, and nothing of the layers
/// above.
pub(crate) struct Meter {
    pub(crate) id: u64,
    /// The process in which it was made.
    process: u32,
    pub(crate) clock: Clock,
    /// The duration from which a poll is a stall.
    pub(crate) threshold: Nanos,
    pub(crate) max_sites: usize,
    #[cfg(feature = "tower")]
    pub(crate) route_histograms: bool,
    pub(crate) sites: Sites,
    pub(crate) routes: Routes,
    pub(crate) runtimes: Runtimes,
    /// The number of [`Lag`](crate::Lag)s of all runtimes; clones count as one.
    pub(crate) lag_holders: AtomicU32,
    pub(crate) wake: Arc<Wake>,
    /// The number of panics in hooks and callbacks of the user's.
    pub(crate) hook_panics: AtomicU64,
    /// The panics of tasks that the watchdog has not taken yet.
    pub(crate) panics: Panics,
    threads: Mutex<Vec<Arc<ThreadState>>>,
    /// The counters of exited threads. Locked before `threads` where both are.
    retired: Mutex<RetiredCounters>,
    /// Exited threads that have slow polls left in their rings.
    departed: Mutex<Vec<Arc<ThreadState>>>,
    /// The time of allowed blocking by reason.
    allowed: Mutex<BTreeMap<&'static str, Nanos>>,
    next_thread: AtomicU64,
    /// The number of threads that were not registered.
    refused: AtomicU64,
    /// The number of slow polls that exited threads have lost.
    lost: AtomicU64,
}

/// The summed counters of exited threads.
#[derive(Default)]
struct RetiredCounters {
    sites: CounterSums,
    routes: HashMap<RouteId, RouteTotals>,
}

impl Meter {
    /// Makes a meter with what most tests set.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(crate) fn of(threshold: Nanos, max_sites: usize) -> Arc<Meter> {
        Meter::new(Settings {
            threshold,
            max_sites,
            max_routes: 10,
            #[cfg(feature = "tower")]
            route_histograms: false,
        })
    }

    pub(crate) fn new(settings: Settings) -> Arc<Meter> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let clock = Clock::new();
        Arc::new(Meter {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            process: std::process::id(),
            wake: Arc::new(Wake::new(clock.clone())),
            clock,
            threshold: settings.threshold,
            max_sites: settings.max_sites,
            #[cfg(feature = "tower")]
            route_histograms: settings.route_histograms,
            sites: Sites::new(settings.max_sites, super::probe::FILE),
            routes: Routes::new(settings.max_routes),
            runtimes: Runtimes::default(),
            lag_holders: AtomicU32::new(0),
            hook_panics: AtomicU64::new(0),
            panics: Panics::default(),
            threads: Mutex::default(),
            retired: Mutex::default(),
            departed: Mutex::default(),
            allowed: Mutex::default(),
            next_thread: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// Returns whether this is a forked child. It has only the thread that forked, and locks that
    /// other threads held then stay locked for ever.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// Makes the state of the calling thread; `None` when there are too many threads.
    pub(crate) fn register_thread(&self) -> Option<Arc<ThreadState>> {
        let mut threads = lock(&self.threads);
        if threads.len() >= MAX_THREADS {
            return None;
        }
        let state = Arc::new(ThreadState::new(self, ThreadNumber(self.next_thread.fetch_add(1, Ordering::Relaxed))));
        threads.push(state.clone());
        Some(state)
    }

    /// Counts a thread that was not registered.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the counters of an exiting thread, which calls this, to the retired ones. Does nothing
    /// in a forked child, where nobody reads them.
    pub(crate) fn retire_thread(&self, state: &Arc<ThreadState>) {
        if self.is_forked() {
            return;
        }
        let mut retired = lock(&self.retired);
        state.counters.add_to(&mut retired.sites);
        state.routes.add_to(&mut retired.routes);
        self.lost.fetch_add(state.slow_polls.lost(), Ordering::Relaxed);
        // Before it is removed from the list: a scan in between finds the thread twice rather than
        // not at all, and drains its ring once.
        if !state.slow_polls.is_empty() {
            let mut departed = lock(&self.departed);
            if departed.len() < MAX_DEPARTED {
                departed.push(state.clone());
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        lock(&self.threads).retain(|t| t.id != state.id);
    }

    /// Counts the time of a scope of allowed blocking.
    pub(crate) fn count_allowed(&self, reason: &'static str, duration: Nanos) {
        let mut allowed = lock(&self.allowed);
        let known = allowed.contains_key(reason) || allowed.len() < MAX_REASONS;
        *allowed.entry(if known { reason } else { "other" }).or_default() += duration;
    }

    /// Returns the time of allowed blocking by reason.
    pub(crate) fn allowed(&self) -> BTreeMap<&'static str, Nanos> {
        lock(&self.allowed).clone()
    }

    /// Returns whether anyone reads the lag of some runtime.
    pub(crate) fn has_lag_holders(&self) -> bool {
        self.lag_holders.load(Ordering::Relaxed) > 0
    }

    /// Returns the threads that are registered now.
    pub(crate) fn threads(&self) -> Vec<Arc<ThreadState>> {
        lock(&self.threads).clone()
    }

    /// Takes the exited threads that have slow polls left in their rings.
    pub(crate) fn take_departed(&self) -> Vec<Arc<ThreadState>> {
        std::mem::take(&mut *lock(&self.departed))
    }

    /// Returns the sum of all counters by site. A thread that exits meanwhile waits for the lock,
    /// so that it is counted once.
    pub(crate) fn sum(&self) -> CounterSums {
        let retired = lock(&self.retired);
        let mut sum = retired.sites.clone();
        for thread in self.threads() {
            thread.counters.add_to(&mut sum);
        }
        sum
    }

    /// Returns the sum of all counters by route, like [`sum`](Self::sum).
    pub(crate) fn sum_of_routes(&self) -> HashMap<RouteId, RouteTotals> {
        let retired = lock(&self.retired);
        let mut sum = retired.routes.clone();
        for thread in self.threads() {
            thread.routes.add_to(&mut sum);
        }
        sum
    }

    /// Returns how many tasks are alive, by runtime and site. There is no entry where none was
    /// spawned, and none for `other`, where not every end is known. The number is never too high:
    /// spawns are read before ends.
    pub(crate) fn alive(&self) -> HashMap<(RuntimeId, SiteId), u64> {
        // An exiting thread waits for this lock, so that none is missed or counted twice.
        let retired = lock(&self.retired);
        let retired_of = |event| retired.sites.sites.iter().map(move |(key, totals)| (*key, totals.event(event)));
        let mut alive: HashMap<_, u64> = retired_of(SiteEvent::Spawned).filter(|(_, n)| *n > 0).collect();
        for thread in self.threads() {
            thread.counters.for_each_event(SiteEvent::Spawned, |key, n| *alive.entry(key).or_default() += n);
        }
        fence(Ordering::Acquire);
        let mut end = |key, n| {
            if let Some(alive) = alive.get_mut(&key) {
                *alive = alive.saturating_sub(n);
            }
        };
        retired_of(SiteEvent::Terminated).for_each(|(key, n)| end(key, n));
        for thread in self.threads() {
            thread.counters.for_each_event(SiteEvent::Terminated, &mut end);
        }
        alive.retain(|(_, site), _| *site != SiteId::OTHER);
        alive
    }

    /// Returns how many threads were not measured because there were too many.
    pub(crate) fn refused_threads(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns how many slow polls were dropped because a ring was full.
    pub(crate) fn lost_polls(&self) -> u64 {
        let _no_thread_exits = lock(&self.retired);
        self.lost.load(Ordering::Relaxed) + self.threads().iter().map(|t| t.slow_polls.lost()).sum::<u64>()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_forked_child_takes_no_lock() {
        let meter = Meter::of(Nanos(1), 10);
        let thread = meter.register_thread().unwrap();
        let held = lock(&meter.retired);
        assert!(!meter.is_forked());
        let ended = crate::util::in_a_fork(|| {
            meter.retire_thread(&thread);
            meter.is_forked()
        });
        assert_eq!(ended, Some(true));
        drop(held);
    }

    #[test]
    fn what_is_alive_is_summed_over_threads() {
        let meter = Meter::of(Nanos(1), 10);
        let count = |site, events: &[(SiteEvent, u64)], exits: bool| {
            let thread = meter.register_thread().unwrap();
            let index = thread.counters.create(RuntimeId(1), site).unwrap();
            for (event, n) in events {
                (0..*n).for_each(|_| thread.counters.get(index).unwrap().event(*event));
            }
            if exits {
                meter.retire_thread(&thread);
            }
        };
        count(SiteId(1), &[(SiteEvent::Spawned, 5)], false);
        count(SiteId(1), &[(SiteEvent::Spawned, 2), (SiteEvent::Terminated, 3)], true);
        count(SiteId(1), &[(SiteEvent::Terminated, 1)], false);
        count(SiteId(2), &[(SiteEvent::Terminated, 4), (SiteEvent::Panicked, 1)], false);
        count(SiteId::OTHER, &[(SiteEvent::Spawned, 9)], false);
        assert_eq!(meter.alive(), HashMap::from([((RuntimeId(1), SiteId(1)), 3)]));
        count(SiteId(1), &[(SiteEvent::Terminated, 9)], true);
        assert_eq!(meter.alive()[&(RuntimeId(1), SiteId(1))], 0, "never less than none");
    }
}
