//! Current-thread runtimes that are blocked by what is not measured: an unwatched root, or a task
//! of a `LocalSet`.
//!
//! What tokio does: `block_on` polls the root, the tasks, and within the root the tasks of a
//! `LocalSet`, all on the thread that called it. Its hooks do not report the root and `LocalSet`
//! tasks, and nothing reports when `block_on` begins or returns.
//!
//! What follows from it: the thread's stack is the evidence. The thread drives the runtime while it
//! is in `block_on` of a current-thread runtime, and has the address of this runtime's scheduler
//! within that call. It is blocked if it waits there, and not for something to poll:
//!
//! - It is in no function of tokio's park.
//! - It does not wait for descriptors (`epoll_wait`), as a park does.
//! - It waits for a lock only in a task, or after some stack has shown a function of the park. A
//!   park without I/O waits in the same call, and the compiler might have inlined those functions.
//!
//! The thread that is examined is the one that built the runtime or attached it. With
//! `tokio_unstable` tokio names the thread that drove the runtime last, which is examined instead
//! if it is measured.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pollwatch_stack::procfs::SyscallEntry;

use super::functions::{DriverRole, TokioFunctions};
use super::observation::{EntryId, WorkerObservation};
use super::workers::{BusyWorker, IdleSince, WorkerScan, Workers, id, published};
use crate::detect::classify::describe;
use crate::detect::examine::Examiner;
use crate::detect::identity::{BlockedWorker, BusyPeriod};
use crate::detect::procfs::{self, SyscallState};
use crate::measure::runtime::Runtime;
use crate::measure::runtime::driven::DrivenRuntime;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::ThreadEntry;
use crate::model::cause::Purpose;
use crate::model::id::{RuntimeId, WorkerIndex};
use crate::model::time::Nanos;

/// The size of the counts with which the memory of an `Arc` starts.
const ARC_COUNTS: u64 = 2 * size_of::<usize>() as u64;

/// What is kept of the threads of current-thread runtimes from one scan to the next.
#[derive(Debug, Default)]
pub(super) struct CurrentThreads {
    idle: HashMap<EntryId, IdleSince>,
    /// Whether a thread blocks its runtime, with the CPU time that it had used then. Valid until
    /// the thread runs.
    known: HashMap<EntryId, KnownWait>,
    /// The measured threads that drive a runtime, and are not those that built it.
    #[cfg(tokio_unstable)]
    measured: HashMap<RuntimeId, Arc<ThreadEntry>>,
    /// True once a stack has shown a function of the park.
    park_was_visible: bool,
}

/// The result of one examination of a thread that waits.
#[derive(Clone, Copy, Debug)]
struct KnownWait {
    cpu: Nanos,
    is_blocked: bool,
}

impl CurrentThreads {
    /// Returns whether a thread is one of these.
    pub(super) fn has(&self, thread: EntryId) -> bool {
        self.idle.contains_key(&thread)
    }

    /// Drops what is kept of runtimes and threads that are gone.
    fn retain(&mut self, runtimes: &HashSet<RuntimeId>, threads: &HashSet<EntryId>) {
        self.idle.retain(|thread, _| threads.contains(thread));
        self.known.retain(|thread, _| threads.contains(thread));
        #[cfg(tokio_unstable)]
        self.measured.retain(|runtime, _| runtimes.contains(runtime));
        #[cfg(not(tokio_unstable))]
        let _ = runtimes;
    }
}

impl Workers {
    /// Adds the current-thread runtimes whose thread has waited for a quarter of the threshold in
    /// something that is not measured.
    pub(crate) fn observe_current_thread(
        &mut self,
        meter: &Arc<Meter>,
        scan: &mut WorkerScan,
        examiner: &mut Examiner,
    ) {
        let mut listed = HashSet::new();
        let mut runtimes = HashSet::new();
        for runtime in meter.runtimes.all() {
            let Some(driven) = runtime.driven() else { continue };
            runtimes.insert(runtime.id);
            let Some(entry) = self.driver_of(meter, &runtime, &driven) else { continue };
            listed.insert(id(&entry));
            self.observe_driver(meter, &runtime, &driven, entry, scan, examiner);
        }
        self.current.retain(&runtimes, &listed);
    }

    /// Returns the thread that drove a runtime last, as tokio names it; `None` if it is not
    /// measured and did not build the runtime.
    #[cfg(tokio_unstable)]
    fn driver_of(&mut self, meter: &Meter, runtime: &Runtime, driven: &DrivenRuntime) -> Option<Arc<ThreadEntry>> {
        let driver = driven.metrics.worker_thread_id(0);
        if driver.is_none_or(|driver| driver == driven.thread_id) {
            return Some(driven.thread.clone()).filter(|thread| !thread.has_ended());
        }
        let measured = meter.threads().into_iter().find(|thread| Some(thread.thread) == driver)?;
        let known = self.current.measured.get(&runtime.id).filter(|known| known.tid == measured.tid);
        let entry = known.cloned().unwrap_or_else(|| ThreadEntry::of(&measured));
        self.current.measured.insert(runtime.id, entry.clone());
        Some(entry)
    }

    /// Returns the thread that built or attached a runtime.
    #[cfg(not(tokio_unstable))]
    fn driver_of(&mut self, _: &Meter, _: &Runtime, driven: &DrivenRuntime) -> Option<Arc<ThreadEntry>> {
        Some(driven.thread.clone()).filter(|thread| !thread.has_ended())
    }

    fn observe_driver(
        &mut self,
        meter: &Arc<Meter>,
        runtime: &Runtime,
        driven: &DrivenRuntime,
        entry: Arc<ThreadEntry>,
        scan: &mut WorkerScan,
        examiner: &mut Examiner,
    ) -> Option<()> {
        let (thread, tid) = (id(&entry), entry.tid?);
        let cpu = procfs::cpu_time(tid)?;
        let now = meter.clock.now();
        let idle = match self.current.idle.get(&thread) {
            Some(idle) if idle.cpu == cpu => *idle,
            _ => {
                self.current.idle.insert(thread, IdleSince { cpu, since: now });
                return None;
            }
        };
        if meter.clock.elapsed_since(idle.since) < meter.threshold / 4 {
            return None;
        }
        let state = self.state_of(meter, &entry)?;
        let reading = state.slot.read().filter(|reading| reading.frames().is_empty())?;
        let known = self.current.known.get(&thread).filter(|known| known.cpu == cpu).copied();
        let is_blocked = match known {
            Some(known) => known.is_blocked,
            None => {
                let is_blocked = self.is_blocked(&entry, driven, cpu, examiner)?;
                self.current.known.insert(thread, KnownWait { cpu, is_blocked });
                is_blocked
            }
        };
        if !is_blocked {
            return None;
        }
        let period = BusyPeriod { event: 0, slot_version: reading.version };
        let published = published(&driven.metrics, WorkerIndex(0));
        let at = meter.clock.nanos(idle.since);
        scan.observations.push(WorkerObservation { thread, period, published, cpu, at });
        let identity = BlockedWorker { entry, period, cpu: Some(cpu) };
        let index = Some(WorkerIndex(0));
        scan.busy.insert(thread, BusyWorker { runtime: runtime.id, index, state, identity, tid, pool: None });
        scan.busy_runtimes.push(runtime.id);
        Some(())
    }

    /// Returns whether a thread that waits blocks its runtime; `None` where that is not known.
    fn is_blocked(
        &mut self,
        entry: &ThreadEntry,
        driven: &DrivenRuntime,
        cpu: Nanos,
        examiner: &mut Examiner,
    ) -> Option<bool> {
        let tid = entry.tid?;
        let state = procfs::syscall(tid)?;
        let SyscallState::Waiting { call: Some(SyscallEntry { number, .. }), .. } = state else { return None };
        let addresses = examiner.addresses_of(entry.target()?, Some(state), || procfs::cpu_time(tid) == Some(cpu))?;
        let Some(drive) = TokioFunctions::of_executable().drive(&addresses) else { return Some(false) };
        self.current.park_was_visible |= drive.role == DriverRole::Parked;
        let purpose = describe(number).1;
        let may_park = match drive.role {
            DriverRole::Parked => return Some(false),
            DriverRole::InTask => false,
            DriverRole::InLoop => purpose == Purpose::Futex && !self.current.park_was_visible,
        };
        // The loop has the scheduler itself, and a waker that refers to the part behind its counts.
        let refers = [driven.scheduler, driven.scheduler + ARC_COUNTS];
        let drives = refers.iter().any(|&word| examiner.copy_contains(drive.call, word));
        Some(drives && !may_park && purpose != Purpose::Poll)
    }
}

#[cfg(all(test, tokio_unstable, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_runtimes_and_threads_that_are_gone() {
        let meter = Meter::of(Nanos::from_millis(10), 10);
        let entry = ThreadEntry::of(&meter.register_thread().unwrap());
        let thread = id(&entry);
        let mut current = CurrentThreads::default();
        current.idle.insert(thread, IdleSince { cpu: Nanos::ZERO, since: meter.clock.now() });
        current.known.insert(thread, KnownWait { cpu: Nanos::ZERO, is_blocked: false });
        for runtime in 1..=100 {
            current.measured.insert(RuntimeId(runtime), entry.clone());
            current.retain(&HashSet::from([RuntimeId(runtime)]), &HashSet::from([thread]));
        }
        let kept = |current: &CurrentThreads| (current.measured.len(), current.idle.len(), current.known.len());
        assert_eq!(kept(&current), (1, 1, 1));
        current.retain(&HashSet::new(), &HashSet::new());
        assert_eq!(kept(&current), (0, 0, 0));
    }
}
