//! A run of runtimes with incidents, and with what resembles one: whether each is reported with its
//! kind and its runtime, and nothing else is.
//!
//! Each runtime has a thread that injects into it, in a random order: each condition that becomes
//! an incident, the same conditions for a shorter time than `after`, and what is no condition.
//! Injections note what they did, by their own clock. A timer of the runtime shows whether its
//! driver is attended.

mod evaluation;
mod injections;
mod provoked;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Action, Incident, IncidentKind, Phase, Watchdog};

use super::cpu_monitor::CpuMonitor;
use super::ground_truth::{at_wall, now};
use super::poll_recorder::lock;
use super::rng::Rng;
pub(crate) use evaluation::{ConditionRow, IncidentFigures};
use evaluation::{ReportedIncident, TrueCondition};
#[cfg(test)]
pub(crate) use injections::can_occur;
use injections::{Injection, TestedRuntime};

/// The time after which a condition is an incident.
pub(crate) const AFTER: Duration = Duration::from_millis(200);
/// The time after which a full pool is a condition.
const POOL_FULL_AFTER: Duration = Duration::from_millis(50);
/// The threads of each pool.
const POOL_THREADS: usize = 6;
/// The time limit for the end of an incident, and for attempts to cause one.
const PATIENCE: Duration = Duration::from_secs(10);

/// An incident of which the callback was called at a moment.
struct Call {
    at: u64,
    incident: Incident,
}

/// A watchdog, and the incidents that it has reported.
struct Rig {
    watchdog: Watchdog,
    called: Arc<Mutex<Vec<Call>>>,
    /// The durations of the incidents that have ended, by their number.
    ended: Mutex<HashMap<u64, Duration>>,
    /// The number of the latest incident before the run.
    latest_before: u64,
}

impl Rig {
    fn start(threshold: Duration, share: f64) -> Rig {
        let called: Arc<Mutex<Vec<Call>>> = Arc::default();
        let calls = called.clone();
        let call = Action::call(move |incident| lock(&calls).push(Call { at: now(), incident: incident.clone() }));
        let builder = Watchdog::builder().threshold(threshold).log(false).rescue_driver(false).blocked_share(share);
        let watchdog = builder.blocking_pool_full_after(POOL_FULL_AFTER).on_incident(AFTER, call).start();
        Rig { watchdog: watchdog.expect("starts"), called, ended: Mutex::default(), latest_before: 0 }
    }

    fn runtime(&self, workers: usize, needed: usize) -> TestedRuntime {
        let name = match workers == needed {
            true => format!("workers: {workers}"),
            false => format!("workers: {workers}, enough: {needed}"),
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(workers).enable_all().max_blocking_threads(POOL_THREADS);
        let runtime = self.watchdog.build_runtime(&name, builder).expect("builds");
        TestedRuntime { name: name.into(), workers, needed, runtime, watchdog: self.watchdog.clone() }
    }

    /// Waits until no incident of a runtime is ongoing, and no condition, and returns whether that
    /// was in time. Conditions that follow each other without a time between them are one, as far
    /// as readings can show. Keeps the durations, since the watchdog keeps only the latest
    /// incidents.
    fn await_ends(&self, runtime: &str) -> bool {
        let start = Instant::now();
        let is_ongoing = |incident: &Incident| &*incident.runtime == runtime && incident.phase == Phase::Ongoing;
        let has_condition = || self.watchdog.conditions().iter().any(|condition| &*condition.runtime == runtime);
        while self.watchdog.incidents().iter().any(is_ongoing) || has_condition() {
            if start.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let incidents = self.watchdog.incidents();
        let resolved = incidents.iter().filter(|incident| incident.phase == Phase::Resolved);
        lock(&self.ended).extend(resolved.map(|incident| (incident.id, incident.duration)));
        true
    }

    /// Ignores all incidents so far, also where their callbacks are called later.
    fn ignore_earlier(&mut self) {
        self.latest_before = self.watchdog.incidents().iter().map(|incident| incident.id).max().unwrap_or(0);
    }

    /// Returns the reports of the run.
    fn reported(&self) -> Vec<ReportedIncident> {
        let ended = lock(&self.ended);
        let report = |Call { at, incident }: &Call| ReportedIncident {
            kind: incident.kind,
            runtime: incident.runtime.clone(),
            started_at: at_wall(incident.started_at),
            received: *at,
            acted: incident.threads.as_ref().map_or(*at, |threads| at_wall(threads.taken_at).min(*at)),
            duration: ended.get(&incident.id).map(|duration| duration.as_nanos() as u64),
            text: incident.summary().to_string(),
        };
        lock(&self.called).iter().filter(|call| call.incident.id > self.latest_before).map(report).collect()
    }
}

/// Injects into runtimes of 1, 2 and 4 workers at once for `time`, and at least each injection
/// once.
pub(crate) fn run(threshold: Duration, time: Duration, seed: u64) -> IncidentFigures {
    let (mut all, half) = (Rig::start(threshold, 1.0), Rig::start(threshold, 0.5));
    let [one, two, four] = [1, 2, 4].map(|workers| all.runtime(workers, workers));
    // The first search for a deadlock reads the symbols of the program.
    injections::inject(&two, Injection::Condition(IncidentKind::Deadlock), PATIENCE / 10);
    all.await_ends(&two.name);
    all.ignore_earlier();
    let runtimes = [(&all, one), (&all, two), (&all, four), (&half, half.runtime(4, 2))];
    let cpu_monitor = CpuMonitor::start();
    let end = Instant::now() + time;
    let (mut conditions, mut not_ended) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0u64..)
            .zip(&runtimes)
            .map(|(i, (rig, runtime))| scope.spawn(move || inject_until(rig, runtime, end, Rng::new(seed + i))))
            .collect();
        for thread in threads {
            let (of_runtime, ongoing) = thread.join().expect("an injector does not panic");
            conditions.extend(of_runtime);
            not_ended.extend(ongoing);
        }
    });
    let reported = [all.reported(), half.reported()].concat();
    let cpu = cpu_monitor.stop();
    IncidentFigures::new(&conditions, &reported, not_ended, &cpu)
}

/// Injects into one runtime. Returns the conditions that there were, and a description of each
/// incident whose end was not reported.
fn inject_until(rig: &Rig, runtime: &TestedRuntime, end: Instant, mut rng: Rng) -> (Vec<TrueCondition>, Vec<String>) {
    let (mut conditions, mut not_ended) = (Vec::new(), Vec::new());
    loop {
        for (injection, length) in runtime.shuffled(&mut rng) {
            let injected = injections::inject(runtime, injection, length);
            if !rig.await_ends(&runtime.name) {
                not_ended.push(format!("{injection:?} of {}: {:?}", runtime.name, rig.watchdog.incidents()));
            }
            conditions.extend(injected);
        }
        if Instant::now() >= end {
            return (conditions, not_ended);
        }
    }
}
