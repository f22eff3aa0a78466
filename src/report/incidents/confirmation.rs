//! The wait for a reading that confirms a condition.
//!
//! Some conditions are found by readings that may be rare. In between it is only assumed that they
//! still hold.

use std::time::{Duration, Instant};

use super::MonitorSignal;
use super::source::{AGE_JITTER, IncidentCondition, IncidentSource};
use crate::util::backoff::next_doubling;

/// The first and the longest interval between two requests. Each request has the watchdog scan.
const FIRST_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// The requests for one confirmation. The interval between them doubles, since no reading may be
/// affordable for a while, or none may show anything.
#[derive(Debug, Default)]
pub(super) struct ConfirmationRequests {
    latest: Option<Instant>,
    interval: Duration,
}

impl ConfirmationRequests {
    /// Requests a reading if that is due at the moment `now`. Returns the time until the next
    /// request.
    pub(super) fn request(&mut self, source: &dyn IncidentSource, now: Instant) -> Duration {
        let since = self.latest.map(|latest| now.saturating_duration_since(latest));
        if let Some(since) = since.filter(|since| *since < self.interval) {
            return self.interval - since;
        }
        source.request_confirmation();
        self.interval = match since {
            Some(_) => {
                let next = next_doubling(FIRST_INTERVAL.as_nanos() as u64, self.interval.as_nanos() as u64);
                Duration::from_nanos(next).min(MAX_INTERVAL)
            }
            None => FIRST_INTERVAL,
        };
        self.latest = Some(now);
        self.interval
    }
}

/// The answer to whether a condition still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    Lasts,
    Over,
    /// No reading has shown it in time.
    Unknown,
    /// The watchdog is being shut down.
    Stopped,
}

/// Waits until a reading shows whether a condition, which held at the moment `start`, has lasted
/// until this function is called. Waits for no longer than `limit`.
pub(super) fn confirm(
    source: &dyn IncidentSource,
    signal: &MonitorSignal,
    condition: &IncidentCondition,
    start: Instant,
    limit: Duration,
) -> Confirmation {
    let (called, mut requests) = (Instant::now(), ConfirmationRequests::default());
    loop {
        let elapsed = start.elapsed();
        let lasts = |now: &&IncidentCondition| now.is_same_kind(condition) && now.has_held_since(condition, elapsed);
        let conditions = source.incident_conditions();
        // No condition is found after a shutdown.
        if signal.is_stopping() {
            return Confirmation::Stopped;
        }
        let Some(now) = conditions.iter().find(lasts) else { return Confirmation::Over };
        let unconfirmed = now.confirmed_age.map_or(Duration::ZERO, |confirmed| now.age.saturating_sub(confirmed));
        if unconfirmed <= called.elapsed() + AGE_JITTER {
            return Confirmation::Lasts;
        }
        let remaining = limit.saturating_sub(called.elapsed());
        if remaining.is_zero() {
            return Confirmation::Unknown;
        }
        let next = requests.request(source, Instant::now());
        if !signal.sleep(Some(next.min(FIRST_INTERVAL).min(remaining))) {
            return Confirmation::Stopped;
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::incident::{HealthProblem, IncidentKind};
    use crate::model::stall::Stall;
    use crate::model::thread_dump::ThreadDump;

    /// What the readings of a source show.
    #[derive(Clone, Copy)]
    enum Readings {
        /// Each step finds the condition anew.
        NotNeeded,
        Nothing,
        /// The third reading shows that it lasts.
        Lasts,
        /// The third reading shows that it is over.
        Over,
    }

    struct Source {
        start: Instant,
        readings: Readings,
        requests: AtomicU64,
    }

    impl IncidentSource for Source {
        fn incident_conditions(&self) -> Vec<IncidentCondition> {
            let age = Duration::from_secs(60) + self.start.elapsed();
            let is_read = self.requests.load(Ordering::Relaxed) >= 3;
            let confirmed_age = match self.readings {
                Readings::NotNeeded => None,
                Readings::Over if is_read => return Vec::new(),
                Readings::Lasts if is_read => Some(age),
                _ => Some(Duration::from_secs(59)),
            };
            let (kind, reason) = (IncidentKind::RuntimeHung, String::new());
            vec![IncidentCondition { kind, runtime: "main".into(), age, confirmed_age, reason, stall: None }]
        }

        fn request_confirmation(&self) {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }

        fn has_ongoing_stalls(&self) -> bool {
            false
        }

        fn stalls_of(&self, _: &IncidentCondition) -> Vec<Stall> {
            Vec::new()
        }

        fn health(&self) -> Vec<HealthProblem> {
            Vec::new()
        }

        fn threads(&self) -> Arc<ThreadDump> {
            unreachable!("no action takes the threads")
        }
    }

    fn source(readings: Readings) -> Source {
        Source { start: Instant::now(), readings, requests: AtomicU64::new(0) }
    }

    /// Returns the answer, and the number of requests for it.
    fn answer(readings: Readings, limit: Duration, signal: &MonitorSignal) -> (Confirmation, u64) {
        let source = source(readings);
        let condition = source.incident_conditions().into_iter().next().expect("it holds at first");
        let answer = confirm(&source, signal, &condition, source.start, limit);
        (answer, source.requests.load(Ordering::Relaxed))
    }

    #[test]
    fn a_condition_that_was_only_assumed_to_last_is_read_again() {
        let (long, signal) = (Duration::from_secs(60), MonitorSignal::default());
        assert_eq!(answer(Readings::Over, long, &signal), (Confirmation::Over, 3));
        assert_eq!(answer(Readings::Lasts, long, &signal), (Confirmation::Lasts, 3));
        assert_eq!(answer(Readings::NotNeeded, Duration::ZERO, &signal), (Confirmation::Lasts, 0));
        assert_eq!(answer(Readings::Nothing, Duration::ZERO, &signal), (Confirmation::Unknown, 0));
        assert_eq!(answer(Readings::Nothing, Duration::from_millis(30), &signal).0, Confirmation::Unknown);
        signal.stop();
        assert_eq!(answer(Readings::Nothing, long, &signal).0, Confirmation::Stopped);
    }

    #[test]
    fn requests_become_rarer() {
        let (source, mut requests) = (source(Readings::Nothing), ConfirmationRequests::default());
        let start = Instant::now();
        let count_until = |requests: &mut ConfirmationRequests, ms: std::ops::Range<u64>| {
            let before = source.requests.load(Ordering::Relaxed);
            for at in ms {
                let next = requests.request(&source, start + Duration::from_millis(at));
                assert!(next > Duration::ZERO && next <= MAX_INTERVAL, "{next:?}");
            }
            source.requests.load(Ordering::Relaxed) - before
        };
        // At 0, 10, 30, 70, 150 and 310 ms, then each 250 ms.
        assert_eq!(count_until(&mut requests, 0..311), 6);
        assert_eq!(count_until(&mut requests, 311..10_310), 39);
    }
}
