//! The timeline of a counter: which moment a reading of the counter is of, also after the counter
//! has jumped. Pure, except for [`SharedTimeline`].
//!
//! The counter is compared with the monotonic clock again and again. Small differences are drift,
//! which each comparison corrects. A larger one is a step: the machine was suspended or restored
//! from a snapshot, or its hypervisor has changed the counter. From a step on, readings belong to a
//! new period. Where a reading may be of several periods it gets the latest moment of them. So a
//! poll that spans a step may be taken as shorter than it is, and never as longer.

use super::Ticks;
use super::counter::Scale;
use crate::model::time::Nanos;
use crate::sync::seqlock::{Field, Version};

/// A smaller difference from the monotonic clock is no step.
pub(super) const MIN_STEP: Nanos = Nanos::from_millis(1);
/// The number of periods that are kept. Polls that span more steps are rare. The model has one.
const PERIODS: usize = if cfg!(pollwatch_loom) { 1 } else { 4 };

/// The readings of both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockPair {
    pub(super) ticks: Ticks,
    /// The moment by the monotonic clock.
    pub(super) at: Nanos,
    /// The time between the two readings of the monotonic clock around that of the counter.
    pub(super) width: Nanos,
}

/// A difference between the counter and the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockStep {
    Forward(Nanos),
    Back(Nanos),
}

impl ClockStep {
    pub(crate) fn length(self) -> Nanos {
        match self {
            ClockStep::Forward(by) | ClockStep::Back(by) => by,
        }
    }

    /// Returns the nanoseconds, which are negative for a step back.
    pub(super) fn signed(self) -> i128 {
        match self {
            ClockStep::Forward(by) => i128::from(by.0),
            ClockStep::Back(by) => -i128::from(by.0),
        }
    }
}

/// A time in which the counter did not jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SteadyPeriod {
    /// A reading of the period, its moment, and the time in which both were read.
    ticks: Ticks,
    at: Nanos,
    width: Nanos,
    /// The least and the greatest reading that may be of the period.
    min: Ticks,
    max: Ticks,
    /// The moment of the latest comparison before the period.
    start: Nanos,
}

impl SteadyPeriod {
    const WORDS: usize = 6;

    fn contains(&self, reading: Ticks) -> bool {
        (self.min..=self.max).contains(&reading)
    }

    fn moment_of(&self, reading: Ticks, scale: Scale) -> Nanos {
        if reading >= self.ticks {
            self.at + scale.nanos(reading, self.ticks)
        } else {
            self.at.saturating_sub(scale.nanos(self.ticks, reading))
        }
    }
}

/// The latest periods of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The newest first.
    periods: [SteadyPeriod; PERIODS],
    len: usize,
}

impl Timeline {
    pub(super) fn new(pair: ClockPair) -> Timeline {
        let ClockPair { ticks, at, width } = pair;
        let first = SteadyPeriod { ticks, at, width, min: Ticks(0), max: Ticks::MAX, start: Nanos::ZERO };
        let mut periods = [SteadyPeriod::default(); PERIODS];
        periods[0] = first;
        Timeline { periods, len: 1 }
    }

    /// Returns the moment of a reading. `now` is a reading of this moment.
    pub(super) fn moment_of(&self, reading: Ticks, now: Ticks, scale: Scale) -> Nanos {
        let current = &self.periods[0];
        if self.len == 1 {
            return current.moment_of(reading, scale);
        }
        // Readings on two CPUs may differ by less than a step.
        let is_past = reading <= now.saturating_add(scale.ticks(MIN_STEP));
        let periods = self.periods[..self.len].iter().skip(if is_past { 0 } else { 1 });
        let moments = periods.filter(|s| s.contains(reading)).map(|s| s.moment_of(reading, scale));
        moments.max().unwrap_or(current.start)
    }

    /// Returns whether a reading can only be of the current period.
    pub(super) fn is_current(&self, reading: Ticks) -> bool {
        self.periods[0].contains(reading) && !self.periods[1..self.len].iter().any(|old| old.contains(reading))
    }

    /// Returns how far the counter is ahead of the monotonic clock since the latest comparison.
    pub(super) fn lead(&self, pair: ClockPair, scale: Scale) -> ClockStep {
        let current = &self.periods[0];
        let elapsed = pair.at.saturating_sub(current.at);
        let counted = scale.nanos(pair.ticks, current.ticks);
        if counted >= elapsed {
            ClockStep::Forward(counted.saturating_sub(elapsed))
        } else {
            // One of the two terms of the counter is zero.
            let counted_back = scale.nanos(current.ticks, pair.ticks);
            ClockStep::Back((elapsed + counted_back).saturating_sub(counted))
        }
    }

    /// Returns the step that must have happened since the latest comparison, if there was one.
    pub(super) fn step(&self, pair: ClockPair, scale: Scale) -> Option<ClockStep> {
        let elapsed = pair.at.saturating_sub(self.periods[0].at);
        // A thread that was preempted between its two readings knows their difference only to
        // within that time. The monotonic clock is slewed by an eighth at most.
        let tolerance = MIN_STEP + pair.width + self.periods[0].width + elapsed / 8;
        let lead = self.lead(pair, scale);
        (lead.length() > tolerance).then_some(lead)
    }

    /// Takes in a comparison of the clocks. Returns the step since the latest one, if there was
    /// one.
    pub(super) fn update(&mut self, pair: ClockPair, scale: Scale) -> Option<ClockStep> {
        let step = self.step(pair, scale);
        let current = &mut self.periods[0];
        if step.is_none() {
            if pair.width < MIN_STEP / 50 || pair.width < current.width {
                (current.ticks, current.at, current.width) = (pair.ticks, pair.at, pair.width);
            }
            return None;
        }
        // The step was at any time since the latest comparison.
        let since = scale.ticks(pair.at.saturating_sub(current.at) + pair.width + current.width);
        current.max = current.ticks.saturating_add(since);
        let start = current.at;
        let min = pair.ticks.saturating_sub(since);
        self.periods.copy_within(..PERIODS - 1, 1);
        let ClockPair { ticks, at, width } = pair;
        self.periods[0] = SteadyPeriod { ticks, at, width, min, max: Ticks::MAX, start };
        self.len = (self.len + 1).min(PERIODS);
        step
    }
}

/// The number of words of a copy in a [`SharedTimeline`].
const WORDS: usize = PERIODS * SteadyPeriod::WORDS + 1;

/// A timeline that one thread at a time updates and any thread reads. It has two copies: the lowest
/// bit of the version says which is visible, and the writer stores into the other one.
#[derive(Debug)]
pub(super) struct SharedTimeline {
    version: Version,
    copies: [[Field; WORDS]; 2],
}

impl SharedTimeline {
    pub(super) fn new(timeline: &Timeline) -> SharedTimeline {
        let shared = SharedTimeline {
            version: Version::new(),
            copies: std::array::from_fn(|_| std::array::from_fn(|_| Field::new())),
        };
        shared.publish(timeline);
        shared
    }

    /// Publishes a timeline; one thread at a time.
    pub(super) fn publish(&self, timeline: &Timeline) {
        let next = self.version.get().wrapping_add(1);
        let fields = &self.copies[(next & 1) as usize];
        let words = timeline.periods.iter().flat_map(|s| [s.ticks.0, s.at.0, s.width.0, s.min.0, s.max.0, s.start.0]);
        fields.iter().zip(words.chain([timeline.len as u64])).for_each(|(field, word)| field.set(word));
        self.version.publish(next);
    }

    /// Returns a consistent copy; `None` if the writer publishes faster than it can be copied.
    pub(super) fn read(&self) -> Option<Timeline> {
        let copy = |version: u64| self.copies[(version & 1) as usize].each_ref().map(Field::get);
        let (_, words) = self.version.read(copy)?;
        let periods = std::array::from_fn(|i| {
            let [ticks, at, width, min, max, start] = std::array::from_fn(|word| words[i * SteadyPeriod::WORDS + word]);
            let (at, width, start) = (Nanos(at), Nanos(width), Nanos(start));
            SteadyPeriod { ticks: Ticks(ticks), at, width, min: Ticks(min), max: Ticks(max), start }
        });
        Some(Timeline { periods, len: (words[WORDS - 1] as usize).clamp(1, PERIODS) })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    /// A reader never sees a mixture of two timelines.
    #[test]
    fn a_copy_is_of_one_timeline() {
        let new = || SharedTimeline::new(&at(0));
        let write = |shared: &SharedTimeline| (1..=2).for_each(|n| shared.publish(&at(n)));
        let read = |shared: &SharedTimeline| {
            let Some(timeline) = shared.read() else { return false };
            let period = timeline.periods[0];
            assert_eq!((period.ticks.0, timeline), (period.at.0, at(period.at.0)));
            period.at > Nanos::ZERO
        };
        let at_end = |shared: &SharedTimeline| assert_eq!(shared.read(), Some(at(2)));
        crate::sync::model_one_writer(new, write, read, at_end);
    }

    /// Returns a timeline of one period, whose words all depend on `n`.
    fn at(n: u64) -> Timeline {
        Timeline::new(ClockPair { ticks: Ticks(n), at: Nanos(n), width: Nanos::ZERO })
    }
}
