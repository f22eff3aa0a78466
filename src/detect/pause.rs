//! Pauses: periods in which the whole process was stopped, as opposed to those in which only the
//! watchdog thread got no CPU. Pure.

use std::collections::VecDeque;

use crate::model::time::Nanos;

/// A shorter oversleep is ordinary scheduling latency and no pause.
const MIN_OVERSLEEP: Nanos = Nanos::from_millis(5);
/// The number of periods of each kind that are kept, to correct the durations of polls that
/// spanned them.
const MAX_PERIODS: usize = 16;

/// A time of the watchdog thread, asleep or awake, that is checked for a delay. `start`, `due` and
/// `end` are moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedSpan {
    pub(crate) start: Nanos,
    /// The moment at which the thread meant to wake up. For a time awake it is `start`.
    pub(crate) due: Nanos,
    pub(crate) end: Nanos,
    /// The time that the watchdog thread waited for a CPU in the span, if that is known.
    pub(crate) own_run_delay: Option<Nanos>,
    /// The CPU time that the watchdog thread used in the span, if that is known.
    pub(crate) own_cpu: Option<Nanos>,
    /// The most CPU time that one thread used in the span, of the threads that were in a poll when
    /// it started.
    pub(crate) busiest: Option<Nanos>,
}

impl CheckedSpan {
    /// Makes a span of which only the moments are known.
    pub(crate) fn new(start: Nanos, due: Nanos, end: Nanos) -> CheckedSpan {
        CheckedSpan { start, due, end, own_run_delay: None, own_cpu: None, busiest: None }
    }

    /// Returns whether the span ended so late that it may contain a pause.
    pub(crate) fn is_late(&self, threshold: Nanos) -> bool {
        self.late() >= threshold.max(MIN_OVERSLEEP)
    }

    /// Returns how much later than `due` the span ended.
    fn late(&self) -> Nanos {
        self.end.saturating_sub(self.due)
    }

    /// Returns the cause of an oversleep. The evidence is the run delay and the CPU time of the
    /// watchdog thread, and the CPU time of the polling threads. Where neither the run delay nor
    /// the latter is known, no task is cleared of blame.
    fn cause(&self) -> OversleepCause {
        if self.others_ran() || self.own_run_delay.is_none() && self.busiest.is_none() {
            return OversleepCause::ThreadsRanOrUnknown;
        }
        let half = self.late() / 2;
        let (delay, cpu) = (self.own_run_delay.unwrap_or_default(), self.own_cpu.unwrap_or_default());
        if delay >= half {
            OversleepCause::Starved
        } else if delay + cpu >= half {
            // The watchdog had work for so long: it reads all threads of a very large process.
            OversleepCause::ThreadsRanOrUnknown
        } else {
            OversleepCause::Stopped
        }
    }

    /// Returns whether a thread that was in a poll ran for a good part of the delay.
    fn others_ran(&self) -> bool {
        self.busiest.is_some_and(|cpu| cpu >= self.late() / 4)
    }
}

/// The cause of an oversleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OversleepCause {
    /// At least one thread ran, so that the process was not stopped; or nothing is known.
    ThreadsRanOrUnknown,
    /// Processes other than this one had the CPUs.
    Starved,
    /// The process or the machine was stopped.
    Stopped,
}

/// The moments from `start` to `end`.
#[derive(Clone, Copy, Debug)]
struct Period {
    start: Nanos,
    end: Nanos,
}

/// The latest periods in which the process was stopped, and those in which it was given no CPU.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    stopped: VecDeque<Period>,
    starved: VecDeque<Period>,
}

impl Pauses {
    /// Records a span of the watchdog thread. Returns how long the process was stopped in it, if it
    /// was.
    pub(crate) fn record(&mut self, span: &CheckedSpan, threshold: Nanos) -> Option<Nanos> {
        if !span.is_late(threshold) {
            return None;
        }
        let cause = span.cause();
        let list = match cause {
            OversleepCause::ThreadsRanOrUnknown => return None,
            OversleepCause::Starved => &mut self.starved,
            OversleepCause::Stopped => &mut self.stopped,
        };
        if list.len() == MAX_PERIODS {
            list.pop_front();
        }
        list.push_back(Period { start: span.start, end: span.end });
        (cause == OversleepCause::Stopped).then(|| span.end.saturating_sub(span.start))
    }

    /// Returns how much of `start..end` was a pause: the process was stopped.
    pub(crate) fn stopped_within(&self, start: Nanos, end: Nanos) -> Nanos {
        overlap(&self.stopped, start, end)
    }

    /// Returns during how much of `start..end` the process was given no CPU.
    pub(crate) fn starved_within(&self, start: Nanos, end: Nanos) -> Nanos {
        overlap(&self.starved, start, end)
    }
}

/// Returns the total overlap of `periods` with `start..end`.
fn overlap(periods: &VecDeque<Period>, start: Nanos, end: Nanos) -> Nanos {
    periods.iter().map(|period| period.end.min(end).saturating_sub(period.start.max(start))).sum()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: Nanos = Nanos::from_millis(1);
    const LATE: CheckedSpan = CheckedSpan {
        start: Nanos::from_millis(100),
        due: Nanos::from_millis(110),
        end: Nanos::from_millis(1_110),
        own_run_delay: Some(Nanos::ZERO),
        own_cpu: Some(Nanos::ZERO),
        busiest: Some(MS),
    };

    #[test]
    fn a_stopped_process_is_a_pause() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.record(&LATE, 10 * MS), Some(1_010 * MS));
        assert_eq!(pauses.stopped_within(Nanos::ZERO, 2_000 * MS), 1_010 * MS);
        assert_eq!(pauses.stopped_within(105 * MS, 120 * MS), 15 * MS);
        assert_eq!(pauses.stopped_within(1_110 * MS, 2_000 * MS), Nanos::ZERO);
    }

    #[test]
    fn a_late_watchdog_is_not() {
        let mut pauses = Pauses::default();
        let starved = CheckedSpan { own_run_delay: Some(900 * MS), ..LATE };
        assert!(starved.is_late(10 * MS));
        assert_eq!(pauses.record(&starved, 10 * MS), None, "others had the CPU");
        assert_eq!(pauses.record(&CheckedSpan { busiest: Some(950 * MS), ..LATE }, 10 * MS), None, "the worker ran on");
        assert_eq!(pauses.record(&CheckedSpan { end: 112 * MS, ..LATE }, 10 * MS), None, "a little late");
        assert_eq!(pauses.record(&CheckedSpan { end: 109 * MS, ..LATE }, 10 * MS), None, "woken early");
        assert_eq!(pauses.stopped_within(Nanos::ZERO, Nanos::MAX), Nanos::ZERO);
    }

    #[test]
    fn long_work_of_the_watchdog_is_not() {
        let mut pauses = Pauses::default();
        let awake = CheckedSpan { due: LATE.start, ..LATE };
        assert_eq!(pauses.record(&CheckedSpan { own_cpu: Some(900 * MS), ..awake }, 10 * MS), None);
        let between = CheckedSpan { own_cpu: Some(400 * MS), own_run_delay: Some(400 * MS), ..awake };
        assert_eq!(pauses.record(&between, 10 * MS), None, "it had too few CPUs for its work");
        assert_eq!(pauses.starved_within(Nanos::ZERO, Nanos::MAX), Nanos::ZERO);
        let stopped = CheckedSpan { own_cpu: Some(100 * MS), ..awake };
        assert_eq!(pauses.record(&stopped, 10 * MS), Some(1_010 * MS), "it was stopped for most of the time");
    }

    #[test]
    fn no_evidence_is_no_pause() {
        let mut pauses = Pauses::default();
        let unknown = CheckedSpan { own_run_delay: None, busiest: None, ..LATE };
        assert_eq!(pauses.record(&unknown, 10 * MS), None);
        assert_eq!(
            (pauses.stopped_within(Nanos::ZERO, Nanos::MAX), pauses.starved_within(Nanos::ZERO, Nanos::MAX)),
            (Nanos::ZERO, Nanos::ZERO)
        );
        for one in [CheckedSpan { own_run_delay: None, ..LATE }, CheckedSpan { busiest: None, ..LATE }] {
            assert_eq!(pauses.record(&one, 10 * MS), Some(1_010 * MS), "{one:?}");
        }
    }

    #[test]
    fn keeps_a_bounded_number() {
        let mut pauses = Pauses::default();
        for i in 0..100 {
            let shift = i * 10_000 * MS;
            pauses.record(&CheckedSpan { start: shift, due: shift + MS, end: shift + 100 * MS, ..LATE }, 10 * MS);
        }
        assert_eq!(pauses.stopped_within(Nanos::ZERO, Nanos::MAX), MAX_PERIODS as u64 * 100 * MS);
    }
}
