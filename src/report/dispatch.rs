//! The dispatcher: symbolizes the stacks of reports, and passes the reports to the log and the
//! callback. It has a thread of its own, so that a slow log or callback does not delay detection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch_stack::{RawStack, Stack, Symbolizer, preload};

use super::log;
#[cfg(feature = "server")]
use super::profile::ProfileStore;
use super::reason;
use super::store::{StallRecord, StallStore};
use super::tasks::PanicLog;
use super::throttle::Throttle;
use crate::model::cause::Certainty;
use crate::model::event::{Notice, StallOrigin};
use crate::model::stall::{Phase, Stall};
use crate::util::{call_user, lock};

/// The number of reports that may wait for the dispatcher.
pub(crate) const QUEUE: usize = 1_024;
/// The number of ongoing stalls that are remembered: the end of one may have been lost.
const MAX_ONGOING: usize = 4 * QUEUE;
/// The duration from which a callback is slow. The first slow one is logged.
const SLOW_CALLBACK: Duration = Duration::from_millis(100);
/// The interval at which unused symbol tables are dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// A user's callback.
pub(crate) type OnStall = Box<dyn Fn(&Stall) + Send + Sync>;

/// Counters of reports, readable from any thread.
#[derive(Debug, Default)]
pub(crate) struct ReportCounters {
    /// Log lines that the rate limit suppressed.
    pub(crate) suppressed: AtomicU64,
    /// Reports that did not fit into the dispatcher's queue.
    pub(crate) lost: AtomicU64,
    /// Panics in callbacks and subscribers.
    pub(crate) callback_panics: AtomicU64,
}

/// The settings of the dispatcher.
pub(crate) struct ReportSettings {
    pub(crate) log: bool,
    /// `true` if stalls have stacks.
    pub(crate) capture_stacks: bool,
    pub(crate) on_stall: Option<OnStall>,
}

/// An item of the dispatcher's queue.
pub(crate) enum Report {
    Stall { record: Box<StallRecord>, stack: Option<RawStack> },
    Notice(Notice),
}

/// The key by which log lines of stalls are rate-limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LogKey {
    origin: StallOrigin,
    /// A part of the key, so that suspected stalls do not use up the limit of the others.
    certainty: Certainty,
}

/// The reports of an ongoing stall so far.
#[derive(Default)]
struct Reported {
    is_logged: bool,
    stack: Option<Stack>,
    location_changed: Option<bool>,
    /// The part of the stall's time that is in the profile already.
    #[cfg(feature = "server")]
    in_profile: Duration,
}

/// The position of a report among those of its stall.
#[derive(Clone, Copy)]
struct Position {
    is_first: bool,
    /// `true` if the report may be logged although no earlier one of the stall was.
    may_start: bool,
}

/// Dispatches the reports of one watchdog.
pub(crate) struct Dispatcher {
    settings: ReportSettings,
    counters: Arc<ReportCounters>,
    store: Arc<Mutex<StallStore>>,
    #[cfg(feature = "server")]
    profile: Arc<Mutex<ProfileStore>>,
    started: Instant,
    stalls: Throttle<LogKey>,
    pauses: Throttle<()>,
    panics: PanicLog,
    /// Ongoing stalls by id: the oldest first.
    ongoing: BTreeMap<u64, Reported>,
    has_logged_slow_callback: bool,
}

impl Dispatcher {
    pub(crate) fn new(
        settings: ReportSettings,
        counters: Arc<ReportCounters>,
        store: Arc<Mutex<StallStore>>,
        #[cfg(feature = "server")] profile: Arc<Mutex<ProfileStore>>,
    ) -> Dispatcher {
        Dispatcher {
            settings,
            counters,
            store,
            #[cfg(feature = "server")]
            profile,
            started: Instant::now(),
            stalls: Throttle::new(),
            pauses: Throttle::new(),
            panics: PanicLog::new(),
            ongoing: BTreeMap::new(),
            has_logged_slow_callback: false,
        }
    }

    /// Runs until the other end of the queue is dropped and all reports are dispatched.
    pub(crate) fn run(mut self, queue: Receiver<Report>) {
        // On this thread, so that the watchdog need not wait for it before its first scan.
        if self.settings.capture_stacks {
            preload();
        }
        loop {
            let timeout = if Symbolizer::shared().holds_tables() { TIDY_INTERVAL } else { Duration::MAX };
            match queue.recv_timeout(timeout) {
                Ok(report) => {
                    // The user's subscriber may panic. Later reports are dispatched nevertheless.
                    let has_panicked = call_user(|| match report {
                        Report::Stall { record, stack } => self.report_stall(*record, stack),
                        Report::Notice(notice) => self.report_notice(&notice),
                    });
                    if has_panicked {
                        self.counters.callback_panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            Symbolizer::shared().release_unused();
        }
    }

    fn report_stall(&mut self, record: StallRecord, raw: Option<RawStack>) {
        let StallRecord { mut stall, origin } = record;
        let key = LogKey { origin, certainty: stall.certainty };
        let earlier = self.ongoing.remove(&stall.id);
        let is_first = earlier.is_none();
        // The end of a stall is logged only if an earlier report was, or if it is the first report.
        let position = Position { is_first, may_start: stall.phase == Phase::Ongoing || is_first };
        let mut reported = earlier.unwrap_or_default();
        // To load symbol tables takes some 100 ms. If they are not loaded yet, a new stall is
        // reported before that, without its stack.
        let is_cold =
            is_first && position.may_start && raw.as_ref().is_some_and(|raw| !Symbolizer::shared().is_loaded_for(raw));
        if is_cold {
            reason::explain(&mut stall);
            self.log_and_call(&stall, key, position, &mut reported);
        }
        if let Some(raw) = raw {
            let stack = Symbolizer::shared().symbolize(&raw);
            reported.location_changed = reported.stack.as_ref().map(|before| !before.is_same_location(&stack));
            reported.stack = Some(stack);
        }
        (stall.stack, stall.location_changed) = (reported.stack.clone(), reported.location_changed);
        reason::explain(&mut stall);
        lock(&self.store).add_stack(&stall);
        #[cfg(feature = "server")]
        if stall.certainty != Certainty::Suspected {
            // Each stack sample is weighted by the time since the previous sample of the same
            // stall.
            let time = stall.elapsed.saturating_sub(reported.in_profile);
            reported.in_profile += time;
            lock(&self.profile).add(&stall, time);
        }
        if !is_cold {
            self.log_and_call(&stall, key, position, &mut reported);
        }
        if stall.phase == Phase::Ongoing {
            self.ongoing.insert(stall.id, reported);
            if self.ongoing.len() > MAX_ONGOING {
                self.ongoing.pop_first();
            }
        }
    }

    /// Hands one report of a stall to the log and to the callback.
    fn log_and_call(&mut self, stall: &Stall, key: LogKey, position: Position, reported: &mut Reported) {
        if reported.is_logged {
            log::stall(stall, 0);
        } else if position.may_start
            && let Some(suppressed) = self.admit(key, position.is_first)
        {
            reported.is_logged = true;
            log::stall(stall, suppressed);
        }
        self.call(stall);
    }

    /// Returns whether a stall may be logged now, and how many were suppressed before. A stall
    /// counts as suppressed once, at its first report.
    fn admit(&mut self, key: LogKey, is_first: bool) -> Option<u64> {
        if !self.settings.log {
            return None;
        }
        let admitted = self.stalls.admit(key, self.now(), is_first);
        if admitted.is_none() && is_first {
            self.counters.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn report_notice(&mut self, notice: &Notice) {
        if !self.settings.log {
            return;
        }
        match notice {
            Notice::ProcessPaused(time) => {
                if self.pauses.admit((), self.now(), true).is_some() {
                    log::pause(*time);
                }
            }
            Notice::TaskPanicked { group, task, message } => {
                if !self.panics.log(group, *task, message, self.now()) {
                    self.counters.suppressed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Notice::TasksGrew { group, alive, limit } => log::task_growth(group, *alive, *limit),
            Notice::Degraded(what) => log::degraded(what),
        }
    }

    fn call(&mut self, stall: &Stall) {
        let Some(callback) = &self.settings.on_stall else { return };
        let start = Instant::now();
        if call_user(|| callback(stall)) {
            self.counters.callback_panics.fetch_add(1, Ordering::Relaxed);
        }
        if start.elapsed() > SLOW_CALLBACK && !self.has_logged_slow_callback {
            self.has_logged_slow_callback = true;
            log::degraded(
                "an on_stall callback took more than 100 ms: later reports wait for it, and are lost when more than 1,024 wait",
            );
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
