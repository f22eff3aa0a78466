//! The thread that reads the lag of all runtimes and decides which of them are overloaded.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::{LagReading, ScheduleDelay};
use tokio::runtime::Id;

use crate::admission::{AdmissionControl, Mode, RuntimeLag};
use crate::log::{self, TokenBucket};
use crate::overload::{DelaySample, OverloadDetector, Transition};

/// The interval at which the lags are read. The watchdog measures each 20 ms at most, so that no
/// measurement is overwritten unseen.
const INTERVAL: Duration = Duration::from_millis(10);
/// The time without a reading after which the thread sleeps until the next request.
const IDLE: Duration = Duration::from_secs(1);
/// The interval at which new runtimes are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(500);

/// Starts the monitor thread. It ends when the control is told to stop.
pub(crate) fn start(control: &Arc<AdmissionControl>, log: bool) {
    let monitored = control.clone();
    let thread = thread::Builder::new().name("pollwatch-shed".into());
    match thread.spawn(move || Monitor::new(monitored, log).run()) {
        Ok(thread) => control.set_monitor(thread.thread().clone()),
        Err(error) => {
            // No request is ever judged.
            control.set_mode(Mode::Calm);
            if log {
                log::no_monitor(&error);
            }
        }
    }
}

struct Monitor {
    control: Arc<AdmissionControl>,
    log: bool,
    start: Instant,
    runtimes: Vec<RuntimeMonitor>,
    looked_up: Option<Instant>,
    /// The time of the latest reading or request.
    active: Instant,
}

impl Monitor {
    fn new(control: Arc<AdmissionControl>, log: bool) -> Monitor {
        let now = Instant::now();
        Monitor { control, log, start: now, runtimes: Vec::new(), looked_up: None, active: now }
    }

    fn run(mut self) {
        // The first request wakes it.
        thread::park();
        while !self.control.is_stopping() {
            self.step(Instant::now());
            if self.active.elapsed() < IDLE {
                thread::park_timeout(INTERVAL);
                continue;
            }
            self.control.set_mode(Mode::Asleep);
            thread::park();
            self.active = Instant::now();
            self.looked_up = None;
        }
        self.runtimes.drain(..).for_each(|mut runtime| runtime.stop(self.log));
    }

    fn step(&mut self, now: Instant) {
        if self.looked_up.is_none_or(|at| now.duration_since(at) >= LOOKUP_INTERVAL) {
            self.looked_up = Some(now);
            self.look_up_runtimes();
        }
        let since_start = now.duration_since(self.start);
        for runtime in &mut self.runtimes {
            let reading = runtime.runtime.lag.read();
            if reading.is_some() {
                self.active = now;
            }
            let sample = runtime.new_sample(reading);
            runtime.observe(since_start, sample, self.log);
        }
        let is_calm = self.runtimes.iter().all(|runtime| runtime.detector.is_calm());
        if !is_calm {
            self.active = now;
        }
        self.control.set_mode(if is_calm { Mode::Calm } else { Mode::Engaged });
    }

    /// Takes in new runtimes, and drops those that are gone.
    fn look_up_runtimes(&mut self) {
        let lags: Vec<_> =
            self.control.source.all().into_iter().filter_map(|lag| Some((lag.runtime_id()?, lag))).collect();
        let is_alive = |id: Id| lags.iter().any(|(alive, _)| *alive == id);
        let before = self.runtimes.len();
        let log = self.log;
        self.runtimes.retain_mut(|runtime| {
            let keep = is_alive(runtime.runtime.id);
            if !keep {
                runtime.stop(log);
            }
            keep
        });
        let mut is_changed = self.runtimes.len() != before;
        for (id, lag) in lags {
            if self.runtimes.iter().all(|known| known.runtime.id != id) {
                let workers = lag.workers().unwrap_or(1);
                let runtime = RuntimeLag::new(id, lag, workers);
                self.runtimes.push(RuntimeMonitor::new(&self.control, runtime));
                is_changed = true;
            }
        }
        if is_changed {
            self.control.set_runtimes(self.runtimes.iter().map(|known| known.runtime.clone()).collect());
        }
    }
}

/// What is known of one runtime.
struct RuntimeMonitor {
    runtime: Arc<RuntimeLag>,
    detector: OverloadDetector,
    high: Duration,
    /// The latest measurement that the detector has seen.
    latest: Option<ScheduleDelay>,
    bucket: TokenBucket,
    /// The logged start of shedding: its time, and the number of rejected requests before it.
    logged_start: Option<(Instant, u64)>,
}

impl RuntimeMonitor {
    fn new(control: &AdmissionControl, runtime: Arc<RuntimeLag>) -> RuntimeMonitor {
        RuntimeMonitor {
            runtime,
            detector: OverloadDetector::new(control.watermarks),
            high: control.watermarks.high,
            latest: None,
            bucket: TokenBucket::new(Duration::ZERO),
            logged_start: None,
        }
    }

    /// Returns the measurement of a reading, if it is new.
    fn new_sample(&mut self, reading: Option<LagReading>) -> Option<DelaySample> {
        let measured = reading?.schedule_delay.filter(|delay| self.latest != Some(*delay))?;
        self.latest = Some(measured);
        Some(match measured.is_lower_bound {
            true => DelaySample::AtLeast(measured.delay),
            false => DelaySample::Measured(measured.delay),
        })
    }

    fn observe(&mut self, now: Duration, sample: Option<DelaySample>, log: bool) -> Option<Transition> {
        // Kept until there is a measurement that it belongs to.
        let refused = matches!(sample, Some(DelaySample::Measured(_))) && self.runtime.limit.take_refused();
        let transition = self.detector.observe(now, sample, refused);
        self.runtime.set_level(self.detector.level());
        match transition {
            Some(Transition::Started) if log => self.log_start(now),
            Some(Transition::Stopped) => self.log_stop(),
            _ => {}
        }
        transition
    }

    /// Admits all requests: the layer is gone, or the runtime is.
    fn stop(&mut self, log: bool) {
        self.runtime.set_level(Duration::ZERO);
        if log {
            self.log_stop();
        }
    }

    fn log_start(&mut self, now: Duration) {
        if let Some(suppressed) = self.bucket.take(now) {
            self.logged_start = Some((Instant::now(), self.runtime.rejected()));
            log::shedding_started(self.runtime.lag.runtime(), self.detector.level(), self.high, suppressed);
        }
    }

    fn log_stop(&mut self) {
        if let Some((start, before)) = self.logged_start.take() {
            let rejected = self.runtime.rejected().saturating_sub(before);
            log::shedding_stopped(self.runtime.lag.runtime(), start.elapsed(), rejected);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
