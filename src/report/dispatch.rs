//! The dispatcher: the stages that symbolize, log and call back. Each has a thread and a bounded
//! queue of its own, so that none waits for another.
//!
//! A report of a stall goes to the queues of the log and the callback at once, and waits there for
//! the stack to be symbolized, but only for a limited time ([`queues`](super::queues)). Without
//! symbols by then, it is dispatched without a stack.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::call_stage::CallStage;
pub(crate) use super::call_stage::{OnStall, combine};
use super::conditions::ConditionStore;
use super::counters::{QUEUE, ReportCounters};
use super::incidents::source::IncidentSource;
use super::incidents::{self, Incidents};
use super::log_stage::LogStage;
#[cfg(feature = "server")]
use super::profile::ProfileStore;
use super::queue::ReportQueue;
use super::queues::ReportQueues;
use super::recorder::{Recorder, ReportWaits};
use super::stack_symbols::StackSymbols;
use super::stage_thread::StageThread;
use super::store::StallStore;
use super::symbols::{SymbolStage, SymbolTask};
use crate::model::lock::LockInspector;
use crate::model::log_format::LogFormat;

/// The settings of the dispatcher.
pub(crate) struct ReportSettings {
    /// The format of log lines, `None` if nothing is logged.
    pub(crate) log: Option<LogFormat>,
    /// `true` if stalls have stacks.
    pub(crate) capture_stacks: bool,
    pub(crate) symbols: StackSymbols,
    /// The time for which the last report of a stall waits for the tasks that waited behind it.
    pub(crate) victims_wait: Duration,
    pub(crate) on_stall: Option<OnStall>,
    /// The search for holders of locks, if there is one.
    pub(crate) locks: Option<Arc<dyn LockInspector>>,
    pub(crate) incidents: Arc<Incidents>,
    /// The source of the conditions that incidents are made of.
    pub(crate) incident_source: Arc<dyn IncidentSource>,
    /// `true` if systemd's watchdog is notified.
    pub(crate) systemd: bool,
}

/// The recorder of a watchdog, and the threads behind it. They end when the recorder is dropped and
/// all reports are dispatched.
pub(crate) struct Dispatcher {
    pub(crate) recorder: Recorder,
    pub(crate) threads: Vec<StageThread>,
}

impl Dispatcher {
    pub(crate) fn new(
        settings: ReportSettings,
        counters: Arc<ReportCounters>,
        store: Arc<Mutex<StallStore>>,
        conditions: Arc<Mutex<ConditionStore>>,
        #[cfg(feature = "server")] profile: Arc<Mutex<ProfileStore>>,
    ) -> Dispatcher {
        let ReportSettings {
            log: format,
            capture_stacks,
            symbols,
            victims_wait,
            on_stall,
            locks,
            incidents,
            incident_source,
            systemd,
        } = settings;
        let queue = || Arc::new(ReportQueue::new(QUEUE));
        let (log, callback) = (format.map(|_| queue()), on_stall.as_ref().map(|_| queue()));
        let mut threads = Vec::new();
        if let (Some(format), Some(queue)) = (format, log.clone()) {
            let stage = LogStage::new(format, counters.clone());
            threads.push(StageThread { name: "pollwatch-log", run: Box::new(move || stage.run(&queue)) });
        }
        if let (Some(on_stall), Some(queue)) = (on_stall, callback.clone()) {
            let stage = CallStage::new(on_stall, counters.clone(), log.clone());
            threads.push(StageThread { name: "pollwatch-call", run: Box::new(move || stage.run(&queue)) });
        }
        let queues = Arc::new(ReportQueues::new(log, callback, counters.clone()));
        if systemd {
            threads.extend(incidents::systemd_thread(&incidents, incident_source.clone(), queues.clone()));
        }
        threads.extend(incidents::threads(&incidents, incident_source, queues.clone()));
        let (tasks, received): (SyncSender<SymbolTask>, Receiver<SymbolTask>) = mpsc::sync_channel(QUEUE);
        let stage = SymbolStage::new(
            symbols,
            store.clone(),
            #[cfg(feature = "server")]
            profile,
            queues.clone(),
            counters.clone(),
            locks,
        );
        let run = move || stage.run(&received, capture_stacks);
        threads.push(StageThread { name: "pollwatch-report", run: Box::new(run) });
        let waits = ReportWaits { first: symbols.first_wait(), victims: victims_wait };
        Dispatcher { recorder: Recorder::new(store, conditions, queues, tasks, counters, waits), threads }
    }
}
