//! The [hysteresis](https://en.wikipedia.org/wiki/Hysteresis) that decides whether a runtime is
//! overloaded. It is a pure function of delays and times.

use std::time::Duration;

use crate::watermarks::Watermarks;

/// One observation of a runtime's schedule delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DelaySample {
    /// The probe task waited this long until it was polled.
    Measured(Duration),
    /// The probe task has waited this long while polls of other tasks started, and still waits.
    AtLeast(Duration),
}

impl DelaySample {
    /// Returns the delay, or its lower bound.
    fn delay(self) -> Duration {
        let (DelaySample::Measured(delay) | DelaySample::AtLeast(delay)) = self;
        delay
    }
}

/// A change of the detector's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Started,
    Stopped,
}

/// The age at which a sample has expired. Without a newer one, nothing is known of the delay,
/// unless the probe task still waits for its poll.
pub(crate) const STALE: Duration = Duration::from_secs(1);
/// The half-life of a measured delay while requests are rejected. Rejected requests take almost no
/// time, so rejecting them makes the delay vanish. If all requests were admitted again at once, the
/// delay would come back, and the state would oscillate.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// The time from the start of shedding for which refused permits keep the level at the high
/// watermark. Without the limit of permits, the refused requests would block the workers and cause
/// a delay. But a healthy service has some refusals as well, which must not keep shedding from
/// stopping.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// The detector of overload of one runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverloadDetector {
    watermarks: Watermarks,
    state: State,
    /// The time of the latest sample.
    sampled_at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The latest measured delay was at most the high watermark, or there is none.
    Calm,
    /// All samples since that time were above the high watermark.
    Late { since: Duration },
    /// Requests are rejected by the level, a delay that decays.
    Shedding { since: Duration, level: Duration },
}

impl OverloadDetector {
    pub(crate) fn new(watermarks: Watermarks) -> OverloadDetector {
        OverloadDetector { watermarks, state: State::Calm, sampled_at: Duration::ZERO }
    }

    /// Updates the state at the time `now`, with a sample if there is a new one. `is_unanswered` is
    /// true while the probe task waits for its poll. `refused` is true when a permit was refused
    /// since the previous measured sample.
    pub(crate) fn observe(
        &mut self,
        now: Duration,
        sample: Option<DelaySample>,
        is_unanswered: bool,
        refused: bool,
    ) -> Option<Transition> {
        let silence = now.saturating_sub(self.sampled_at);
        let was_shedding = self.is_shedding();
        // A delay describes the time from the wake of the probe task to the sample. In deep
        // overload, samples are more than `STALE` apart because the delays are that long.
        let unknown = match sample {
            Some(sample) => silence.saturating_sub(sample.delay()),
            None if is_unanswered => Duration::ZERO,
            None => silence,
        };
        if unknown >= STALE {
            self.state = State::Calm;
        }
        if let Some(sample) = sample {
            self.sampled_at = now;
            self.state = self.next(now, silence, sample, refused);
        }
        match (was_shedding, self.is_shedding()) {
            (false, true) => Some(Transition::Started),
            (true, false) => Some(Transition::Stopped),
            _ => None,
        }
    }

    /// Returns the state after a sample, which came `silence` after the previous one.
    fn next(&self, now: Duration, silence: Duration, sample: DelaySample, refused: bool) -> State {
        let Watermarks { high, low, sustain } = self.watermarks;
        // At twice the watermark all requests are rejected. A higher level would only take longer
        // to decay.
        let cap = high.saturating_mul(2);
        let delay = sample.delay();
        let is_measured = matches!(sample, DelaySample::Measured(_));
        match self.state {
            // One long poll delays the probe once. The next delay is short unless there is a queue.
            State::Calm if delay > high && !sustain.is_zero() => State::Late { since: now },
            State::Late { since } if delay > high && now.saturating_sub(since) < sustain => self.state,
            State::Calm | State::Late { .. } if delay > high => State::Shedding { since: now, level: delay.min(cap) },
            State::Calm | State::Late { .. } if is_measured => State::Calm,
            State::Calm | State::Late { .. } => self.state,
            // The probe still waits, so the level does not decay.
            State::Shedding { since, level } if !is_measured => {
                State::Shedding { since, level: level.max(delay.min(cap)) }
            }
            State::Shedding { since, level } => {
                let mut decayed = decay(level, silence);
                if refused && now.saturating_sub(since) < MAX_HOLD {
                    // The level is kept but not raised. At the high watermark no requests are
                    // rejected at random.
                    decayed = decayed.max(level.min(high));
                }
                let level = decayed.max(delay.min(cap));
                if level < low { State::Calm } else { State::Shedding { since, level } }
            }
        }
    }

    /// Returns whether requests are rejected.
    pub(crate) fn is_shedding(&self) -> bool {
        matches!(self.state, State::Shedding { .. })
    }

    /// Returns whether the runtime is not late: the latest measured delay was at most the high
    /// watermark, and no requests are rejected.
    pub(crate) fn is_calm(&self) -> bool {
        self.state == State::Calm
    }

    /// Returns the delay by which requests are rejected; zero while none are.
    pub(crate) fn level(&self) -> Duration {
        match self.state {
            State::Shedding { level, .. } => level.max(Duration::from_nanos(1)),
            _ => Duration::ZERO,
        }
    }
}

/// Returns the level to which `level` has decayed after some time.
fn decay(level: Duration, time: Duration) -> Duration {
    let factor = (-time.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
    Duration::try_from_secs_f64(level.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
