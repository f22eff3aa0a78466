//! The search for the holders of locks that blocked threads wait for, and for deadlocks.
//!
//! It runs on the thread that symbolizes stacks, when a stack of a thread that waits for a lock has
//! been symbolized. A [snapshot](GuardSnapshot) of the guards on all threads' stacks is taken, and
//! who holds the lock follows from it. What is said about a thread was confirmed by searching it a
//! second time. That no running code holds a lock, and that threads are in a deadlock, is said once
//! two searches with some time in between have found it.

mod cycle;
mod pool;
mod sightings;
mod snapshot;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch_stack::{Frame, Holding, LockRef, LockSearch, Stack, Symbolizer, Tid, procfs};

use super::poll_entry::is_poll_entry;
use super::syscalls::is_futex;
use crate::measure::runtime::meter::Meter;
use crate::model::cause::Cause;
use crate::model::lock::{Holder, HolderThread, LockFindings, LockInfo, LockInspector, LockWait};
use crate::model::pool::PoolActivity;
use crate::util::lock;
use crate::util::token_bucket::{RateLimit, TokenBucket};
use cycle::Cycles;
use sightings::Sightings;
use snapshot::{GuardSnapshot, Holders, SearchedThread};

/// The limit of searches: a flood of stalls must not keep stacks from being symbolized.
const SEARCHES: RateLimit = RateLimit { burst: 8, interval: Duration::from_millis(250) };
/// The age up to which a snapshot is used for the locks of other threads, too.
const MAX_AGE: Duration = Duration::from_millis(20);

/// Finds the holders of locks.
pub(crate) struct LockFinder {
    meter: Arc<Meter>,
    state: Mutex<FinderState>,
    has_reported_problem: AtomicBool,
}

struct FinderState {
    started: Instant,
    search: LockSearch,
    limit: TokenBucket,
    latest: Option<GuardSnapshot>,
    /// The waits for locks that no running code holds. The number of the thread's runs
    /// separates one uninterrupted wait from two.
    unheld: Sightings<(Tid, LockRef, u64)>,
    cycles: Cycles,
}

impl fmt::Debug for LockFinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockFinder").finish_non_exhaustive()
    }
}

impl LockFinder {
    pub(crate) fn new(meter: Arc<Meter>) -> LockFinder {
        let state = FinderState {
            started: Instant::now(),
            search: LockSearch::new().with_boundary(is_poll_entry),
            limit: TokenBucket::new(SEARCHES, Duration::ZERO),
            latest: None,
            unheld: Sightings::default(),
            cycles: Cycles::default(),
        };
        LockFinder { meter, state: Mutex::new(state), has_reported_problem: AtomicBool::new(false) }
    }
}

impl LockInspector for LockFinder {
    fn inspect(&self, wait: LockWait, stack: &Stack) -> Option<LockFindings> {
        let waited = LockSearch::waited_for(stack, wait.futex)?;
        let is_unchanged = || still_waits(wait) && LockSearch::is_held(waited) == Some(true);
        if !is_unchanged() {
            return None;
        }
        let mut state = lock(&self.state);
        let state = &mut *state;
        let snapshot = state.snapshot(&self.meter)?;
        let found = snapshot.holders(waited);
        let confirmed = match found {
            Holders::One { tid, .. } => state.confirm(&self.meter, tid, waited),
            _ => None,
        };
        if found != Holders::None {
            state.unheld.forget(|(tid, lock, _)| (*tid, *lock) == (wait.tid, waited));
        }
        if !is_unchanged() {
            return None;
        }
        let mut deadlock = None;
        let mut is_deadlock = false;
        let runs = procfs::ran(wait.tid).map_or(0, |ran| ran.times);
        let holder = match (found, confirmed) {
            (Holders::None, _) => match state.unheld.is_confirmed((wait.tid, waited, runs)) {
                true => Holder::NoRunningCode,
                false => Holder::Unknown,
            },
            (Holders::One { is_recorded, .. }, Some(holder)) => {
                let cycle = state.cycles.find(&self.meter, &snapshot, wait, waited, stack);
                (is_deadlock, deadlock) = cycle.map_or((false, None), |found| (found.is_confirmed, found.new));
                let is_waiting_itself = holder.tid == wait.tid;
                Holder::Thread(Box::new(HolderThread { is_waiting_itself, is_recorded, ..holder }))
            }
            _ => Holder::Unknown,
        };
        state.latest = Some(snapshot);
        Some(LockFindings { lock: LockInfo { address: waited.address, holder, is_deadlock }, deadlock })
    }

    fn inspect_pool(&self, wait: LockWait, stack: &Stack) -> Option<PoolActivity> {
        if !pool::is_waited_for(stack) || !still_waits(wait) {
            return None;
        }
        let mut state = lock(&self.state);
        let state = &mut *state;
        let now = state.started.elapsed();
        if !state.limit.take_above(0, now) {
            return None;
        }
        pool::activity(&mut state.search, &self.meter, wait.tid).filter(|_| still_waits(wait))
    }

    fn take_problem(&self) -> Option<&'static str> {
        LockSearch::unavailable().filter(|_| !self.has_reported_problem.swap(true, Ordering::Relaxed))
    }
}

impl FinderState {
    /// Returns a snapshot of all threads, which may be one that was just taken. `None` if too many
    /// were.
    fn snapshot(&mut self, meter: &Meter) -> Option<GuardSnapshot> {
        if let Some(latest) = self.latest.take()
            && latest.age() <= MAX_AGE
        {
            return Some(latest);
        }
        let now = self.started.elapsed();
        self.limit.take_above(0, now).then(|| GuardSnapshot::take(&mut self.search, meter))
    }

    /// Searches a thread once more. Returns it if it holds the lock.
    fn confirm(&mut self, meter: &Meter, tid: Tid, lock: LockRef) -> Option<HolderThread> {
        let known = snapshot::measured(meter, tid);
        let thread = SearchedThread::search(&mut self.search, tid, known.as_deref());
        let frame = match thread.locks.as_ref().map(|locks| locks.holds(lock)) {
            Some(Holding::Yes { frame }) => Some(frame),
            _ if LockSearch::owner(lock) == Some(tid) => None,
            _ => return None,
        };
        let stack = thread.locks.as_ref().map(|locks| Symbolizer::shared().symbolize(locks.stack()));
        let location = thread.location(frame, stack.as_ref());
        let site = known.as_deref().and_then(|thread| snapshot::site(meter, thread));
        Some(HolderThread {
            name: snapshot::name(tid, known.as_deref()),
            tid,
            is_waiting_itself: false,
            is_recorded: false,
            site,
            location,
            stack,
        })
    }
}

/// Returns why holders of locks are not found; `None` if they are.
pub(crate) fn unavailable(capture_stacks: bool) -> Option<&'static str> {
    if capture_stacks { LockSearch::unavailable() } else { Some("stacks are switched off (capture_stacks)") }
}

/// Returns the futex in which a thread waits for a lock, by the findings about it.
pub(super) fn wait(tid: Option<Tid>, cause: Cause, state: Option<procfs::SyscallState>) -> Option<LockWait> {
    let futex = futex(state).filter(|_| cause == Cause::Lock)?;
    Some(LockWait { tid: tid?, futex })
}

/// Returns whether a thread waits in the same futex as before.
fn still_waits(wait: LockWait) -> bool {
    futex(procfs::syscall(wait.tid)) == Some(wait.futex)
}

/// Returns the futex that a thread waits in.
fn futex(state: Option<procfs::SyscallState>) -> Option<pollwatch_stack::Address> {
    match state? {
        procfs::SyscallState::Waiting { call: Some(call), .. } if is_futex(call.number) => {
            Some(pollwatch_stack::Address::new(call.first_argument))
        }
        _ => None,
    }
}

/// Returns the innermost function of the user's part of a stack.
fn innermost(stack: &Stack) -> Option<Frame> {
    stack.user_frames().first().cloned()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Elsewhere no holder is found, and the coverage says so.
    #[test]
    fn holders_are_searched_for_on_x86_64_only() {
        let is_here = cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"));
        assert_eq!(unavailable(true).is_none(), is_here, "{:?}", unavailable(true));
        assert!(is_here || unavailable(true).is_some_and(|why| why.contains("only on Linux with glibc, on x86_64")));
        assert!(unavailable(false).is_some_and(|why| why.contains("capture_stacks")));
    }
}
