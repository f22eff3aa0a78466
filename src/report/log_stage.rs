//! The stage that logs: decides which reports the rate limit admits, and writes them. It has a
//! thread of its own, so that a log that blocks delays nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::counters::ReportCounters;
use super::log;
use super::ongoing::StallRecord;
use super::queue::{Report, ReportQueue};
use super::reported_locations::{MAX_ONGOING, ReportedLocations};
use super::throttle::{RefusedLine, Throttle};
use crate::model::cause::{Cause, Certainty};
use crate::model::condition::ConditionKind;
use crate::model::event::{Notice, StallOrigin};
use crate::model::id::{RuntimeId, SiteId};
use crate::model::incident::IncidentKind;
use crate::model::log_format::LogFormat;
use crate::model::stall::{Phase, Stall};
use crate::util::call_user;

/// The key by which log lines of stalls are rate-limited. The first culprit of a site does not hide
/// the second, and starved stalls do not hide those that a task causes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LogKey {
    origin: StallOrigin,
    /// A part of the key, so that suspected stalls do not use up the limit of the others.
    certainty: Certainty,
    cause: Cause,
    /// The innermost function of the application; the system call where that is not known.
    location: Option<Arc<str>>,
}

impl LogKey {
    fn new(origin: StallOrigin, stall: &Stall) -> LogKey {
        // Without the line: code that computes is at another one in each sample.
        let function = stall.stack.as_ref().and_then(pollwatch_stack::Stack::location).map(|frame| frame.name().into());
        // The location of a thread without a CPU is that of an innocent task.
        let location = match stall.cause.is_blamed() {
            true => function.or_else(|| stall.syscall.as_ref().map(|syscall| (*syscall.name).into())),
            false => None,
        };
        LogKey { origin, certainty: stall.certainty, cause: stall.cause, location }
    }
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

/// Logs the reports of one watchdog.
pub(super) struct LogStage {
    format: LogFormat,
    counters: Arc<ReportCounters>,
    started: Instant,
    stall_throttle: Throttle<LogKey>,
    pause_throttle: Throttle<()>,
    /// The rate limit of reports of late runtimes: by runtime.
    late_throttle: Throttle<Arc<str>>,
    /// The rate limit of panics: by site, and separate from that of the site's stalls.
    panic_throttle: Throttle<(RuntimeId, SiteId)>,
    incident_throttle: Throttle<(IncidentKind, Arc<str>)>,
    condition_throttle: Throttle<(RuntimeId, ConditionKind)>,
    /// Ongoing stalls by id: the oldest first.
    ongoing: BTreeMap<u64, LogState>,
    /// The locations that the log has shown.
    locations: ReportedLocations,
}

impl LogStage {
    pub(super) fn new(format: LogFormat, counters: Arc<ReportCounters>) -> LogStage {
        LogStage {
            format,
            counters,
            started: Instant::now(),
            stall_throttle: Throttle::new(),
            pause_throttle: Throttle::new(),
            late_throttle: Throttle::new(),
            panic_throttle: Throttle::new(),
            incident_throttle: Throttle::new(),
            condition_throttle: Throttle::new(),
            ongoing: BTreeMap::new(),
            locations: ReportedLocations::default(),
        }
    }

    /// Runs until the queue is closed and all reports are logged.
    pub(super) fn run(mut self, queue: &ReportQueue) {
        while let Some(report) = queue.pop() {
            match report {
                Report::Stall(record) => self.report_stall(*record),
                Report::Notice(notice) => self.report_notice(&notice),
            }
        }
    }

    fn report_stall(&mut self, record: StallRecord) {
        let StallRecord { mut stall, origin, .. } = record;
        let mut state = self.ongoing.remove(&stall.id).unwrap_or_default();
        if let Some(suppressed) = self.admit(&stall, origin, &mut state) {
            self.locations.compare(&mut stall);
            self.log(|format| log::stall(&stall, suppressed, format));
        }
        if stall.phase == Phase::Ongoing {
            self.ongoing.insert(stall.id, state);
            if self.ongoing.len() > MAX_ONGOING {
                self.ongoing.pop_first();
            }
        }
    }

    /// Returns the number of stalls that were suppressed before this one, or `None` if this report
    /// is not logged. A stall counts as suppressed once, at its first report.
    fn admit(&mut self, stall: &Stall, origin: StallOrigin, state: &mut LogState) -> Option<u64> {
        let now = self.now();
        let result = match std::mem::take(state) {
            LogState::Logged => Ok(0),
            LogState::NotTried => {
                let key = LogKey::new(origin, stall);
                self.stall_throttle.admit(key, now).inspect_err(|_| self.count_suppressed())
            }
            LogState::Refused(refusal) => {
                let key = LogKey::new(origin, stall);
                // The log does not state the end of a stall that it has never mentioned, unless
                // that end has another cause than the refused reports.
                if stall.phase == Phase::Resolved && refusal.key().cause == key.cause {
                    Err(refusal)
                } else {
                    self.stall_throttle.retry(refusal, key, now)
                }
            }
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
        let now = self.now();
        match notice {
            Notice::ProcessPaused(time) => match self.pause_throttle.admit((), now) {
                Ok(suppressed) => self.log(|format| log::pause(*time, suppressed, format)),
                Err(_) => self.count_suppressed(),
            },
            Notice::TaskPanicked { group, task, message } => match self.panic_throttle.admit(group.key, now) {
                Ok(suppressed) => self.log(|format| log::task_panic(group, *task, message, suppressed, format)),
                Err(_) => self.count_suppressed(),
            },
            Notice::TasksGrew { group, alive, limit } => {
                self.log(|format| log::task_growth(group, *alive, *limit, format));
            }
            Notice::Deadlock(deadlock) => self.log(|format| log::deadlock(deadlock, format)),
            Notice::Incident(incident) => {
                match self.incident_throttle.admit((incident.kind, incident.runtime.clone()), now) {
                    Ok(suppressed) => self.log(|format| log::incident(incident, suppressed, format)),
                    Err(_) => self.count_suppressed(),
                }
            }
            Notice::IncidentThreads { incident, text, on_logged } => {
                let is_logged = self.try_log(|format| log::incident_threads(*incident, text, format));
                (on_logged.0)(is_logged);
            }
            Notice::ProcessEnds { text, .. } => self.log(|_| log::process_ends(text)),
            Notice::Condition { runtime, condition } => {
                match self.condition_throttle.admit((*runtime, condition.kind), now) {
                    Ok(suppressed) => self.log(|format| log::condition(condition, suppressed, format)),
                    Err(_) => self.count_suppressed(),
                }
            }
            Notice::RuntimeLate(late) => match self.late_throttle.admit(late.runtime.clone(), now) {
                Ok(suppressed) => self.log(|format| log::late(late, suppressed, format)),
                Err(_) => self.count_suppressed(),
            },
            Notice::Degraded(what) => self.log(|_| log::degraded(what)),
        }
    }

    fn log(&self, write: impl FnOnce(LogFormat)) {
        self.try_log(write);
    }

    /// Writes a log line. A panic of the user's subscriber is caught here, so that it costs this
    /// line only. Returns `false` if it panicked.
    fn try_log(&self, write: impl FnOnce(LogFormat)) -> bool {
        let has_panicked = call_user(|| write(self.format));
        self.counters.count_panic(has_panicked);
        !has_panicked
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
