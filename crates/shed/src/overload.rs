//! The hysteresis that decides whether a runtime is overloaded. Pure: delays and times in, a level
//! out.

use std::time::Duration;

use crate::watermarks::Watermarks;

/// One observation of a runtime's schedule delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DelaySample {
    /// A task waited this long until it was polled.
    Measured(Duration),
    /// A task has waited this long while polls of other tasks started, and still waits.
    AtLeast(Duration),
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Started,
    Stopped,
}

/// The time after which nothing is known of a delay that is not measured again.
pub(crate) const STALE: Duration = Duration::from_secs(1);
/// The half-life of a measured delay while requests are rejected. Rejected requests take next to no
/// time, so the delay is gone as soon as they are; if all were admitted again at once, it would
/// come back, and so on.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// The time from the start of shedding for which refused permits keep the level up. The refused
/// requests would be what others wait for if they were admitted. But a healthy service has some of
/// them as well, and must not be shed for them for ever.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// The detector of one runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverloadDetector {
    watermarks: Watermarks,
    state: State,
    /// The time of the latest sample.
    sampled_at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Calm,
    /// Every sample since then was above the high watermark.
    Late {
        since: Duration,
    },
    /// Requests are rejected by this level.
    Shedding {
        since: Duration,
        level: Duration,
    },
}

impl OverloadDetector {
    pub(crate) fn new(watermarks: Watermarks) -> OverloadDetector {
        OverloadDetector { watermarks, state: State::Calm, sampled_at: Duration::ZERO }
    }

    /// Takes in a sample, if there is a new one, at the time `now`. `refused` says whether a permit
    /// was refused since the previous measured sample.
    pub(crate) fn observe(&mut self, now: Duration, sample: Option<DelaySample>, refused: bool) -> Option<Transition> {
        let silence = now.saturating_sub(self.sampled_at);
        let was_shedding = self.is_shedding();
        if silence >= STALE {
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

    fn next(&self, now: Duration, silence: Duration, sample: DelaySample, refused: bool) -> State {
        let Watermarks { high, low, sustain } = self.watermarks;
        // All requests are rejected at twice the watermark: a higher level would only take longer
        // to decay.
        let cap = high.saturating_mul(2);
        let (DelaySample::Measured(delay) | DelaySample::AtLeast(delay)) = sample;
        let is_measured = matches!(sample, DelaySample::Measured(_));
        match self.state {
            // One long poll is one late answer. The next answer is in time unless there is a queue.
            State::Calm if delay > high && !sustain.is_zero() => State::Late { since: now },
            State::Late { since } if delay > high && now.saturating_sub(since) < sustain => self.state,
            State::Calm | State::Late { .. } if delay > high => State::Shedding { since: now, level: delay.min(cap) },
            State::Calm | State::Late { .. } if is_measured => State::Calm,
            State::Calm | State::Late { .. } => self.state,
            // The task still waits, which is no improvement.
            State::Shedding { since, level } if !is_measured => {
                State::Shedding { since, level: level.max(delay.min(cap)) }
            }
            State::Shedding { since, level } => {
                let mut decayed = decay(level, silence);
                if refused && now.saturating_sub(since) < MAX_HOLD {
                    // Held, never raised: at the high watermark the share is zero.
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

    /// Returns whether the latest samples were below the high watermark.
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

/// Returns what remains of a level after some time.
fn decay(level: Duration, time: Duration) -> Duration {
    let factor = (-time.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
    Duration::try_from_secs_f64(level.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
