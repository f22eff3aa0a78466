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
use super::throttle::{RefusedLine, Throttle};
use crate::model::cause::Certainty;
use crate::model::event::{Notice, StallOrigin};
use crate::model::id::{RuntimeId, SiteId};
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
    /// Stalls, panics and pauses whose first report the rate limit of the log suppressed.
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

/// The progress of a stall in the log.
#[derive(Default)]
enum LogState {
    #[default]
    NotTried,
    /// The rate limit has refused all reports so far.
    Refused(RefusedLine<LogKey>),
    /// A report was logged. All later ones of the stall are logged too.
    Logged,
}

/// The result of the reports of an ongoing stall so far.
#[derive(Default)]
struct Reported {
    log: LogState,
    stack: Option<Stack>,
    location_changed: Option<bool>,
    /// The part of the stall's time that is in the profile already.
    #[cfg(feature = "server")]
    in_profile: Duration,
}

/// Dispatches the reports of one watchdog.
pub(crate) struct Dispatcher {
    settings: ReportSettings,
    counters: Arc<ReportCounters>,
    store: Arc<Mutex<StallStore>>,
    #[cfg(feature = "server")]
    profile: Arc<Mutex<ProfileStore>>,
    started: Instant,
    stall_throttle: Throttle<LogKey>,
    pause_throttle: Throttle<()>,
    /// The rate limit of panics: by site, and separate from that of the site's stalls.
    panic_throttle: Throttle<(RuntimeId, SiteId)>,
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
            stall_throttle: Throttle::new(),
            pause_throttle: Throttle::new(),
            panic_throttle: Throttle::new(),
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
                    // The log and the callback are guarded one by one. This is for the symbolizer:
                    // whatever it meets in a file, later reports are dispatched.
                    let has_panicked = call_user(|| match report {
                        Report::Stall { record, stack } => self.report_stall(*record, stack),
                        Report::Notice(notice) => self.report_notice(&notice),
                    });
                    self.count_panic(has_panicked);
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
        let mut reported = earlier.unwrap_or_default();
        // To load symbol tables takes some 100 ms. If they are not loaded yet, a new stall is
        // reported before that, without its stack.
        let is_cold = is_first && raw.as_ref().is_some_and(|raw| !Symbolizer::shared().is_loaded_for(raw));
        if is_cold {
            reason::explain(&mut stall);
            self.log_and_call(&stall, key, &mut reported);
        }
        if let Some(raw) = raw {
            let stack = Symbolizer::shared().symbolize(&raw);
            reported.location_changed = reported.stack.as_ref().map(|before| !before.is_same_location(&stack));
            reported.stack = Some(stack);
        }
        (stall.stack, stall.location_changed) = (reported.stack.clone(), reported.location_changed);
        reason::explain(&mut stall);
        lock(&self.store).set_explanation(&stall);
        #[cfg(feature = "server")]
        if stall.certainty != Certainty::Suspected {
            // Each stack sample is weighted by the time since the previous sample of the same
            // stall.
            let time = stall.elapsed.saturating_sub(reported.in_profile);
            reported.in_profile += time;
            lock(&self.profile).add(&stall, time);
        }
        if !is_cold {
            self.log_and_call(&stall, key, &mut reported);
        }
        if stall.phase == Phase::Ongoing {
            self.ongoing.insert(stall.id, reported);
            if self.ongoing.len() > MAX_ONGOING {
                self.ongoing.pop_first();
            }
        }
    }

    /// Passes one report of a stall to the log and to the callback.
    fn log_and_call(&mut self, stall: &Stall, key: LogKey, reported: &mut Reported) {
        if let Some(suppressed) = self.admit(stall.phase, key, &mut reported.log) {
            self.log(|| log::stall(stall, suppressed));
        }
        self.call(stall);
    }

    /// Returns the number of stalls that were suppressed before this one, or `None` if this report
    /// is not logged. A stall counts as suppressed once, at its first report.
    fn admit(&mut self, phase: Phase, key: LogKey, state: &mut LogState) -> Option<u64> {
        if !self.settings.log {
            return None;
        }
        let now = self.now();
        let result = match std::mem::take(state) {
            LogState::Logged => Ok(0),
            LogState::NotTried => self.stall_throttle.admit(key, now).inspect_err(|_| self.count_suppressed()),
            LogState::Refused(refusal) if phase == Phase::Ongoing => self.stall_throttle.retry(refusal, now),
            // The log does not state the end of a stall that it has never mentioned.
            LogState::Refused(refusal) => Err(refusal),
        };
        match result {
            Ok(suppressed) => {
                *state = LogState::Logged;
                Some(suppressed)
            }
            Err(refusal) => {
                *state = LogState::Refused(refusal);
                None
            }
        }
    }

    fn report_notice(&mut self, notice: &Notice) {
        if !self.settings.log {
            return;
        }
        let now = self.now();
        match notice {
            Notice::ProcessPaused(time) => match self.pause_throttle.admit((), now) {
                Ok(suppressed) => self.log(|| log::pause(*time, suppressed)),
                Err(_) => self.count_suppressed(),
            },
            Notice::TaskPanicked { group, task, message } => match self.panic_throttle.admit(group.key, now) {
                Ok(suppressed) => self.log(|| log::task_panic(group, *task, message, suppressed)),
                Err(_) => self.count_suppressed(),
            },
            Notice::TasksGrew { group, alive, limit } => self.log(|| log::task_growth(group, *alive, *limit)),
            Notice::Degraded(what) => self.log(|| log::degraded(what)),
        }
    }

    fn call(&mut self, stall: &Stall) {
        let Some(callback) = &self.settings.on_stall else { return };
        let start = Instant::now();
        self.count_panic(call_user(|| callback(stall)));
        if start.elapsed() > SLOW_CALLBACK && !self.has_logged_slow_callback {
            self.has_logged_slow_callback = true;
            let limit = SLOW_CALLBACK.as_millis();
            let text = format!(
                "an on_stall callback took more than {limit} ms: later reports wait for it, and are lost when more than \
                 {QUEUE} wait",
            );
            self.log(|| log::degraded(&text));
        }
    }

    /// Writes a log line, unless the log is off. A panic of the user's subscriber is caught here,
    /// so that it costs this line only.
    fn log(&self, write: impl FnOnce()) {
        if self.settings.log {
            self.count_panic(call_user(write));
        }
    }

    fn count_panic(&self, has_panicked: bool) {
        if has_panicked {
            self.counters.callback_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_suppressed(&self) {
        self.counters.suppressed.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
