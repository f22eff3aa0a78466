//! The log lines, and the limit of their rate.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tracing::{Level, event};

/// Calls user code, and returns whether it panicked. The drop of the panic's payload is caught too,
/// because it may panic as well.
pub(crate) fn call_user(f: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else { return false };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        mem::forget(second);
    }
    true
}

/// Logs an event. A panic in the application's subscriber is caught, because it would end the
/// monitor thread.
fn log(event: impl FnOnce()) {
    call_user(event);
}

/// Logs that requests to a runtime are rejected. `suppressed` is the number of such
/// lines that were left out since the previous one.
pub(crate) fn shedding_started(runtime: &str, delay: Duration, high: Duration, suppressed: u64) {
    let [delay, high] = [delay, high].map(|time| time.as_secs_f64() * 1e3);
    let suffix = match suppressed {
        0 => String::new(),
        n => format!(" ({n} more times since the last report)"),
    };
    log(|| {
        event!(
            target: "pollwatch::shed",
            parent: None,
            Level::WARN,
            runtime,
            lag_ms = delay,
            high_ms = high,
            suppressed = (suppressed > 0).then_some(suppressed),
            "requests are rejected: tasks of runtime {runtime:?} wait {delay:.0} ms or longer for their poll, the limit is \
             {high:.0} ms{suffix}",
        )
    });
}

/// Logs that all requests to a runtime are admitted again. `requests` is the number of requests
/// that were rejected in the `time` since the logged start.
pub(crate) fn shedding_stopped(runtime: &str, time: Duration, requests: u64) {
    let seconds = time.as_secs_f64();
    log(|| {
        event!(
            target: "pollwatch::shed",
            parent: None,
            Level::INFO,
            runtime,
            seconds,
            requests,
            "all requests to runtime {runtime:?} are admitted again, after {seconds:.1} s in which {requests} were rejected",
        )
    });
}

/// Logs that the layer admits all requests, because its monitor thread cannot be started or
/// reached.
pub(crate) fn no_monitor(error: &std::io::Error) {
    log(|| {
        event!(
            target: "pollwatch::shed",
            parent: None,
            Level::WARN,
            "load shedding is off and all requests are admitted, because its thread cannot be started or reached: {error}",
        )
    });
}

/// Logs that the layers admit all requests, because their monitor thread has panicked.
pub(crate) fn monitor_panicked() {
    log(|| {
        event!(
            target: "pollwatch::shed",
            parent: None,
            Level::WARN,
            "load shedding is off and all requests are admitted, because its thread panicked, which is a defect of \
             pollwatch-shed",
        )
    });
}

/// A [token bucket](https://en.wikipedia.org/wiki/Token_bucket) for the lines of one runtime.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    tokens: u32,
    /// The time at which the latest token was added.
    refilled: Duration,
    /// The number of lines for which there was no token since the latest one was taken.
    suppressed: u64,
}

impl TokenBucket {
    /// The number of lines that may be logged at once.
    const BURST: u32 = 5;
    /// The time after which one more line is logged.
    const INTERVAL: Duration = Duration::from_secs(10);

    pub(crate) fn new(now: Duration) -> TokenBucket {
        TokenBucket { tokens: TokenBucket::BURST, refilled: now, suppressed: 0 }
    }

    /// Takes a token at the time `now`, or returns `None` when there is none. Returns the number of
    /// lines that were suppressed since the previous token.
    pub(crate) fn take(&mut self, now: Duration) -> Option<u64> {
        while self.tokens < TokenBucket::BURST && now.saturating_sub(self.refilled) >= TokenBucket::INTERVAL {
            self.tokens += 1;
            self.refilled += TokenBucket::INTERVAL;
        }
        if self.tokens == TokenBucket::BURST {
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(mem::take(&mut self.suppressed))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_whose_payload_panics_is_caught() {
        struct Payload;
        impl Drop for Payload {
            fn drop(&mut self) {
                std::panic::panic_any(Payload);
            }
        }
        assert!(call_user(|| std::panic::panic_any(Payload)));
        assert!(!call_user(|| {}));
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        let mut bucket = TokenBucket::new(Duration::ZERO);
        let at = |half_seconds: u32| Duration::from_millis(500) * half_seconds;
        let taken: Vec<_> = (0..100).filter_map(|i| Some((i, bucket.take(at(i))?))).collect();
        let burst = (0..5).map(|i| (i, 0));
        let rate = [(20, 15), (40, 19), (60, 19), (80, 19)];
        assert_eq!(taken, burst.chain(rate).collect::<Vec<_>>());
        // After an hour there is a burst again, and no more.
        let hour = Duration::from_secs(3_600);
        assert_eq!((0..10).filter(|_| bucket.take(hour).is_some()).count(), 5);
    }
}
