//! The monitor: steps the tracker, and has the actions done that are due.
//!
//! The actions of one moment happen in this order: the evidence is taken and written to files; it
//! is printed and logged; the callbacks are called; the process ends. Nothing but the end of the
//! process waits for a log, the standard error or a callback, and each wait has a limit.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Incidents;
use super::action::{ActionKind, IncidentRule};
use super::confirmation::{Confirmation, ConfirmationRequests, confirm};
use super::files::PathEvidence;
use super::runner::{Runner, is_running};
use super::source::{IncidentCondition, IncidentSource};
use super::tracker::{IncidentChange, StepTime};
use crate::model::event::{Notice, OnLogged};
use crate::model::incident::Incident;
use crate::model::labels::{ActionName, ActionResult};
use crate::model::thread_dump::ThreadDump;
use crate::report::queues::ReportQueues;
use crate::report::stage_thread::StageThread;
use crate::sys::process;
use crate::util::{call_user, lock};

/// The time for which other actions wait for the threads and the files.
const EVIDENCE_LIMIT: Duration = Duration::from_secs(5);
/// The time for which the end of the process waits for the log, the standard error and callbacks.
const CALLBACK_LIMIT: Duration = Duration::from_secs(5);
/// The time for which the end of the process waits for a reading that confirms the condition. After
/// about that time without a reading, the condition itself is no longer known.
const CONFIRMATION_LIMIT: Duration = Duration::from_secs(10);
/// The longest time of a step that counts. What is longer includes a stop of the process.
const MAX_STEP: Duration = EVIDENCE_LIMIT.saturating_add(CALLBACK_LIMIT).saturating_add(CONFIRMATION_LIMIT);
/// The longest and the shortest interval between two steps while a condition may follow.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// A step that is later than this, beyond what was planned, counts as if it were in time.
const LATE: Duration = Duration::from_millis(50);

/// The reason for which the process is not ended after the watchdog was stopped.
const SHUT_DOWN: &str = "the watchdog was shut down";

/// The threads of the actions. Each is there if there is such an action.
#[derive(Default)]
struct Runners {
    /// Takes the threads, and writes files.
    evidence: Option<Runner>,
    print: Option<Runner>,
    call: Option<Runner>,
}

/// The monitor of one watchdog.
pub(super) struct Monitor {
    incidents: Arc<Incidents>,
    source: Arc<dyn IncidentSource>,
    queues: Arc<ReportQueues>,
    rules: Arc<Vec<IncidentRule>>,
    runners: Runners,
    /// Each is disconnected when the threads of an incident are logged.
    logging: Vec<Receiver<()>>,
    files: Arc<Mutex<Vec<PathEvidence>>>,
    interval: Duration,
    /// The requests for a confirmation that something waits for.
    requests: Option<ConfirmationRequests>,
}

impl Monitor {
    /// Returns the monitor, and the threads of its actions.
    pub(super) fn new(
        incidents: Arc<Incidents>,
        source: Arc<dyn IncidentSource>,
        queues: Arc<ReportQueues>,
    ) -> (Monitor, Vec<StageThread>) {
        let rules = incidents.rules.clone();
        let mut threads = Vec::new();
        let mut runner = |name, is_needed: bool| {
            is_needed.then(|| {
                let (runner, thread) = Runner::new(name);
                threads.push(thread);
                runner
            })
        };
        let is_set = |name| incidents.actions.contains(&name);
        let runners = Runners {
            evidence: runner("pollwatch-files", !rules.is_empty()),
            print: runner("pollwatch-print", is_set(ActionName::PrintThreads)),
            call: runner("pollwatch-alert", is_set(ActionName::Call)),
        };
        let files = Arc::new(Mutex::new(PathEvidence::of_rules(&rules)));
        let interval = (incidents.shortest / 4).clamp(MIN_INTERVAL, MAX_INTERVAL);
        let logging = Vec::new();
        (Monitor { incidents, source, queues, rules, runners, logging, files, interval, requests: None }, threads)
    }

    /// Runs until the incidents are stopped.
    pub(super) fn run(mut self) {
        let (mut latest, mut planned) = (Instant::now(), Duration::ZERO);
        loop {
            self.incidents.signal.announce_sleep();
            let now = Instant::now();
            let elapsed = now.duration_since(latest);
            let time = StepTime { elapsed, observed: elapsed.min(planned + LATE) };
            latest = now;
            // A defect of pollwatch costs this step only: the next one follows.
            let mut limit = Some(self.interval);
            call_user(|| limit = self.step(time));
            planned = limit.unwrap_or_default() + latest.elapsed().min(MAX_STEP);
            if !self.incidents.signal.sleep(limit) {
                break;
            }
        }
        // Nothing is observed from here on, so no incident is ongoing.
        let elapsed = latest.elapsed();
        let time = StepTime { elapsed, observed: elapsed.min(planned) };
        lock(&self.incidents.tracker).step(time, Vec::new());
    }

    /// Does one step, with all actions that are due. Returns how long the monitor may sleep; `None`
    /// if nothing is blocked.
    fn step(&mut self, time: StepTime) -> Option<Duration> {
        let conditions = self.source.incident_conditions();
        let changes = lock(&self.incidents.tracker).step(time, conditions);
        let mut has_acted = false;
        for change in changes {
            if self.incidents.signal.is_stopping() {
                break;
            }
            has_acted |= matches!(change, IncidentChange::Due { .. });
            match change {
                IncidentChange::Started { id, condition } => {
                    if let Some(incident) = self.with_stalls(id, &condition) {
                        self.queues.push_notice(Notice::Incident(Box::new(incident)));
                    }
                }
                IncidentChange::Due { id, condition, rules } => self.act(id, &condition, &rules),
                IncidentChange::Ended { id } => {
                    if let Some(incident) = lock(&self.incidents.tracker).incident(id) {
                        self.queues.push_notice(Notice::Incident(Box::new(incident)));
                    }
                }
            }
        }
        if has_acted {
            // The actions take time, in which the condition may have ended, or another one started.
            return Some(MIN_INTERVAL / 10);
        }
        let is_blocked = self.source.has_ongoing_stalls();
        let tracker = lock(&self.incidents.tracker);
        if tracker.awaits_confirmation() {
            drop(tracker);
            let requests = self.requests.get_or_insert_default();
            return Some(requests.request(&*self.source, Instant::now()).min(self.interval));
        }
        self.requests = None;
        let is_awake = is_blocked || tracker.has_conditions();
        is_awake.then(|| tracker.next_due().map_or(self.interval, |due| due.clamp(MIN_INTERVAL / 10, self.interval)))
    }

    /// Returns an incident with the stalls of this moment.
    fn with_stalls(&self, id: u64, condition: &IncidentCondition) -> Option<Incident> {
        let mut stalls = self.source.stalls_of(condition);
        stalls.truncate(Incident::MAX_STALLS);
        lock(&self.incidents.tracker).set_stalls(id, stalls)
    }

    /// Has actions done, by their index.
    fn act(&mut self, id: u64, condition: &IncidentCondition, due: &[usize]) {
        let start = Instant::now();
        let Some(incident) = self.with_stalls(id, condition) else { return };
        let mut evidence = IncidentEvidence { incident, threads: Arc::default() };
        let rules = self.rules.clone();
        let is_due = |name| due.iter().any(|&rule| rules[rule].name() == name);
        if due.iter().any(|&rule| !rules[rule].action.is_end()) {
            self.take_evidence(&evidence, due);
            evidence.incident.threads = lock(&evidence.threads).clone();
        }
        let incident = Arc::new(evidence.incident);
        if is_due(ActionName::LogThreads) {
            self.log_threads(&incident);
        }
        if is_due(ActionName::PrintThreads) {
            self.print(&incident);
        }
        for &rule in due.iter().filter(|&&rule| rules[rule].name() == ActionName::Call) {
            self.call(&incident, rule);
        }
        if let Some(&rule) = due.iter().find(|&&rule| rules[rule].action.is_end()) {
            self.end_process(&incident, condition, &rules[rule], start);
        }
    }

    /// Takes the threads, writes the files, and waits for both.
    fn take_evidence(&mut self, evidence: &IncidentEvidence, due: &[usize]) {
        let Some(runner) = &mut self.runners.evidence else { return };
        let (evidence, due): (_, Vec<usize>) = (evidence.clone(), due.to_vec());
        let (source, files) = (self.source.clone(), self.files.clone());
        let (incidents, queues) = (self.incidents.clone(), self.queues.clone());
        let is_written: Vec<usize> =
            due.iter().copied().filter(|&rule| self.rules[rule].name() == ActionName::WriteThreads).collect();
        let count =
            |result| is_written.iter().for_each(|_| self.incidents.counters.count(ActionName::WriteThreads, result));
        let job = move || {
            call_user(|| {
                let threads = source.threads();
                lock(&incidents.tracker).set_threads(evidence.incident.id, threads.clone());
                *lock(&evidence.threads) = Some(threads);
            });
            let threads = lock(&evidence.threads).clone();
            let text = text_of(&Incident { threads, ..evidence.incident.clone() });
            for path in lock(&files).iter_mut() {
                for _ in 0..path.count_due(&due) {
                    let result = path.write(&text, &queues);
                    incidents.counters.count(ActionName::WriteThreads, result);
                }
            }
        };
        if !runner.push(job) {
            count(ActionResult::Lost);
        } else if !runner.wait(EVIDENCE_LIMIT) {
            count(ActionResult::TimedOut);
        }
    }

    fn log_threads(&mut self, incident: &Incident) {
        let (done, over) = mpsc::sync_channel::<()>(0);
        let incidents = self.incidents.clone();
        let on_logged = OnLogged(Box::new(move |is_logged| {
            // Disconnected with this function.
            let _done = &done;
            let result = if is_logged { ActionResult::Done } else { ActionResult::Failed };
            incidents.counters.count(ActionName::LogThreads, result);
        }));
        let notice = Notice::IncidentThreads { incident: incident.id, text: threads_text(incident), on_logged };
        if !self.queues.push_notice(notice) {
            self.incidents.counters.count(ActionName::LogThreads, ActionResult::Lost);
            return;
        }
        self.logging.retain(|over| is_running(over, Duration::ZERO));
        self.logging.push(over);
    }

    fn print(&mut self, incident: &Incident) {
        let Some(runner) = &mut self.runners.print else { return };
        let (incidents, text) = (self.incidents.clone(), text_of(incident));
        let job = move || {
            let is_done = process::write_to_stderr(text.as_bytes()).is_ok();
            let result = if is_done { ActionResult::Done } else { ActionResult::Failed };
            incidents.counters.count(ActionName::PrintThreads, result);
        };
        if !runner.push(job) {
            self.incidents.counters.count(ActionName::PrintThreads, ActionResult::Lost);
        }
    }

    fn call(&mut self, incident: &Arc<Incident>, rule: usize) {
        let Some(runner) = &mut self.runners.call else { return };
        let (incidents, rules, incident) = (self.incidents.clone(), self.rules.clone(), incident.clone());
        let job = move || {
            let ActionKind::Call(callback) = &rules[rule].action else { return };
            let has_panicked = call_user(|| (callback.0)(&incident));
            let result = if has_panicked { ActionResult::Failed } else { ActionResult::Done };
            incidents.counters.count(ActionName::Call, result);
        };
        if !runner.push(job) {
            self.incidents.counters.count(ActionName::Call, ActionResult::Lost);
        }
    }

    /// Ends the process after the other actions, if the condition has lasted since `start`, as a
    /// reading has confirmed, and the watchdog is not shut down.
    fn end_process(&mut self, incident: &Incident, condition: &IncidentCondition, rule: &IncidentRule, start: Instant) {
        let deadline = Instant::now() + CALLBACK_LIMIT;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        if self.runners.print.as_mut().is_some_and(|runner| !runner.wait(remaining())) {
            self.incidents.counters.count(ActionName::PrintThreads, ActionResult::TimedOut);
        }
        if self.runners.call.as_mut().is_some_and(|runner| !runner.wait(remaining())) {
            self.incidents.counters.count(ActionName::Call, ActionResult::TimedOut);
        }
        self.logging.retain(|over| is_running(over, remaining()));
        if !self.logging.is_empty() {
            self.incidents.counters.count(ActionName::LogThreads, ActionResult::TimedOut);
        }
        let why = match confirm(&*self.source, &self.incidents.signal, condition, start, CONFIRMATION_LIMIT) {
            Confirmation::Lasts => None,
            Confirmation::Over => Some(format!("incident #{} is over", incident.id)),
            Confirmation::Unknown => Some(format!("it is not known whether incident #{} is over", incident.id)),
            Confirmation::Stopped => Some(SHUT_DOWN.into()),
        };
        if let Some(why) = why {
            return self.cancel_end(&why, rule);
        }
        let text = match rule.action {
            ActionKind::Exit(code) => format!("the process exits with code {code}, because of {}", incident.summary()),
            _ => format!("the process aborts, because of {}", incident.summary()),
        };
        self.queues.log_last_line(text, remaining().max(LATE));
        self.incidents.signal.unless_stopping(|| {
            self.incidents.counters.count(rule.name(), ActionResult::Done);
            match rule.action {
                ActionKind::Exit(code) => process::exit_at_once(code),
                _ => std::process::abort(),
            }
        });
        self.cancel_end(SHUT_DOWN, rule);
    }

    fn cancel_end(&self, why: &str, rule: &IncidentRule) {
        let name = rule.name();
        self.incidents.counters.count(name, ActionResult::Cancelled);
        let text = format!("{why}: the process continues, without the action {}", name.as_str());
        self.queues.push_notice(Notice::Degraded(text));
    }
}

/// An incident, and the threads once they are known.
#[derive(Clone)]
struct IncidentEvidence {
    incident: Incident,
    threads: Arc<Mutex<Option<Arc<ThreadDump>>>>,
}

/// Returns the text of files and of the standard error.
fn text_of(incident: &Incident) -> String {
    format!("pollwatch: {incident}\n\n{}\n", threads_text(incident))
}

fn threads_text(incident: &Incident) -> String {
    match &incident.threads {
        Some(threads) => threads.to_string().trim_end().to_owned(),
        None => "the threads could not be read in time".into(),
    }
}
