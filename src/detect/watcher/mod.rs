//! The watchdog thread: scans all slots, examines what is blocked, emits events, and sleeps until a
//! poll could be due.

mod blocking_pools;
mod clock;
mod drivers;
mod late;
mod observe;
mod probes;
mod sleep;
mod unwatched;
mod victims;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blocking_pools::BlockingPools;
use clock::ClockEvidence;
use drivers::Drivers;
use observe::ScanResult;
use pollwatch_stack::Tid;
use sleep::CpuTime;

use super::emit::{Emitter, EventSink, PollContext};
use super::examine::Examiner;
use super::forks;
use super::lag::LagPublisher;
use super::late::LateDetector;
use super::outside::detector::BlockedWorkerDetector;
use super::outside::observation::EntryId;
use super::outside::workers::Workers;
use super::panic_budget::{PanicBudget, PanicResponse};
use super::pause::Pauses;
use super::runtime_liveness::RuntimeLiveness;
use super::scan;
use super::status::WatcherStatus;
use super::task_growth::TaskGrowthAlarm;
use super::thread_times::ThreadTimesTracker;
use super::threads::ThreadDumper;
use super::track::{Change, Poll, PollState, Tracker};
use super::victims::VictimTracker;
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::model::coverage::StackCoverage;
use crate::model::id::{RuntimeId, StallId, ThreadNumber};
use crate::model::time::Nanos;
use crate::sys::OwnRunDelay;
use crate::util::call_user;

/// After this long without a poll the watchdog sleeps until there is one.
const IDLE_AFTER: Nanos = Nanos::from_secs(1);
/// The interval at which the probe of a runtime is woken while it polls.
const PROBE_INTERVAL: Nanos = Nanos::from_millis(100);
/// The interval at which the probe is woken where the runtime's lag has a reader.
const LAG_PROBE_INTERVAL: Nanos = Nanos::from_millis(20);

/// The interval at which tasks are counted while anything is polled, and the longest time between
/// the panic of a task and its report.
const TASKS_INTERVAL: Nanos = Nanos::from_secs(1);

/// The time from a scan that panicked to the next one.
const PANIC_DELAY: Duration = Duration::from_millis(10);

/// The settings of the watchdog thread.
#[derive(Clone, Debug)]
pub(crate) struct WatcherSettings {
    /// True unless the user switched captures off.
    pub(crate) capture_stacks: bool,
    /// The stacks that can be captured, as far as that is known at the start.
    pub(crate) stacks: StackCoverage,
    /// A site with more tasks than this is reported; `u64::MAX` switches that off.
    pub(crate) warn_above_alive_tasks: u64,
    /// True if a worker is woken when nobody attends the driver of its runtime.
    pub(crate) rescue_driver: bool,
    /// The time after which a full pool for blocking work is reported.
    pub(crate) blocking_pool_full_after: Nanos,
    pub(crate) thread_dumps: Arc<ThreadDumper>,
}

/// The watchdog thread, with its state from one scan to the next.
pub(crate) struct Watcher {
    meter: Arc<Meter>,
    threshold: Nanos,
    status: Arc<WatcherStatus>,
    settings: WatcherSettings,
    examiner: Examiner,
    emitter: Emitter,
    tracker: Tracker,
    pauses: Pauses,
    /// The CPU times of the threads that were in a poll when the latest sleep started.
    cpu_times: HashMap<ThreadNumber, CpuTime>,
    own_run_delay: OwnRunDelay,
    /// The reading of `own_run_delay` before the latest sleep.
    own_delay_before_sleep: Option<Nanos>,
    own_tid: Option<Tid>,
    /// The CPU time of this thread at the latest check of an oversleep.
    own_cpu: Option<Nanos>,
    thread_times: ThreadTimesTracker,
    clock_evidence: ClockEvidence,
    /// The moment up to which oversleeps have been checked. A pause may also fall into a time in
    /// which this thread is awake.
    last_confirmed: Nanos,
    /// The runtimes whose probe was woken while they were polling.
    probing: HashMap<RuntimeId, RuntimeLiveness>,
    /// The moment at which the probes of all polling runtimes were last woken.
    probed_at: Nanos,
    /// The moment at which the probes of the runtimes whose lag has a reader were last woken.
    lag_probed_at: Nanos,
    /// The runtimes whose probe is due, and is woken once that is harmless.
    postponed_probes: HashSet<RuntimeId>,
    drivers: Drivers,
    blocking_pools: BlockingPools,
    growth: TaskGrowthAlarm<(RuntimeId, SiteId)>,
    /// The moment at which tasks were last counted.
    tasks_counted_at: Nanos,
    lag: LagPublisher,
    victims: VictimTracker,
    late: LateDetector,
    /// The workers as they are observed from outside, and the detector of the blocked ones.
    workers: Workers,
    detector: BlockedWorkerDetector,
    /// The ongoing stalls that the detector has found, by thread.
    unwatched: HashMap<EntryId, StallId>,
    panic_budget: PanicBudget,
    /// True if a runtime that shuts down had a poll at the latest scan, or shortly before.
    is_closing: bool,
    /// The fingerprint of the latest scan that found any activity.
    fingerprint: u64,
    /// The moment of that scan.
    active_at: Nanos,
}

impl Watcher {
    pub(crate) fn new(
        meter: Arc<Meter>,
        status: Arc<WatcherStatus>,
        settings: WatcherSettings,
        sink: EventSink,
    ) -> Watcher {
        let threshold = meter.threshold;
        Watcher {
            threshold,
            examiner: Examiner::new(meter.clone(), status.clone(), settings.capture_stacks),
            emitter: Emitter::new(meter.clone(), settings.stacks, sink),
            tracker: Tracker::new(threshold),
            workers: Workers::default(),
            detector: BlockedWorkerDetector::new(threshold),
            unwatched: HashMap::new(),
            growth: TaskGrowthAlarm::new(settings.warn_above_alive_tasks),
            tasks_counted_at: Nanos::ZERO,
            meter,
            status,
            settings,
            pauses: Pauses::default(),
            cpu_times: HashMap::new(),
            own_run_delay: OwnRunDelay::open(),
            own_delay_before_sleep: None,
            own_tid: None,
            own_cpu: None,
            thread_times: ThreadTimesTracker::default(),
            clock_evidence: ClockEvidence::default(),
            last_confirmed: Nanos::ZERO,
            probing: HashMap::new(),
            probed_at: Nanos::ZERO,
            lag_probed_at: Nanos::ZERO,
            postponed_probes: HashSet::new(),
            drivers: Drivers::default(),
            blocking_pools: BlockingPools::default(),
            lag: LagPublisher::default(),
            victims: VictimTracker::default(),
            late: LateDetector::new(threshold),
            panic_budget: PanicBudget::default(),
            is_closing: false,
            fingerprint: 0,
            active_at: Nanos::ZERO,
        }
    }

    /// Runs until the watchdog stops.
    pub(crate) fn run(mut self) {
        let _end = EndOfScans { meter: self.meter.clone(), status: self.status.clone() };
        self.meter.wake.set_thread(std::thread::current());
        forks::record_from_now_on();
        self.own_tid = Tid::current();
        self.last_confirmed = self.now();
        loop {
            let stopping = self.status.is_stopping();
            let panicked = call_user(|| self.scan_and_sleep(stopping));
            if stopping || panicked && !self.recover() {
                break;
            }
            if !panicked {
                self.panic_budget.reset();
            }
        }
        if self.status.is_stopping() {
            // After the last scan, which still finds the workers of the stalls that are ongoing.
            call_user(|| self.meter.runtimes.stop_all(self.settings.rescue_driver));
        }
    }

    /// Handles a scan that panicked, which is a defect of pollwatch. Returns whether the thread
    /// continues.
    fn recover(&mut self) -> bool {
        self.count_panic();
        let response = self.panic_budget.spend();
        let problem = match response {
            PanicResponse::Report => Some(
                "the watchdog thread panicked, which is a defect of pollwatch: stalls of that moment may be reported wrongly or \
                 not at all; the watchdog continues",
            ),
            PanicResponse::Continue => None,
            PanicResponse::GiveUp => Some(
                "the watchdog thread panicked again and again, which is a defect of pollwatch: it has stopped, and no stall \
                 is found any more; the program itself is not affected",
            ),
        };
        // What has panicked may be the recorder, which gets this as well.
        if problem.is_some_and(|problem| call_user(|| self.emitter.emit_degraded(problem))) {
            self.count_panic();
        }
        if response == PanicResponse::GiveUp {
            return false;
        }
        std::thread::sleep(PANIC_DELAY);
        self.last_confirmed = self.now();
        true
    }

    fn count_panic(&self) {
        self.status.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Does one scan with all that follows from it, and sleeps until the next. The last scan does
    /// not sleep.
    fn scan_and_sleep(&mut self, stopping: bool) {
        #[cfg(test)]
        while self.status.injected_hang.load(Ordering::Relaxed) {
            std::thread::sleep(PANIC_DELAY);
        }
        #[cfg(test)]
        if self.status.injected_panics.load(Ordering::Relaxed) > 0 {
            self.status.injected_panics.fetch_sub(1, Ordering::Relaxed);
            panic!("injected by a test");
        }
        let mut scan = self.observe();
        self.check_awake();
        self.emit_changes(&scan);
        self.release_idle_runtimes(&scan);
        self.detect_blocked_workers(&mut scan);
        self.examiner.cancel_ended_captures();
        if self.examiner.take_examined() {
            self.skip_examined();
        }
        self.emitter.emit_task_panics();
        self.emitter.report_unnamed_runtimes();
        if stopping {
            self.report_task_growth();
            return;
        }
        self.report_late_runtimes(&scan);
        self.publish_lag(&scan);
        self.check_drivers(&scan);
        self.check_blocking_pools(&scan);
        self.probe(&scan);
        if self.is_active(&scan) {
            self.fingerprint = scan.fingerprint;
            self.active_at = scan.now;
        }
        // Tasks are counted between the last poll and the sleep that follows it.
        if self.active_at >= self.tasks_counted_at && scan.now.saturating_sub(self.tasks_counted_at) >= TASKS_INTERVAL {
            self.tasks_counted_at = scan.now;
            self.emitter.report_refused_threads();
            if self.growth.may_change(self.most_tasks()) {
                self.report_task_growth();
            }
        }
        if scan.now.saturating_sub(self.active_at) >= IDLE_AFTER {
            let limits = [self.check_drivers_before_sleep(&scan), self.check_blocking_pools_before_sleep(&scan)];
            self.sleep_until_a_poll(limits.into_iter().flatten().min());
        } else {
            self.sleep(&scan);
        }
        self.status.wakeups.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether anything was polled since the previous scan, or still has to be observed.
    fn is_active(&self, scan: &ScanResult) -> bool {
        scan.fingerprint != self.fingerprint
            || !scan.polls.running.is_empty()
            || self.tracker.has_stalls()
            || self.is_closing
            || !scan.workers.busy_runtimes.is_empty()
            || self.lag.late().next().is_some()
    }

    fn now(&self) -> Nanos {
        self.meter.clock.moment()
    }

    /// Drops what was kept of the runtimes that shut down and have no poll left.
    fn release_idle_runtimes(&mut self, scan: &ScanResult) {
        // A slot that changes too fast to be read has no poll that blocks.
        let is_polling = |id| scan.polls.running.iter().any(|poll| poll.runtime == id);
        let is_left =
            |runtime: &Arc<Runtime>| runtime.release_if_idle(is_polling(runtime.id), scan.now, self.threshold);
        // Each of them, and not only up to the first that is left.
        self.is_closing = self.meter.runtimes.all().iter().filter(|runtime| is_left(runtime)).count() > 0;
    }

    /// Emits the changes that a scan makes to the tracked polls.
    fn emit_changes(&mut self, scan: &ScanResult) {
        let state = |poll: &Poll| current_state(&self.meter, scan, poll);
        let changes = self.tracker.step(scan.now, &scan.polls, &self.pauses, state);
        self.track_stalls(&changes, scan);
        for change in changes {
            let context = match &change {
                Change::Started { poll, .. } | Change::EndedUnseen { poll, .. } => self.context(poll, scan),
                _ => None,
            };
            self.emitter.emit_change(&mut self.examiner, change, scan.now, context);
        }
        self.emit_victims(scan);
    }

    /// Returns the thread of a poll with earlier readings of it; `None` when the thread is unknown.
    fn context(&self, poll: &Poll, scan: &ScanResult) -> Option<PollContext> {
        let thread = scan.threads.get(&poll.key.thread)?.clone();
        let cpu = self.cpu_times.get(&thread.id).filter(|cpu| cpu.poll == poll.key);
        let readings = self.readings(&thread, poll);
        Some(PollContext { thread, baseline: cpu.map(|cpu| cpu.baseline), readings })
    }

    /// Returns the number of tasks of the largest runtime: no site has more.
    fn most_tasks(&self) -> u64 {
        let runtimes = self.meter.runtimes.all();
        let alive = runtimes.iter().filter_map(|runtime| Some(runtime.metrics()?.num_alive_tasks()));
        alive.max().unwrap_or(0) as u64
    }

    /// Emits the sites whose tasks have grown past the limit.
    fn report_task_growth(&mut self) {
        for ((runtime, site), alive) in self.growth.check(&self.meter.alive()) {
            self.emitter.emit_task_growth(runtime, site, alive, self.settings.warn_above_alive_tasks);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

/// Does what has to follow the last scan, when it is dropped: also where a panic ends the thread.
struct EndOfScans {
    meter: Arc<Meter>,
    status: Arc<WatcherStatus>,
}

impl Drop for EndOfScans {
    fn drop(&mut self) {
        // Otherwise load shedding would act on the last published lag for ever.
        call_user(|| LagPublisher::clear(&self.meter));
        // This may drop the user's hooks.
        call_user(|| self.meter.runtimes.end_scans());
        self.status.set_ended();
    }
}

/// Returns whether a poll of a scan blocks a worker at this moment.
fn current_state(meter: &Meter, scan: &ScanResult, poll: &Poll) -> PollState {
    let Some(thread) = scan.threads.get(&poll.key.thread) else { return PollState::Finished };
    let reading = thread.slot.read();
    let frame = reading.as_ref().and_then(|r| r.frames().iter().find(|f| f.number == poll.key.number));
    match (frame, meter.runtimes.get(poll.runtime)) {
        (Some(frame), Some(runtime)) => scan::poll_state(&runtime, thread, frame),
        _ => PollState::Finished,
    }
}
