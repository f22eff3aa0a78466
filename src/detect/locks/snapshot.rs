//! The guards on the stacks of all threads at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pollwatch_stack::{Frame, Holding, LockRef, LockSearch, Stack, ThreadLocks, Tid, procfs};

use crate::detect::scan;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::site::Site;

/// The most threads that are searched.
const MAX_THREADS: usize = 256;
/// The time after which no further thread is searched.
const MAX_TIME: Duration = Duration::from_millis(50);
/// The number of attempts to read a thread that moves, and the pause between two of them.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_micros(200);
/// The names of pollwatch's threads that run no user code, as far as the kernel stores them.
const OWN_THREADS: [&str; 3] = ["pollwatch", "pollwatch-repor", "pollwatch-http"];

/// A thread, and the locks that it holds.
pub(super) struct SearchedThread {
    pub(super) tid: Tid,
    /// `None` if the stack could not be read.
    pub(super) locks: Option<ThreadLocks>,
}

/// The threads of the process.
pub(super) struct GuardSnapshot {
    taken: Instant,
    threads: Vec<SearchedThread>,
    /// False if there are threads that were not searched.
    is_complete: bool,
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holders {
    /// Exactly one thread.
    One {
        tid: Tid,
        /// True if the lock itself records the thread.
        is_recorded: bool,
    },
    /// No thread has a guard of the lock on its stack.
    None,
    Unknown,
}

impl SearchedThread {
    /// Searches the stack of a thread.
    pub(super) fn search(search: &mut LockSearch, tid: Tid, known: Option<&ThreadState>) -> SearchedThread {
        let bounds = known.and_then(|thread| thread.stack);
        for attempt in 1..=ATTEMPTS {
            if let Ok(locks) = search.thread(tid, bounds) {
                return SearchedThread { tid, locks: Some(locks) };
            }
            if attempt < ATTEMPTS {
                std::thread::sleep(PAUSE);
            }
        }
        SearchedThread { tid, locks: None }
    }

    /// Returns the function of a frame, or the innermost function of the user's part.
    pub(super) fn location(&self, frame: Option<usize>, stack: Option<&Stack>) -> Option<Frame> {
        let stack = stack?;
        let address = frame.and_then(|frame| self.locks.as_ref()?.stack().addresses().nth(frame));
        let of_frame = |frame: &&Frame| Some(frame.address) == address;
        let own = stack.frames().iter().filter(of_frame).find(|frame| !frame.library);
        own.or_else(|| stack.frames().iter().find(of_frame)).cloned().or_else(|| super::innermost(stack))
    }
}

impl GuardSnapshot {
    /// Searches the stacks of all threads but the calling one.
    pub(super) fn take(search: &mut LockSearch, meter: &Meter) -> GuardSnapshot {
        // Reading the symbols is no part of a search's time.
        LockSearch::preload();
        let taken = Instant::now();
        let mut snapshot = GuardSnapshot { taken, threads: Vec::new(), is_complete: true };
        let Some(tids) = procfs::threads() else {
            snapshot.is_complete = false;
            return snapshot;
        };
        let (own, measured) = (Tid::current(), meter.threads());
        snapshot.is_complete &= tids.len() <= MAX_THREADS;
        for tid in tids.into_iter().filter(|tid| Some(*tid) != own).take(MAX_THREADS) {
            if taken.elapsed() > MAX_TIME {
                snapshot.is_complete = false;
                break;
            }
            let known = measured.iter().find(|thread| thread.tid == Some(tid));
            let thread = SearchedThread::search(search, tid, known.map(|thread| &**thread));
            // A thread that has ended holds nothing any more.
            let has_ended = || tid.cpu_time().is_none();
            if thread.locks.is_some() || !(is_own(tid) || has_ended()) {
                snapshot.threads.push(thread);
            }
        }
        snapshot
    }

    pub(super) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    pub(super) fn thread(&self, tid: Tid) -> Option<&SearchedThread> {
        self.threads.iter().find(|thread| thread.tid == tid)
    }

    /// Returns who holds a lock.
    pub(super) fn holders(&self, lock: LockRef) -> Holders {
        if let Some(tid) = LockSearch::owner(lock) {
            return Holders::One { tid, is_recorded: true };
        }
        let holding = |thread: &SearchedThread| match &thread.locks {
            Some(locks) => locks.holds(lock),
            None => Holding::Unknown,
        };
        let mut is_known = self.is_complete;
        let mut holder = None;
        for thread in &self.threads {
            match holding(thread) {
                Holding::No => {}
                Holding::Yes { .. } if holder.is_some() => return Holders::Unknown,
                Holding::Yes { .. } => holder = Some(thread.tid),
                _ => is_known = false,
            }
        }
        match holder {
            Some(tid) => Holders::One { tid, is_recorded: false },
            None if is_known => Holders::None,
            None => Holders::Unknown,
        }
    }
}

/// Returns the state of a measured thread.
pub(super) fn measured(meter: &Meter, tid: Tid) -> Option<Arc<ThreadState>> {
    meter.threads().into_iter().find(|thread| thread.tid == Some(tid))
}

/// Returns the site of the task that a thread polls.
pub(super) fn site(meter: &Meter, thread: &ThreadState) -> Option<Site> {
    let reading = thread.slot.read()?;
    let (poll, _) = scan::polls_in(meter, thread, &reading).last()?;
    Some(meter.sites.get(poll.site))
}

/// Returns the name of a thread.
pub(super) fn name(tid: Tid, known: Option<&ThreadState>) -> Arc<str> {
    match known {
        Some(thread) => thread.name.clone(),
        None => procfs::name(tid).map_or_else(|| "?".into(), Arc::from),
    }
}

/// Returns whether a thread is one of pollwatch that runs no user code.
pub(super) fn is_own(tid: Tid) -> bool {
    OWN_THREADS.contains(&&*name(tid, None))
}
