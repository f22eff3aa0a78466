//! A thread's own part of the clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::counter::Counter;
use super::{Clock, Ticks, nanos_since};
use crate::model::time::Nanos;

/// A thread's own part of a [`Clock`], inline where a poll needs it.
#[derive(Debug)]
pub(crate) struct ThreadClock {
    /// The readings come from the counter. The watchdog thread clears this.
    is_counter: AtomicBool,
    counter: Counter,
    anchor: Instant,
    clock: Clock,
}

impl ThreadClock {
    pub(crate) fn new(clock: &Clock) -> ThreadClock {
        ThreadClock {
            is_counter: AtomicBool::new(clock.0.is_counter.load(Ordering::Acquire)),
            counter: clock.0.counter.clone(),
            anchor: clock.0.anchor,
            clock: clock.clone(),
        }
    }

    /// Has the thread read what the clock reads.
    pub(crate) fn follow(&self) {
        if !self.clock.is_counter() {
            self.stop_counter();
        }
    }

    /// Has the thread read the monotonic clock from now on; any thread.
    pub(crate) fn stop_counter(&self) {
        self.is_counter.store(false, Ordering::Release);
    }

    #[inline(always)]
    fn is_counter(&self) -> bool {
        self.is_counter.load(Ordering::Relaxed)
    }

    /// Returns a raw reading, which is never 0.
    #[inline(always)]
    pub(crate) fn now(&self) -> Ticks {
        if self.is_counter() { self.counter.read() } else { nanos_since(&self.anchor) }
    }

    /// Returns a raw reading where that takes no call; `None` elsewhere.
    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn fast_now(&self) -> Option<Ticks> {
        self.is_counter().then(|| self.counter.read())
    }

    /// Returns the time from a reading to now where that takes no call; `None` elsewhere. Only a
    /// time below the threshold can be relied on.
    #[inline(always)]
    pub(crate) fn fast_since(&self, start: Ticks) -> Option<Nanos> {
        self.is_counter().then(|| self.counter.scale.nanos(self.counter.read(), start))
    }

    /// Returns the time from a reading to now. One of at least `threshold` is verified.
    #[inline]
    pub(crate) fn since(&self, start: Ticks, threshold: Nanos) -> Nanos {
        let elapsed = if self.is_counter() {
            self.counter.scale.nanos(self.counter.read(), start)
        } else {
            Nanos(nanos_since(&self.anchor).saturating_sub(start).0)
        };
        if elapsed < threshold { elapsed } else { self.clock.verified_since(start, elapsed) }
    }
}
