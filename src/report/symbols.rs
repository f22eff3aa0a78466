//! The stage that symbolizes stacks, and adds to the profile. It has a thread of its own: to load
//! symbols takes up to seconds, and reports wait for them only for a limited time.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch_stack::{RawStack, Stack, Symbolizer, preload};

use super::counters::ReportCounters;
use super::findings::WaitedFor;
#[cfg(feature = "server")]
use super::profile::ProfileStore;
use super::queues::ReportQueues;
use super::segments::{ProfileSample, SampleNumber};
use super::stack_symbols::StackSymbols;
use super::store::StallStore;
use crate::model::event::Notice;
use crate::model::id::StallId;
use crate::model::lock::{Deadlock, LockFindings, LockInfo, LockInspector, LockWait};
use crate::model::stall::Stall;
use crate::util::{call_user, lock};

/// The interval at which unused symbol tables are dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// A captured stack of a stall.
pub(super) struct CapturedStack {
    pub(super) stall: StallId,
    pub(super) sample: SampleNumber,
    pub(super) raw: RawStack,
    pub(super) lock_wait: Option<LockWait>,
}

/// An item of the stage's queue.
pub(super) enum SymbolTask {
    Symbolize(CapturedStack),
    /// Adds parts of a stall to the profile, whose stacks are symbolized or missing.
    Profile {
        stall: Box<Stall>,
        samples: Vec<ProfileSample>,
    },
}

/// Symbolizes the stacks of one watchdog.
pub(super) struct SymbolStage {
    symbols: StackSymbols,
    store: Arc<Mutex<StallStore>>,
    #[cfg(feature = "server")]
    profile: Arc<Mutex<ProfileStore>>,
    queues: Arc<ReportQueues>,
    counters: Arc<ReportCounters>,
    locks: Option<Arc<dyn LockInspector>>,
}

impl SymbolStage {
    pub(super) fn new(
        symbols: StackSymbols,
        store: Arc<Mutex<StallStore>>,
        #[cfg(feature = "server")] profile: Arc<Mutex<ProfileStore>>,
        queues: Arc<ReportQueues>,
        counters: Arc<ReportCounters>,
        locks: Option<Arc<dyn LockInspector>>,
    ) -> SymbolStage {
        SymbolStage {
            symbols,
            store,
            #[cfg(feature = "server")]
            profile,
            queues,
            counters,
            locks,
        }
    }

    /// Runs until the other end of the queue is dropped and all tasks are done.
    pub(super) fn run(self, tasks: &Receiver<SymbolTask>, capture_stacks: bool) {
        // On this thread, so that the watchdog need not wait for it before its first scan.
        if capture_stacks {
            preload();
        }
        loop {
            let timeout = if Symbolizer::shared().holds_tables() { TIDY_INTERVAL } else { Duration::MAX };
            match tasks.recv_timeout(timeout) {
                Ok(task) => self.run_task(task),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            Symbolizer::shared().release_unused();
        }
    }

    pub(super) fn run_task(&self, task: SymbolTask) {
        match task {
            SymbolTask::Symbolize(captured) => self.symbolize(captured),
            SymbolTask::Profile { stall, samples } => self.add_to_profile(&stall, &samples),
        }
    }

    fn symbolize(&self, captured: CapturedStack) {
        let CapturedStack { stall: id, sample, raw, lock_wait } = captured;
        // To load symbol tables takes some 100 ms. If they are not loaded yet, a new stall is
        // reported before that, without its stack.
        if sample == SampleNumber::FIRST && self.symbols.must_not_wait(&raw) {
            self.queues.set_ready(id.0);
        }
        let mut stack = None;
        // Whatever the symbolizer meets in a file, the report follows.
        self.counters.count_panic(call_user(|| stack = Some(self.symbols.resolve(&raw))));
        self.report_problems();
        let waiting = stack.as_ref().zip(lock_wait);
        let found = waiting.map(|(stack, wait)| self.inspect(wait, stack)).unwrap_or_default();
        self.set_stack(id, sample, stack, found);
    }

    /// Stores a stack, and passes the state of its stall on. As in the recorder, the queues get it
    /// under the store's lock, so that they get the states in their order.
    pub(super) fn set_stack(&self, id: StallId, sample: SampleNumber, stack: Option<Stack>, found: WaitedFor) {
        let mut store = lock(&self.store);
        let Some(updated) = store.set_stack(id, sample, stack, found) else { return };
        if !updated.is_pending {
            self.queues.update(&updated.record);
        }
        drop(store);
        self.add_to_profile(&updated.record.stall, &updated.profiled);
    }

    /// Finds what the thread waits for does, which holds a lock or belongs to a pool.
    fn inspect(&self, wait: LockWait, stack: &Stack) -> WaitedFor {
        let (lock, deadlock) = self.inspect_lock(wait, stack).unzip();
        let mut pool = None;
        if let Some(locks) = self.locks.as_ref().filter(|_| lock.is_none()) {
            self.counters.count_panic(call_user(|| pool = locks.inspect_pool(wait, stack)));
        }
        WaitedFor { lock, pool, deadlock: deadlock.flatten() }
    }

    /// Finds who holds the lock that a thread waits for. A deadlock that is found thereby is
    /// reported.
    fn inspect_lock(&self, wait: LockWait, stack: &Stack) -> Option<(LockInfo, Option<Deadlock>)> {
        let locks = self.locks.as_ref()?;
        let mut findings = None;
        self.counters.count_panic(call_user(|| findings = locks.inspect(wait, stack)));
        if let Some(why) = locks.take_problem() {
            let text = format!("stalls do not say who holds a lock: {why}");
            self.queues.push_notice(Notice::Degraded(text));
        }
        let LockFindings { lock: lock_info, deadlock } = findings?;
        if let Some(deadlock) = &deadlock {
            self.queues.push_notice(Notice::Deadlock(deadlock.clone()));
        }
        Some((lock_info, deadlock))
    }

    /// Logs the files with symbols that could not be used, each once, and counts them.
    fn report_problems(&self) {
        for problem in self.symbols.take_problems() {
            let text = format!("stacks may lack functions or lines: {problem}");
            self.queues.push_notice(Notice::Degraded(text));
        }
        self.counters.unusable_symbol_files.store(Symbolizer::shared().unusable_files(), Ordering::Relaxed);
    }

    #[cfg_attr(not(feature = "server"), expect(clippy::unused_self, reason = "there is no profile"))]
    fn add_to_profile(&self, stall: &Stall, samples: &[ProfileSample]) {
        #[cfg(feature = "server")]
        if !samples.is_empty() {
            lock(&self.profile).add(stall, samples);
        }
        #[cfg(not(feature = "server"))]
        let _ = (stall, samples);
    }
}
