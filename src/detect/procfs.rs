//! Readings of `/proc`, in the units of detection, and what detection concludes from them.

use std::collections::HashSet;

pub(crate) use pollwatch_stack::procfs::{SyscallState, descriptor, ran, syscall};
use pollwatch_stack::{Tid, procfs};

use crate::sys;

/// A thread with less CPU time than this, in nanoseconds, is being started.
const STARTING: u64 = 1_000_000;
/// The most threads whose state is read one after the other.
const MAX_READ: usize = 512;

/// Returns how long a thread was ready to run without a CPU over its whole life, in nanoseconds.
pub(crate) fn run_delay(tid: Tid) -> Option<u64> {
    Some(procfs::run_delay(tid)?.as_nanos() as u64)
}

/// Returns whether a thread of the process other than those `known` is being started and lacks a CPU:
/// it could not register itself yet. True where that cannot be read.
pub(crate) fn is_one_starting(known: &HashSet<Tid>) -> bool {
    let Some(tids) = procfs::threads() else { return true };
    let own = Tid::current();
    let others: Vec<Tid> = tids.into_iter().filter(|tid| !known.contains(tid) && Some(*tid) != own).collect();
    let is_young = |tid| sys::thread_cpu_nanos(tid).is_some_and(|used| used < STARTING);
    others.len() > MAX_READ
        || others.into_iter().any(|tid| is_young(tid) && syscall(tid) == Some(SyscallState::Running))
}
