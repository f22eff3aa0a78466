//! The proof that a thread drives a worker.
//!
//! The thread that published a worker last is taken as its driver. That is wrong while a task is in
//! `block_in_place`, or in the rest of a poll that was: tokio then hands the worker on to another
//! thread of the pool, which publishes nothing before its first park. So the proof counts. There
//! are as many cores (the schedulers' states) as workers, and a thread has one at most. If there
//! are no more threads that may have a core than cores, each of them has one.
//!
//! A thread of the pool has no core in any of these cases:
//!
//! - Its stack is complete, and shows no worker's loop.
//! - Its stack shows `block_in_place` within the loop: it has given its core away.
//! - It waits, and its stack is too shallow to run a worker. The stack of a driver holds the
//!   worker's loop and, in that, what it polls. A parked worker's stack shows how deep the loop is.
//! - Where its stack cannot be read: it has not run since before the earliest unpark of the workers
//!   that have not parked. A worker that was parked cannot have been handed on. This needs CPU
//!   times from earlier scans. Such a thread may still have a core that no thread has published.
//!
//! The first two need the functions of tokio ([`functions`](super::functions)), and are used only
//! after some stack has shown the loop.
//!
//! A worker whose own thread shows `block_in_place` is blocked only if no thread has taken it over:
//! no other thread may be in a loop, except in that of a worker that is parked.
//!
//! The readings are made one after the other. They hold at one moment if none of the threads that
//! wait has run meanwhile, and if those that run show the same before and after all others were
//! read. A core that no thread has taken yet is excluded as well: no thread is about to run in the
//! pool, or is being started.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pollwatch_stack::{Address, Tid};

use super::functions::{FunctionRole, StackRole, TokioFunctions};
use super::observation::EntryId;
use super::workers::{PoolScan, WorkerThread, Workers, by_role, id};
use crate::detect::examine::Examiner;
use crate::detect::procfs::{self, SyscallState};
use crate::measure::runtime::worker_threads::ThreadEntry;
use crate::model::time::Nanos;

/// The number of threads of a pool, beside its workers, that are read in a scan. With more of them
/// no driver is confirmed.
pub(super) const MAX_OTHERS: usize = 64;
/// The number of running threads of a pool whose stacks are captured for one proof. Each gets two
/// signals.
const MAX_RUNNING: usize = 4;

/// The stack roles of threads that wait, each with the CPU time that its thread had used then. A
/// role is valid until the thread runs.
#[derive(Debug, Default)]
pub(super) struct StackRoles {
    known: HashMap<EntryId, (Nanos, StackRole)>,
    /// True once a stack has shown the loop of a worker. Until then the compiler may have inlined
    /// all functions by which it is recognised.
    loop_was_visible: bool,
}

/// A thread that is not the last publisher of a worker, as the proof takes it.
enum OtherThread {
    /// The thread waits and has no core until it has used more CPU time than this.
    WaitsWithoutCore(Nanos),
    /// The thread runs in a closure of `spawn_blocking`, or in `block_in_place`.
    RunsWithoutCore,
    /// The thread may have a core.
    InLoop,
    /// The thread has none of the cores that a thread has published. It has used this CPU time.
    UnreadSince(Nanos),
}

impl StackRoles {
    /// Records that a stack was captured, and whether it shows a worker's loop.
    pub(super) fn observe(&mut self, outermost_first: &[Address]) {
        let functions = TokioFunctions::of_executable();
        self.loop_was_visible |= functions.contains(outermost_first, FunctionRole::WorkerLoop);
    }

    /// Drops what is known of threads that are gone.
    pub(super) fn retain(&mut self, is_listed: impl Fn(EntryId) -> bool) {
        self.known.retain(|&thread, _| is_listed(thread));
    }

    /// Returns the role that was read of a thread, if the thread has not run since.
    pub(super) fn known(&self, entry: &ThreadEntry) -> Option<StackRole> {
        let (cpu, role) = self.known.get(&id(entry))?;
        (entry.tid.and_then(procfs::cpu_time) == Some(*cpu)).then_some(*role)
    }

    /// Returns the role that was read of a thread when it had used this CPU time.
    pub(super) fn known_at(&self, thread: EntryId, cpu: Nanos) -> Option<StackRole> {
        self.known.get(&thread).filter(|(known, _)| *known == cpu).map(|(_, role)| *role)
    }

    /// Returns the role of a thread that waits, with the CPU time up to which it is valid. Captures
    /// the stack if the thread has run since the last time. `None` where that fails.
    pub(super) fn of_waiting(&mut self, entry: &ThreadEntry, examiner: &mut Examiner) -> Option<(Nanos, StackRole)> {
        let tid = entry.tid?;
        let cpu = procfs::cpu_time(tid)?;
        if let Some((known, role)) = self.known.get(&id(entry))
            && *known == cpu
        {
            return Some((cpu, *role));
        }
        let state = procfs::syscall(tid)?;
        if state == SyscallState::Running {
            return None;
        }
        let role = self.capture(entry, state, examiner, || procfs::cpu_time(tid) == Some(cpu))?;
        self.known.insert(id(entry), (cpu, role));
        Some((cpu, role))
    }

    fn capture(
        &mut self,
        entry: &ThreadEntry,
        state: SyscallState,
        examiner: &mut Examiner,
        is_current: impl Fn() -> bool,
    ) -> Option<StackRole> {
        let addresses = examiner.addresses_of(entry.target()?, Some(state), is_current)?;
        self.observe(&addresses);
        self.loop_was_visible.then(|| TokioFunctions::of_executable().stack_role(&addresses))
    }

    /// Returns whether a running thread has no core at this moment. A thread that runs outside of
    /// any task of the pool may be about to take one.
    fn runs_without_core(&mut self, entry: &ThreadEntry, examiner: &mut Examiner) -> Option<bool> {
        let addresses = examiner.addresses_of(entry.target()?, Some(SyscallState::Running), || true)?;
        self.observe(&addresses);
        let functions = TokioFunctions::of_executable();
        let without_core = self.loop_was_visible && functions.stack_role(&addresses) != StackRole::InLoop;
        Some(without_core && functions.is_in_pool_task(&addresses))
    }
}

impl Workers {
    /// Returns the threads that drive a worker for certain. See the module's introduction.
    pub(super) fn confirmed_drivers(&mut self, pool: &PoolScan, examiner: &mut Examiner) -> HashSet<EntryId> {
        self.prove(pool, examiner).unwrap_or_default()
    }

    fn prove(&mut self, pool: &PoolScan, examiner: &mut Examiner) -> Option<HashSet<EntryId>> {
        if pool.others.len() > MAX_OTHERS || pool.pool.is_incomplete() {
            return None;
        }
        let (mut waiting, mut running, mut unpublished) = (Vec::new(), Vec::new(), Vec::new());
        let mut has_unread = false;
        for entry in &pool.others {
            match self.other_thread(pool, entry, examiner)? {
                OtherThread::WaitsWithoutCore(cpu) => waiting.push((entry, cpu)),
                OtherThread::RunsWithoutCore => running.push(entry),
                OtherThread::InLoop => unpublished.push(id(entry)),
                OtherThread::UnreadSince(cpu) => {
                    waiting.push((entry, cpu));
                    has_unread = true;
                }
            }
            if running.len() > MAX_RUNNING {
                return None;
            }
        }
        for entry in pool.publishers.iter().filter(|entry| pool.is_busy(entry)) {
            self.roles.of_waiting(entry, examiner);
        }
        let (mut drivers, mut handed_on) = (Vec::new(), Vec::new());
        for entry in &pool.publishers {
            let Some(cpu) = self.left_loop(pool, entry) else {
                drivers.push(entry);
                continue;
            };
            waiting.push((entry, cpu));
            if self.roles.known(entry) == Some(StackRole::HandedOn) {
                handed_on.push(entry);
            }
        }
        let free = pool.workers.checked_sub(drivers.len())?;
        if unpublished.len() > free {
            return None;
        }
        let mut confirmed: HashSet<EntryId> = drivers.iter().map(|entry| id(entry)).collect();
        if unpublished.len() == free && !has_unread {
            confirmed.extend(&unpublished);
        }
        if let [only] = handed_on[..]
            && unpublished.is_empty()
            && !has_unread
            && !drivers.iter().any(|entry| pool.is_busy(entry))
        {
            confirmed.insert(id(only));
        }
        let is_unchanged = waiting.iter().all(|(entry, cpu)| waits_since(entry, *cpu))
            && running.iter().all(|entry| self.roles.runs_without_core(entry, examiner) == Some(true));
        (is_unchanged && is_complete(pool)).then_some(confirmed)
    }

    /// Returns the CPU time that the last publisher of a worker had used when it was last known to
    /// have no core; `None` where it may have one. It has handed the worker on, and is in
    /// `block_in_place`, or back in the pool.
    fn left_loop(&self, pool: &PoolScan, entry: &ThreadEntry) -> Option<Nanos> {
        let tid = entry.tid.filter(|_| pool.is_busy(entry))?;
        let cpu = procfs::cpu_time(tid)?;
        let has_left =
            self.roles.known(entry).is_some_and(StackRole::is_without_core) || pool.waits_shallow(entry, tid);
        has_left.then_some(cpu)
    }

    /// Returns what is known of a thread that is not the last publisher of a worker; `None` where
    /// that is too little.
    fn other_thread(&mut self, pool: &PoolScan, entry: &ThreadEntry, examiner: &mut Examiner) -> Option<OtherThread> {
        let tid = entry.tid?;
        let idle = self.others.get(&id(entry)).copied();
        if let Some(idle) = idle.filter(|_| pool.waits_shallow(entry, tid)) {
            return Some(OtherThread::WaitsWithoutCore(idle.cpu));
        }
        if let Some(idle) = idle.filter(|idle| idle.since <= pool.earliest_unpark) {
            return Some(match self.roles.of_waiting(entry, examiner) {
                Some((_, StackRole::InLoop)) => OtherThread::InLoop,
                Some(_) => OtherThread::WaitsWithoutCore(idle.cpu),
                None => OtherThread::UnreadSince(idle.cpu),
            });
        }
        if procfs::syscall(tid)? == SyscallState::Running {
            return self.roles.runs_without_core(entry, examiner)?.then_some(OtherThread::RunsWithoutCore);
        }
        let (cpu, role) = self.roles.of_waiting(entry, examiner)?;
        Some(match role {
            StackRole::InLoop => OtherThread::InLoop,
            StackRole::NotInLoop | StackRole::HandedOn => OtherThread::WaitsWithoutCore(cpu),
        })
    }
}

/// Returns whether a thread waits, and has not run since it had used this CPU time. A thread that
/// was handed a worker is ready to run, and waits in no call.
fn waits_since(entry: &ThreadEntry, cpu: Nanos) -> bool {
    entry.tid.is_some_and(|tid| {
        procfs::cpu_time(tid) == Some(cpu) && matches!(procfs::syscall(tid), Some(SyscallState::Waiting { .. }))
    })
}

/// Returns whether the scan has all threads of the pool, and the last publishers are the same: no
/// thread has joined it since, or is about to.
fn is_complete(pool: &PoolScan) -> bool {
    let entries = pool.pool.entries();
    let is_publisher = |worker: &WorkerThread| pool.publishers.iter().any(|entry| entry.id == worker.entry.id);
    let publishers = by_role(&entries).0;
    if publishers.len() != pool.publishers.len() || !publishers.iter().all(is_publisher) {
        return false;
    }
    let scanned: HashSet<u64> = pool.entries.iter().map(|entry| entry.id).collect();
    let tids: HashSet<Tid> = entries.iter().filter_map(|entry: &Arc<ThreadEntry>| entry.tid).collect();
    entries.iter().all(|entry| scanned.contains(&entry.id)) && !procfs::is_one_starting(&tids)
}
