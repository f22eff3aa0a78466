//! Readings of `/proc` and of CPU clocks in the units of detection, and what follows from them.

use std::collections::HashSet;

pub(crate) use pollwatch_stack::procfs::{SyscallState, descriptor, ran, syscall};
use pollwatch_stack::{Tid, procfs};

use crate::model::time::Nanos;
use crate::sys;

/// A thread that has used less CPU time than this is being started.
const STARTING: Nanos = Nanos::from_millis(1);
/// The largest number of threads whose states are read one after the other.
const MAX_READS: usize = 512;

/// Returns how long a thread was ready to run without a CPU, over its whole life.
pub(crate) fn run_delay(tid: Tid) -> Option<Nanos> {
    procfs::run_delay(tid).map(Nanos::from)
}

/// Returns the CPU time that a thread has used over its whole life.
pub(crate) fn cpu_time(tid: Tid) -> Option<Nanos> {
    sys::thread_cpu_nanos(tid).map(Nanos)
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
