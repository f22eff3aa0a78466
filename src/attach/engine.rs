//! The engine: the thread that scans the other process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::available_parallelism;
use std::time::Duration;

use pollwatch_stack::procfs::{self, SyscallState};
use pollwatch_stack::{RawStack, Tid};

use super::cpu_budget::CpuBudgets;
use super::detector::{BlockedThreadDetector, StackFinding, ThreadScan};
use super::emit::{AttachEmitter, AttachSink, EmitContext};
use super::inlined::InlinedHandOffs;
use super::inlined_loops::InlinedLoops;
use super::inspect::{TargetStacks, ThreadInspection};
use super::outcome::Ended;
use super::runtimes::RuntimeFlavor;
use super::state::{AttachState, PANICKED};
use super::target::TargetProcess;
use super::threads::{Membership, TargetThread, entry};
use crate::model::event::{Event, Notice};
use crate::model::time::Nanos;
use crate::util::{call_user, lock};

/// The shortest time between two scans.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The scans in a threshold while no thread may be blocked. A wait is reported less than two such
/// intervals after it has lasted for the threshold.
const SCANS: u32 = 2;
/// The scans in a threshold while a thread may be blocked.
const CLOSE_SCANS: u32 = 4;
/// The shortest time between two lists of all threads.
const LIST_INTERVAL: Duration = Duration::from_millis(50);
/// A list takes at most this part of the time.
const MAX_LIST_SHARE: u32 = 50;
/// The threads outside of runtimes that are read in one scan, each in its turn.
const MAX_COLD_READS: usize = 32;
/// The threads of runtimes that are read in each scan.
const MAX_SCANNED: usize = 1_024;

/// The threads of runtimes, as one scan read them.
struct MemberScans {
    scans: Vec<ThreadScan>,
    /// True if one of them has run since the scan before.
    any_has_run: bool,
}

/// Scans the process until it ends, or until the handle is detached.
pub(super) struct Engine {
    state: Arc<AttachState>,
    target: Box<dyn TargetProcess>,
    stacks: TargetStacks,
    detector: BlockedThreadDetector,
    emitter: AttachEmitter,
    threads: HashMap<Tid, TargetThread>,
    /// The threads that are in a runtime, as of the latest change of them.
    members: Vec<Tid>,
    /// The threads outside of runtimes, in the order in which they are read.
    cold: VecDeque<Tid>,
    next_list: Nanos,
    /// The modules of which the functions are known.
    version: u64,
    paused_since: Option<Nanos>,
    /// The CPU time that samples have taken in this scan.
    sampling_cpu: Duration,
    /// True if a thread outside of runtimes has run since it was read: one of the pool may be
    /// handed a worker.
    has_pool_run: bool,
    /// Whether the budget of CPU time admits a search for threads of runtimes in this scan.
    may_search: bool,
    /// Whether it admits samples in this scan.
    may_sample: bool,
}

impl Engine {
    pub(super) fn new(state: Arc<AttachState>, mut target: Box<dyn TargetProcess>, sink: AttachSink) -> Engine {
        let functions = target.functions();
        let hand_offs = InlinedHandOffs::new(target.calls_block_in_place());
        state.counters.has_symbols.store(!functions.is_empty(), Ordering::Relaxed);
        let threshold = state.settings.threshold.into();
        Engine {
            stacks: TargetStacks::new(functions, hand_offs, state.clone()),
            detector: BlockedThreadDetector::new(threshold),
            emitter: AttachEmitter::new(threshold, sink),
            threads: HashMap::new(),
            members: Vec::new(),
            cold: VecDeque::new(),
            next_list: Nanos::ZERO,
            version: target.version(),
            paused_since: None,
            sampling_cpu: Duration::ZERO,
            has_pool_run: false,
            may_search: true,
            may_sample: true,
            state,
            target,
        }
    }

    /// Returns the stack of some thread that waits. Whoever symbolizes it loads the symbols of the
    /// program, before a stall needs them.
    pub(super) fn first_stack(&mut self) -> Option<RawStack> {
        let tids = self.target.threads().ok()?;
        tids.into_iter().take(MAX_COLD_READS).find_map(|tid| {
            let state @ SyscallState::Waiting { .. } = self.target.state(tid)? else { return None };
            self.target.capture_waiting(tid, state).ok()
        })
    }

    /// Scans until the end, which may be a panic. The stalls that are ongoing then end, as far as
    /// anybody will know.
    pub(super) fn run(mut self) {
        let mut ended = Ended::Lost(PANICKED.into());
        call_user(|| ended = self.scan_until_end());
        call_user(|| self.emitter.end_all());
        if matches!(ended, Ended::Lost(_)) {
            call_user(|| self.emitter.emit(Event::Notice(Notice::Degraded(ended.to_string()))));
        }
        self.state.lifetime.end(ended);
    }

    fn scan_until_end(&mut self) -> Ended {
        let threshold = self.state.settings.threshold;
        let late = Nanos::from(threshold);
        let own_cpu = || Tid::current().and_then(Tid::cpu_time).unwrap_or_default();
        let mut previous = self.state.now();
        let mut budgets = CpuBudgets::new(available_parallelism().map_or(1, NonZero::get));
        loop {
            let (start, cpu) = (self.state.now(), own_cpu());
            budgets.drain(start.saturating_sub(previous).to_duration(), procfs::idle);
            let is_late = start.saturating_sub(previous) >= late;
            self.state.counters.late_scans.fetch_add(u64::from(is_late), Ordering::Relaxed);
            previous = start;
            (self.may_search, self.may_sample) = (budgets.admit_search(), budgets.admit_samples());
            if let Err(ended) = self.scan(start) {
                return ended;
            }
            self.state.counters.scans.fetch_add(1, Ordering::Relaxed);
            *lock(&self.state.counters.stops) = self.target.stops();
            *lock(&self.state.counters.stop_problem) = self.target.stop_problem();
            *lock(&self.state.counters.losses) = self.target.losses();
            let took = self.state.now().saturating_sub(start).to_duration();
            let is_close = self.has_pool_run || self.detector.needs_close_scans();
            let parts = if is_close { CLOSE_SCANS } else { SCANS };
            let interval = (threshold / parts).max(MIN_INTERVAL);
            // A scan that had to wait for a CPU makes the next one no later.
            let rest = budgets.add(own_cpu().saturating_sub(cpu), self.sampling_cpu);
            if !self.state.lifetime.sleep(interval.saturating_sub(took).max(rest)) {
                return Ended::Detached;
            }
        }
    }

    /// Does one scan, at the moment `now`.
    fn scan(&mut self, now: Nanos) -> Result<(), Ended> {
        if now >= self.next_list {
            self.list_threads()?;
            let took = self.state.now().saturating_sub(now).to_duration();
            self.next_list = now + Nanos::from(LIST_INTERVAL.max(took * MAX_LIST_SHARE));
        }
        let MemberScans { scans, any_has_run } = self.read_members();
        // A process of which a thread runs is not paused, so that a busy one costs one file less.
        if !any_has_run && self.target.is_paused() {
            self.paused_since.get_or_insert(now);
            self.pause();
            return Ok(());
        }
        if let Some(since) = self.paused_since.take() {
            let time = now.saturating_sub(since).to_duration();
            self.emitter.emit(Event::Notice(Notice::ProcessPaused(time)));
        }
        self.has_pool_run = false;
        if self.may_search {
            self.classify();
        }
        self.state.counters.light_scans.fetch_add(u64::from(!self.may_sample), Ordering::Relaxed);
        let mut inspection = ThreadInspection {
            target: &mut *self.target,
            stacks: &mut self.stacks,
            threads: &mut self.threads,
            may_sample: self.may_sample,
            sampling_cpu: Duration::ZERO,
        };
        let changes = self.detector.step(&scans, &mut inspection);
        self.sampling_cpu = inspection.sampling_cpu;
        for change in changes {
            let mut context =
                EmitContext { state: &self.state, target: &mut *self.target, stacks: &mut self.stacks, at: now };
            self.emitter.emit_change(&mut context, &self.threads, change);
        }
        self.stacks.forget_samples();
        Ok(())
    }

    /// Ends all stalls: nothing is known of them while the process is paused.
    fn pause(&mut self) {
        let at = self.state.now();
        // A wait that is as old as the pause is none.
        self.threads.values_mut().for_each(|known| known.latest = None);
        for change in self.detector.pause() {
            let mut context =
                EmitContext { state: &self.state, target: &mut *self.target, stacks: &mut self.stacks, at };
            self.emitter.emit_change(&mut context, &self.threads, change);
        }
    }

    /// Reads which threads there are.
    fn list_threads(&mut self) -> Result<(), Ended> {
        let tids: HashSet<Tid> = self.target.threads()?.into_iter().collect();
        if self.target.version() != self.version {
            self.version = self.target.version();
            self.stacks.functions = self.target.functions();
            self.stacks.hand_offs = InlinedHandOffs::new(self.target.calls_block_in_place());
            self.stacks.loops = InlinedLoops::default();
            self.state.counters.has_symbols.store(!self.stacks.functions.is_empty(), Ordering::Relaxed);
        }
        let gone: Vec<Tid> = self.threads.keys().filter(|tid| !tids.contains(tid)).copied().collect();
        for tid in gone {
            self.forget(tid);
        }
        for tid in tids {
            if self.threads.contains_key(&tid) {
                continue;
            }
            let Some(name) = self.target.name(tid) else { continue };
            let known = TargetThread {
                name: name.into(),
                member: None,
                is_read: false,
                classified: None,
                latest: None,
                awaits_symbols: None,
                has_handed_on: false,
                readings: VecDeque::new(),
            };
            self.threads.insert(tid, known);
            // A new thread is of interest before those that are known already.
            self.cold.push_front(tid);
        }
        // A thread that has left its runtime may enter another one.
        let cold: HashSet<Tid> = self.cold.iter().copied().collect();
        let left = self.threads.iter().filter(|(tid, known)| known.member.is_none() && !cold.contains(tid));
        self.cold.extend(left.map(|(tid, _)| *tid));
        self.state.counters.threads.store(self.threads.len() as u64, Ordering::Relaxed);
        let unread = self.threads.values().filter(|known| !known.is_read).count() as u64;
        let unscanned = self.state.counters.unscanned.load(Ordering::Relaxed);
        self.state.counters.unread.store(unread + unscanned, Ordering::Relaxed);
        Ok(())
    }

    fn forget(&mut self, tid: Tid) {
        if let Some(TargetThread { member: Some(_), .. }) = self.threads.remove(&tid) {
            lock(&self.state.runtimes).remove_thread(entry(tid));
            self.stacks.members_changed = true;
        }
    }

    /// Finds the roles of threads that are not known to be in a runtime, a few in each scan.
    fn classify(&mut self) {
        let mut may_stop = self.state.settings.stop;
        for _ in 0..self.cold.len().min(MAX_COLD_READS) {
            let Some(tid) = self.cold.pop_front() else { return };
            if self.threads.get(&tid).is_none_or(|known| known.member.is_some()) {
                continue;
            }
            self.classify_thread(tid, &mut may_stop);
            if self.threads.get(&tid).is_some_and(|known| known.member.is_none()) {
                self.cold.push_back(tid);
            }
        }
    }

    fn classify_thread(&mut self, tid: Tid, may_stop: &mut bool) {
        let Some(times) = self.target.times(tid) else { return self.forget(tid) };
        let (threshold, at) = (Nanos::from(self.state.settings.threshold), self.state.now());
        let Some(known) = self.threads.get_mut(&tid) else { return };
        known.note_times(at, times);
        if self.state.settings.all_threads {
            let runtime = lock(&self.state.runtimes).add(RuntimeFlavor::OtherThreads, entry(tid), &known.name);
            known.member = Some(Membership { flavor: RuntimeFlavor::OtherThreads, runtime });
            self.stacks.members_changed = true;
        }
        let (earlier, awaits_symbols) = (known.classified, known.awaits_symbols);
        if earlier == Some(times) {
            return;
        }
        self.has_pool_run = true;
        let mut inspection = ThreadInspection {
            target: &mut *self.target,
            stacks: &mut self.stacks,
            threads: &mut self.threads,
            may_sample: self.may_sample,
            sampling_cpu: Duration::ZERO,
        };
        let finding = match inspection.target.state(tid) {
            None => return,
            // It still has the stack for which symbols are missing.
            Some(SyscallState::Waiting { .. })
                if awaits_symbols == Some(times) && !inspection.stacks.loops.has_symbols() =>
            {
                return;
            }
            Some(state @ SyscallState::Waiting { .. }) => inspection.capture_waiting(tid, state),
            // A thread that has not run for long since it was read is rather read when it waits.
            Some(SyscallState::Running) => match earlier {
                None => Some(StackFinding::Runs),
                Some(earlier) => {
                    // A stop would be in vain while the symbols are missing.
                    let is_due = *may_stop
                        && times.cpu.saturating_sub(earlier.cpu) >= threshold
                        && (awaits_symbols.is_none() || inspection.stacks.loops.has_symbols());
                    *may_stop &= !is_due;
                    if is_due { inspection.capture_running(tid) } else { None }
                }
            },
        };
        let (Some(finding), Some(known)) = (finding, self.threads.get_mut(&tid)) else { return };
        match finding {
            StackFinding::Unknown => known.awaits_symbols = Some(times),
            StackFinding::Runs | StackFinding::BlocksNothing | StackFinding::InPoll { .. } => {
                (known.classified, known.awaits_symbols) = (Some(times), None);
            }
        }
    }

    /// Reads the threads that are in a runtime.
    fn read_members(&mut self) -> MemberScans {
        // There may be very many threads, of which few are in a runtime.
        if std::mem::take(&mut self.stacks.members_changed) {
            let members = self.threads.iter().filter(|(_, known)| known.member.is_some());
            self.members = members.map(|(tid, _)| *tid).collect();
            let unscanned = self.members.len().saturating_sub(MAX_SCANNED);
            self.state.counters.unscanned.store(unscanned as u64, Ordering::Relaxed);
            self.members.truncate(MAX_SCANNED);
        }
        let (mut scans, mut any_has_run) = (Vec::with_capacity(self.members.len()), false);
        for index in 0..self.members.len() {
            let tid = self.members[index];
            let Some(times) = self.target.times(tid) else {
                self.forget(tid);
                continue;
            };
            let at = self.state.now();
            let Some(known) = self.threads.get_mut(&tid) else { continue };
            any_has_run |= known.note(at, times);
            let unchanged_since = known.note_times(at, times);
            scans.push(ThreadScan { thread: entry(tid), at, times, unchanged_since });
        }
        MemberScans { scans, any_has_run }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
