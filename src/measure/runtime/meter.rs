//! The meter of one watchdog: the state that all measured threads share.

#[cfg(tokio_unstable)]
use std::collections::HashSet;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use crate::measure::counters::panics::Panics;
use crate::measure::counters::routes::RouteTotals;
use crate::measure::counters::sites::{CounterSums, SiteEvent};
use crate::measure::primitives::clock::{Clock, ClockChange};
use crate::measure::primitives::route::{RouteId, Routes};
use crate::measure::primitives::site::{SiteId, Sites};
#[cfg(tokio_unstable)]
use crate::measure::primitives::spawn_routes::SpawnRoutes;
use crate::measure::primitives::task_id::TaskBits;
#[cfg(tokio_unstable)]
use crate::measure::primitives::unpolled::LastPolls;
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::runtimes::Runtimes;
use crate::measure::thread::ThreadState;
use crate::model::id::{RuntimeId, ThreadNumber};
use crate::model::time::Nanos;
use crate::util::lock;

/// The number of threads that are measured at a time. Further ones are counted, and not measured.
pub(crate) const MAX_THREADS: usize = 4096;
/// The number of exited threads that are kept for the watchdog to drain their slow-poll rings.
const MAX_DEPARTED: usize = 256;
/// The number of reasons for allowed blocking that are distinguished.
const MAX_REASONS: usize = 64;
/// A poll whose delay is at least the threshold divided by this is passed to the watchdog.
const DELAY_DIVISOR: u64 = 4;

/// The settings that concern measuring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) threshold: Nanos,
    pub(crate) max_sites: usize,
    pub(crate) max_routes: usize,
    /// `true` if the delays of polls are tracked.
    pub(crate) track_delays: bool,
    /// `true` if the last poll of each task is tracked.
    #[cfg(tokio_unstable)]
    pub(crate) track_unpolled: bool,
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
    /// The delay from which a poll is passed to the watchdog; `None` where delays are not tracked.
    pub(crate) min_delay: Option<Nanos>,
    #[cfg(feature = "tower")]
    pub(crate) route_histograms: bool,
    pub(crate) sites: Sites,
    pub(crate) routes: Routes,
    /// The routes under which tasks were spawned.
    #[cfg(tokio_unstable)]
    pub(crate) spawn_routes: Arc<SpawnRoutes>,
    /// The last polls of tasks, where they are tracked.
    #[cfg(tokio_unstable)]
    pub(crate) last_polls: Option<Arc<LastPolls>>,
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
    /// Exited threads that have slow or delayed polls left in their rings.
    departed: Mutex<Vec<Arc<ThreadState>>>,
    /// The time of allowed blocking by reason.
    allowed: Mutex<BTreeMap<&'static str, Nanos>>,
    next_thread: AtomicU64,
    /// The number of threads that were not registered.
    refused: AtomicU64,
    /// The number of slow polls that exited threads have lost.
    lost: AtomicU64,
    /// The number of delayed polls that exited threads have lost.
    lost_delays: AtomicU64,
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
            track_delays: false,
            #[cfg(tokio_unstable)]
            track_unpolled: false,
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
            #[cfg(tokio_unstable)]
            last_polls: settings.track_unpolled.then(|| Arc::new(LastPolls::new(&clock))),
            clock,
            threshold: settings.threshold,
            max_sites: settings.max_sites,
            min_delay: settings.track_delays.then_some(settings.threshold / DELAY_DIVISOR),
            #[cfg(feature = "tower")]
            route_histograms: settings.route_histograms,
            sites: Sites::new(settings.max_sites, super::probe::FILE),
            routes: Routes::new(settings.max_routes),
            #[cfg(tokio_unstable)]
            spawn_routes: Arc::new(SpawnRoutes::new()),
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
            lost_delays: AtomicU64::new(0),
        })
    }

    /// Returns whether this is a forked child. It has only the thread that forked, and locks that
    /// other threads held then stay locked for ever.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// Makes the state of the calling thread; `None` when there are too many threads.
    pub(crate) fn register_thread(&self) -> Option<Arc<ThreadState>> {
        if lock(&self.threads).len() >= MAX_THREADS {
            return None;
        }
        // This reads files of the kernel, which the other threads must not wait for.
        self.list_thread(Arc::new(ThreadState::new(self, self.next_thread_number())))
    }

    /// Lists the state of the calling thread; `None` when there are too many threads.
    fn list_thread(&self, state: Arc<ThreadState>) -> Option<Arc<ThreadState>> {
        let mut threads = lock(&self.threads);
        if threads.len() >= MAX_THREADS {
            return None;
        }
        // The counter may have been replaced since the state was made.
        state.clock.follow();
        threads.push(state.clone());
        Some(state)
    }

    /// Returns a number that no thread has, measured or not.
    pub(crate) fn next_thread_number(&self) -> ThreadNumber {
        ThreadNumber(self.next_thread.fetch_add(1, Ordering::Relaxed))
    }

    /// Compares the clock's counter with the monotonic clock, and replaces it in all threads if it
    /// cannot be used any more; the watchdog thread.
    pub(crate) fn check_clock(&self) -> Option<ClockChange> {
        let change = self.clock.check()?;
        if let ClockChange::Replaced(_) = change {
            // A thread that is listed after this finds the clock changed.
            lock(&self.threads).iter().for_each(|thread| thread.clock.stop_counter());
        }
        Some(change)
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
        self.lost_delays.fetch_add(state.lost_delays(), Ordering::Relaxed);
        // Before it is removed from the list: a scan in between finds the thread twice rather than
        // not at all, and drains its ring once.
        if state.has_untaken_polls() {
            let mut departed = lock(&self.departed);
            if departed.len() < MAX_DEPARTED {
                departed.push(state.clone());
            } else {
                self.lost.fetch_add(state.slow_polls.len(), Ordering::Relaxed);
                self.lost_delays.fetch_add(state.untaken_delays(), Ordering::Relaxed);
            }
        }
        lock(&self.threads).retain(|t| t.id != state.id);
    }

    /// Counts the time of a scope of allowed blocking. Does nothing in a forked child, where the
    /// lock may stay locked for ever.
    pub(crate) fn count_allowed(&self, reason: &'static str, duration: Nanos) {
        if self.is_forked() {
            return;
        }
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

    /// Returns the route under which a task was spawned; `None` where it has ended, or where no
    /// hook has reported its spawn.
    pub(crate) fn spawn_route(&self, _task: TaskBits) -> Option<RouteId> {
        #[cfg(tokio_unstable)]
        return self.spawn_routes.find(_task);
        #[cfg(not(tokio_unstable))]
        None
    }

    /// Returns how many tasks were spawned within a request and their routes are not known, because
    /// there were too many at a time.
    pub(crate) fn spawn_routes_overflowed(&self) -> u64 {
        #[cfg(tokio_unstable)]
        return self.spawn_routes.overflowed();
        #[cfg(not(tokio_unstable))]
        0
    }

    /// Returns the threads that are registered now.
    pub(crate) fn threads(&self) -> Vec<Arc<ThreadState>> {
        lock(&self.threads).clone()
    }

    /// Returns whether a thread is in a poll of a runtime. One whose slot changes too fast to be
    /// read may be.
    pub(super) fn is_polling(&self, runtime: RuntimeId) -> bool {
        self.threads().iter().any(|thread| thread.slot.read().is_none_or(|slot| slot.has_poll_of(runtime)))
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

    /// Returns how many tasks were not added to the table of last polls.
    pub(crate) fn untracked_tasks(&self) -> u64 {
        #[cfg(tokio_unstable)]
        return self.last_polls.as_ref().map_or(0, |polls| polls.overflowed());
        #[cfg(not(tokio_unstable))]
        0
    }

    /// Returns, by runtime and site, how long the task that was polled least recently has waited
    /// for a poll. `None` where that is not tracked, or no longer known.
    pub(crate) fn unpolled(&self) -> Option<HashMap<(RuntimeId, SiteId), Nanos>> {
        #[cfg(tokio_unstable)]
        {
            // Earlier readings of a clock that was replaced mean nothing.
            let polls = self.last_polls.as_ref().filter(|_| self.clock.replaced().is_none())?;
            let mut unpolled: HashMap<_, Nanos> = HashMap::new();
            let threads = self.threads();
            let readings: Vec<_> = threads.iter().filter_map(|thread| thread.slot.read()).collect();
            let frames = readings.iter().flat_map(|reading| reading.frames());
            let polled_now: HashSet<u64> = frames.map(|frame| frame.task.0).collect();
            let now = self.clock.moment();
            polls.for_each(|task, poll| {
                if !polled_now.contains(&task.0) {
                    let longest = unpolled.entry((poll.runtime, poll.site)).or_default();
                    *longest = (*longest).max(now.saturating_sub(self.clock.nanos(poll.at)));
                }
            });
            Some(unpolled)
        }
        #[cfg(not(tokio_unstable))]
        None
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

    /// Returns how many delayed polls were dropped because a ring was full.
    pub(crate) fn lost_delays(&self) -> u64 {
        let _no_thread_exits = lock(&self.retired);
        self.lost_delays.load(Ordering::Relaxed) + self.threads().iter().map(|t| t.lost_delays()).sum::<u64>()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
