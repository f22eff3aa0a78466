//! Workers whose driver has not published them: before its first park, or since it took the worker
//! over from a task in `block_in_place`.
//!
//! Such a thread is recognised by its stack. That is read only where a worker is missing, which has
//! no publisher or one that has left the loop, and only of threads that wait. Whether a worker is
//! missing is read only where some other thread may have it. So a scan of busy workers and an idle
//! pool reads no file.

use std::sync::Arc;

use super::drivers::MAX_OTHERS;
use super::functions::StackRole;
use super::observation::WorkerObservation;
use super::workers::{BusyWorker, IdleSince, PoolScan, WorkerScan, Workers, id};
use crate::detect::examine::Examiner;
use crate::detect::identity::{BlockedWorker, BusyPeriod};
use crate::detect::procfs::{self, SyscallState};
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::ThreadEntry;
use crate::measure::thread::ThreadState;
use crate::model::id::{ThreadNumber, WorkerIndex};
use crate::model::time::Nanos;

impl Workers {
    /// Adds the threads that have waited for a quarter of the threshold in a worker's loop, and
    /// have not published that worker.
    pub(crate) fn observe_unpublished(&mut self, meter: &Arc<Meter>, scan: &mut WorkerScan, examiner: &mut Examiner) {
        for index in 0..scan.pools.len() {
            let pool = &scan.pools[index];
            if pool.others.len() > MAX_OTHERS {
                continue;
            }
            let mut candidates = pool.others.clone();
            candidates.retain(|entry| self.may_drive(meter, pool, entry));
            if candidates.is_empty() {
                continue;
            }
            let missing = self.missing_workers(pool);
            if missing.count == 0 {
                continue;
            }
            for entry in candidates {
                let Some((observation, state)) = self.observe_candidate(meter, &entry, examiner) else { continue };
                let identity = BlockedWorker { entry, period: observation.period, cpu: Some(observation.cpu) };
                let Some(tid) = identity.entry.tid else { continue };
                let runtime = scan.pools[index].runtime;
                let busy = BusyWorker { runtime, index: missing.only, state, identity, tid, pool: Some(index) };
                scan.busy.insert(observation.thread, busy);
                scan.observations.push(observation);
            }
        }
    }

    /// Returns whether a thread that has published no worker has waited for a quarter of the
    /// threshold, and may drive a worker as far as its depth and an earlier capture show.
    fn may_drive(&mut self, meter: &Meter, pool: &PoolScan, entry: &ThreadEntry) -> bool {
        let thread = id(entry);
        let Some(IdleSince { cpu, since }) = self.others.get(&thread).copied() else { return false };
        if meter.clock.elapsed_since(since) < meter.threshold / 4 {
            return false;
        }
        match self.roles.known_at(thread, cpu) {
            Some(role) => role == StackRole::InLoop,
            None => self.depth(entry, cpu).is_some_and(|depth| !pool.is_shallow_depth(depth)),
        }
    }

    fn missing_workers(&mut self, pool: &PoolScan) -> MissingWorkers {
        let known = pool.publishers.iter().filter(|entry| !self.seems_to_have_left(pool, entry));
        let known: Vec<WorkerIndex> = known.filter_map(|entry| entry.last_event()).map(|event| event.worker).collect();
        let count = pool.workers.saturating_sub(known.len());
        let is_missing = |worker: &WorkerIndex| !known.contains(worker);
        let only = (0..pool.workers as u16).map(WorkerIndex).find(is_missing).filter(|_| count == 1);
        MissingWorkers { count, only }
    }

    /// Returns whether the last publisher of a worker has left the loop, as far as its depth and an
    /// earlier capture show. The proof that it has is in [`drivers`](super::drivers).
    fn seems_to_have_left(&mut self, pool: &PoolScan, entry: &ThreadEntry) -> bool {
        let tid = entry.tid.filter(|_| pool.is_busy(entry));
        let Some(cpu) = tid.and_then(procfs::cpu_time) else { return false };
        match self.roles.known_at(id(entry), cpu) {
            Some(role) if role.is_without_core() => true,
            _ => self.depth(entry, cpu).is_some_and(|depth| pool.is_shallow_depth(depth)),
        }
    }

    /// Returns the depth of the stack of a thread that waits, and has used this CPU time. `None`
    /// where it runs, or where that is not known yet.
    fn depth(&mut self, entry: &ThreadEntry, cpu: Nanos) -> Option<usize> {
        let tid = entry.tid?;
        self.depths.of_waiting(id(entry), cpu, || match procfs::syscall(tid)? {
            SyscallState::Waiting { sp, .. } => Some(entry.depth(sp.get())),
            SyscallState::Running => None,
        })
    }

    fn observe_candidate(
        &mut self,
        meter: &Arc<Meter>,
        entry: &ThreadEntry,
        examiner: &mut Examiner,
    ) -> Option<(WorkerObservation, Arc<ThreadState>)> {
        let idle = *self.others.get(&id(entry))?;
        let (cpu, role) = self.roles.of_waiting(entry, examiner)?;
        if cpu != idle.cpu || role != StackRole::InLoop {
            return None;
        }
        let state = self.state_of(meter, entry)?;
        let reading = state.slot.read()?;
        if !reading.frames().is_empty() {
            return None;
        }
        let event = entry.last_event().map_or(0, |event| event.packed);
        let period = BusyPeriod { event, slot_version: reading.version };
        let at = meter.clock.nanos(idle.since);
        Some((WorkerObservation { thread: id(entry), period, published: 0, cpu, at }, state))
    }

    /// Returns the measured state of a thread, or one of its own if it is not measured.
    pub(super) fn state_of(&mut self, meter: &Arc<Meter>, entry: &ThreadEntry) -> Option<Arc<ThreadState>> {
        let measured = || meter.threads().into_iter().find(|thread| thread.tid == entry.tid);
        if let Some(state) = entry.state().cloned().or_else(measured) {
            self.detached.remove(&id(entry));
            return Some(state);
        }
        let target = entry.target()?;
        let new = || Arc::new(ThreadState::detached(meter, &entry.name, target));
        Some(self.detached.entry(id(entry)).or_insert_with(new).clone())
    }

    /// Returns whether a thread is not measured, and observed from outside.
    pub(crate) fn is_detached(&self, thread: ThreadNumber) -> bool {
        self.detached.values().any(|state| state.id == thread)
    }
}

/// The workers without a thread that is known to drive them.
struct MissingWorkers {
    count: usize,
    /// The index, if there is one such worker only.
    only: Option<WorkerIndex>,
}
