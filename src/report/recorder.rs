//! The recorder: updates the store on the watchdog thread, and queues reports for the dispatcher.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollwatch_stack::RawStack;

use super::conditions::ConditionStore;
use super::counters::ReportCounters;
use super::findings::WaitedFor;
use super::kernel_share::KernelShare;
use super::ongoing::{StallRecord, UpdatedStall};
use super::queues::{LATER_WAIT, ReportQueues};
use super::reason;
use super::segments::ProfileSample;
use super::store::StallStore;
use super::symbols::{CapturedStack, SymbolTask};
use super::totals::CountAndTime;
use crate::model::condition::ConditionChange;
use crate::model::event::{Event, Notice};
use crate::model::id::StallId;
use crate::model::labels::ReportStage;
use crate::model::lock::LockWait;
use crate::model::no_stack::NoStack;
use crate::model::stall::{Phase, Stall};
use crate::util::lock;

/// A captured stack, and the lock that its thread waits for.
struct WaitingStack {
    raw: RawStack,
    lock_wait: Option<LockWait>,
}

/// Records all events of one watchdog.
pub(crate) struct Recorder {
    store: Arc<Mutex<StallStore>>,
    conditions: Arc<Mutex<ConditionStore>>,
    queues: Arc<ReportQueues>,
    symbols: SyncSender<SymbolTask>,
    counters: Arc<ReportCounters>,
    waits: ReportWaits,
}

/// The times for which reports wait for what is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReportWaits {
    /// The time for which the first report of a stall waits for symbols.
    pub(super) first: Duration,
    /// The time for which the last report of a stall waits for the tasks that waited behind it.
    pub(super) victims: Duration,
}

impl Recorder {
    pub(super) fn new(
        store: Arc<Mutex<StallStore>>,
        conditions: Arc<Mutex<ConditionStore>>,
        queues: Arc<ReportQueues>,
        symbols: SyncSender<SymbolTask>,
        counters: Arc<ReportCounters>,
        waits: ReportWaits,
    ) -> Recorder {
        Recorder { store, conditions, queues, symbols, counters, waits }
    }

    /// Records an event. Does not wait for symbols, the log or the callback.
    pub(crate) fn record(&mut self, event: Event) {
        match event {
            Event::StallStarted(mut started) => {
                let raw = started.stack.take().map(|raw| WaitingStack { raw, lock_wait: started.lock_wait });
                let has_stack = raw.is_some();
                self.update(raw, Some(self.waits.first), |store| Some(store.insert_ongoing(*started, has_stack)));
            }
            Event::StallProgress(mut progress) => {
                let raw = progress.stack.take().map(|raw| WaitingStack { raw, lock_wait: progress.lock_wait });
                let wait = progress.is_report.then_some(LATER_WAIT);
                let has_stack = raw.is_some();
                self.update(raw, wait, |store| store.examine(*progress, has_stack));
            }
            Event::StackTaken { id, stack } => {
                let raw = WaitingStack { raw: stack, lock_wait: None };
                self.update(Some(raw), None, |store| store.await_late_stack(id));
            }
            Event::StallStillOngoing { id, elapsed, at } => lock(&self.store).set_elapsed(id, elapsed, at),
            Event::StallEnded { id, end } => {
                self.update(None, Some(LATER_WAIT), |store| store.resolve(id, end));
            }
            Event::VictimsFound { id, victims } => {
                // The state is queued under the store's lock, like that of any other update.
                let mut store = lock(&self.store);
                if let Some(record) = store.set_victims(id, *victims) {
                    self.queues.refresh(&record);
                }
            }
            Event::StallEndedUnseen { mut stall, origin } => {
                let kernel = KernelShare::of_unexamined(&stall);
                reason::explain(&mut stall, kernel);
                stall.no_stack = Some(NoStack::EndedFirst);
                let record = StallRecord { stall: *stall, origin, version: 0 };
                lock(&self.store).insert_resolved(record.clone());
                self.queues.push_held_stall(&record, Duration::ZERO, self.waits.victims);
                let stall = record.stall;
                let amount = CountAndTime { count: 1, time: stall.elapsed.into() };
                let sample = ProfileSample { cause: stall.cause, stack: None, amount };
                self.profile(stall, vec![sample]);
            }
            Event::RequestBlocked(request) => lock(&self.store).record_request(&request),
            Event::Notice(notice) => {
                self.queues.push_notice(notice);
            }
            Event::Condition(change) => self.record_condition(*change),
            Event::RuntimeLate { id, late } => {
                lock(&self.store).push_late(id, (*late).clone());
                self.queues.push_notice(Notice::RuntimeLate(late));
            }
        }
    }

    /// Records a change of a condition, with the stall that causes it as it is now. Queues it for
    /// the log if it is to be reported.
    fn record_condition(&mut self, mut change: ConditionChange) {
        let condition = &mut change.condition;
        condition.stall_summary = condition.stall.and_then(|stall| lock(&self.store).summary_of(StallId(stall)));
        if lock(&self.conditions).record(&mut change) {
            let ConditionChange { runtime, condition, .. } = change;
            self.queues.push_notice(Notice::Condition { runtime, condition: Box::new(condition) });
        }
    }

    /// Updates a stall in the store, and passes its state on: to the log and the callback, if it is
    /// to be reported, which then wait at most this long for symbols. Its stack is symbolized after
    /// that.
    ///
    /// The state is queued under the store's lock. Otherwise the report thread could first put a
    /// newer state, with the end of the stall, into a report that waits already. When that report
    /// is taken, the one that is queued here would be a second one of the same end.
    fn update(
        &mut self,
        raw: Option<WaitingStack>,
        wait: Option<Duration>,
        update: impl FnOnce(&mut StallStore) -> Option<UpdatedStall>,
    ) {
        let mut store = lock(&self.store);
        let Some(UpdatedStall { record, sample, is_pending, profiled }) = update(&mut store) else { return };
        match wait {
            Some(wait) => {
                let wait = if is_pending { wait } else { Duration::ZERO };
                let is_over = record.stall.phase == Phase::Resolved;
                let hold = if is_over { self.waits.victims } else { Duration::ZERO };
                self.queues.push_held_stall(&record, wait, hold);
            }
            None => self.queues.refresh(&record),
        }
        drop(store);
        let stall = record.stall;
        if let Some(WaitingStack { raw, lock_wait }) = raw {
            let id = StallId(stall.id);
            self.symbolize(CapturedStack { stall: id, sample, raw, lock_wait });
        }
        self.profile(stall, profiled);
    }

    /// Queues a stack. If the queue is full, the stall has to do without it.
    fn symbolize(&mut self, captured: CapturedStack) {
        let (id, sample) = (captured.stall, captured.sample);
        if self.symbols.try_send(SymbolTask::Symbolize(captured)).is_ok() {
            return;
        }
        self.counters.count_lost(ReportStage::Symbols);
        let mut store = lock(&self.store);
        let updated = store.set_stack(id, sample, None, WaitedFor::default());
        let Some(UpdatedStall { record, is_pending: false, profiled, .. }) = updated else { return };
        self.queues.update(&record);
        drop(store);
        self.profile(record.stall, profiled);
    }

    fn profile(&mut self, stall: Stall, samples: Vec<ProfileSample>) {
        if samples.is_empty() {
            return;
        }
        if self.symbols.try_send(SymbolTask::Profile { stall: Box::new(stall), samples }).is_err() {
            self.counters.count_lost(ReportStage::Symbols);
        }
    }
}

impl Drop for Recorder {
    /// Counts the stalls that are ongoing when the watchdog stops: nobody will find their end.
    fn drop(&mut self) {
        lock(&self.store).count_ongoing();
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
