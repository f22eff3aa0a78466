//! The monitor of one runtime: from readings of its lag to the level by which requests are
//! rejected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pollwatch::{LagReading, ScheduleDelay};

use crate::admission::{AdmissionControl, RuntimeLag};
use crate::log::{self, TokenBucket};
use crate::overload::{DelaySample, OverloadDetector, Transition};

pub(super) struct RuntimeMonitor {
    pub(super) runtime: Arc<RuntimeLag>,
    detector: OverloadDetector,
    high: Duration,
    is_logged: bool,
    /// The latest measurement that the detector has observed.
    latest: Option<ScheduleDelay>,
    bucket: TokenBucket,
    shedding: Option<Shedding>,
}

/// A time of shedding that has not stopped.
struct Shedding {
    start: Instant,
    /// The number of requests that were rejected before.
    rejected: u64,
    log: SheddingLog,
}

/// The state of the log of one time of shedding.
enum SheddingLog {
    /// No request was rejected so far: the runtime may serve none.
    NotRejected,
    /// The line of the first rejection was suppressed, and so is that of the stop.
    Suppressed,
    Logged,
}

impl RuntimeMonitor {
    pub(super) fn new(control: &AdmissionControl, runtime: Arc<RuntimeLag>) -> RuntimeMonitor {
        RuntimeMonitor {
            runtime,
            detector: OverloadDetector::new(control.watermarks),
            high: control.watermarks.high,
            is_logged: control.log,
            latest: None,
            bucket: TokenBucket::new(Duration::ZERO),
            shedding: None,
        }
    }

    /// Reads the lag, and decides whether the runtime is overloaded.
    pub(super) fn step(&mut self, now: Duration) {
        let reading = self.runtime.lag.read();
        let is_unanswered = reading.is_some_and(|reading| !reading.unanswered.is_zero());
        let sample = self.new_sample(reading);
        self.observe(now, sample, is_unanswered);
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

    pub(super) fn observe(
        &mut self,
        now: Duration,
        sample: Option<DelaySample>,
        is_unanswered: bool,
    ) -> Option<Transition> {
        self.log_first_rejection(now);
        // A refusal is kept until the next measured delay, which it belongs to.
        let refused = matches!(sample, Some(DelaySample::Measured(_))) && self.runtime.limit.take_refused();
        let transition = self.detector.observe(now, sample, is_unanswered, refused);
        self.runtime.set_level(self.detector.level());
        match transition {
            Some(Transition::Started) if self.is_logged => {
                let rejected = self.runtime.rejected();
                self.shedding = Some(Shedding { start: Instant::now(), rejected, log: SheddingLog::NotRejected });
            }
            Some(Transition::Stopped) => self.log_stop(),
            _ => {}
        }
        transition
    }

    /// Returns whether the runtime is not late.
    pub(super) fn is_calm(&self) -> bool {
        self.detector.is_calm()
    }

    /// Admits all requests: no layer is left, or the runtime is gone.
    pub(super) fn stop(&mut self) {
        self.runtime.set_level(Duration::ZERO);
        self.log_stop();
    }

    /// Logs that requests are rejected, once one was.
    fn log_first_rejection(&mut self, now: Duration) {
        let Some(shedding) = &mut self.shedding else { return };
        if !matches!(shedding.log, SheddingLog::NotRejected) || self.runtime.rejected() == shedding.rejected {
            return;
        }
        shedding.log = match self.bucket.take(now) {
            Some(suppressed) => {
                log::shedding_started(self.runtime.lag.runtime(), self.detector.level(), self.high, suppressed);
                SheddingLog::Logged
            }
            None => SheddingLog::Suppressed,
        };
    }

    fn log_stop(&mut self) {
        let Some(shedding) = self.shedding.take() else { return };
        if matches!(shedding.log, SheddingLog::Logged) {
            let rejected = self.runtime.rejected().saturating_sub(shedding.rejected);
            log::shedding_stopped(self.runtime.lag.runtime(), shedding.start.elapsed(), rejected);
        }
    }
}
