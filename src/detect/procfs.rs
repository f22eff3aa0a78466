//! Readings of `/proc` and of CPU clocks in the units of detection, and what follows from them.

use std::collections::HashSet;
use std::sync::Arc;

use pollwatch_stack::procfs::ProcessFolder;
pub(crate) use pollwatch_stack::procfs::{SyscallState, ran, syscall};
use pollwatch_stack::{Tid, procfs};

use super::time_account::ThreadTimes;
use crate::model::time::Nanos;
use crate::sys;

/// A thread that has used less CPU time than this is being started.
const STARTING: Nanos = Nanos::from_millis(1);
/// The largest number of threads whose states are read one after the other.
const MAX_READS: usize = 512;

/// Returns how long a thread was ready to run without a CPU, over its whole life.
pub(crate) fn run_delay(tid: Tid) -> Option<Nanos> {
    ran(tid).map(|ran| Nanos::from(ran.run_delay))
}

/// Returns the CPU time that a thread has used over its whole life.
pub(crate) fn cpu_time(tid: Tid) -> Option<Nanos> {
    sys::thread_cpu_nanos(tid).map(Nanos)
}

/// A reading of a thread: what the kernel counts for it, and its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadReading {
    pub(crate) times: ThreadTimes,
    pub(crate) state: Option<SyscallState>,
}

/// Reads a thread; `None` when it has ended. `now` returns the current moment. Takes some 10 µs.
pub(crate) fn reading(tid: Tid, now: impl Fn() -> Nanos) -> Option<ThreadReading> {
    let times = times(tid, now)?;
    let state = syscall(tid);
    let is_runnable = state == Some(SyscallState::Running);
    Some(ThreadReading { times: ThreadTimes { is_runnable, ..times }, state })
}

/// A reading in which the watchdog thread was interrupted for longer than this is repeated, since
/// its amounts are of different moments.
const MAX_READING_TIME: Nanos = Nanos::from_micros(200);
/// The number of times that a reading is tried.
const READING_ATTEMPTS: u32 = 4;

/// Returns what the kernel counts for a thread; `None` when the thread has ended. `now` returns the
/// current moment. The state of the thread is not read: it counts as not ready to run.
pub(crate) fn times(tid: Tid, now: impl Fn() -> Nanos) -> Option<ThreadTimes> {
    let mut attempt = 1;
    loop {
        let start = now();
        let (ran, cpu) = (ran(tid), cpu_time(tid)?);
        let at = now();
        if at.saturating_sub(start) <= MAX_READING_TIME || attempt == READING_ATTEMPTS {
            let run_delay = ran.map(|ran| Nanos::from(ran.run_delay));
            return Some(ThreadTimes { at, cpu, run_delay, runs: ran.map_or(0, |ran| ran.times), is_runnable: false });
        }
        attempt += 1;
    }
}

/// A file descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// What it refers to: a path, `socket:[1234]`, `pipe:[1234]`.
    pub(crate) target: Arc<str>,
    /// Calls do not wait for the other side.
    pub(crate) is_nonblocking: bool,
}

impl Descriptor {
    /// Reads a descriptor; `None` where that is not permitted, or it has been closed.
    pub(crate) fn read(folder: ProcessFolder, fd: u64) -> Option<Descriptor> {
        let target = folder.descriptor(fd)?.into();
        Some(Descriptor { target, is_nonblocking: folder.is_nonblocking(fd).unwrap_or(false) })
    }
}

/// Returns whether a thread of the process other than those `known` is being started and lacks a
/// CPU: it could not register itself yet. True where that cannot be read.
pub(crate) fn is_one_starting(known: &HashSet<Tid>) -> bool {
    let Some(tids) = procfs::threads() else { return true };
    let own = Tid::current();
    let others: Vec<Tid> = tids.into_iter().filter(|tid| !known.contains(tid) && Some(*tid) != own).collect();
    let is_young = |tid| cpu_time(tid).is_some_and(|used| used < STARTING);
    others.len() > MAX_READS
        || others.into_iter().any(|tid| is_young(tid) && syscall(tid) == Some(SyscallState::Running))
}
