//! Pauses: periods in which the whole process was stopped, as opposed to those in which only the
//! watchdog thread got no CPU. Pure.

use std::collections::VecDeque;

use crate::model::time::Nanos;

/// A shorter oversleep is ordinary scheduling latency and no pause.
const MIN_OVERSLEEP: Nanos = Nanos::from_millis(5);
/// The number of periods of each kind that are kept, to correct the durations of polls that
/// spanned them.
const MAX_PERIODS: usize = 16;

/// One sleep of the watchdog thread. `start`, `due` and `end` are moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    pub(crate) start: Nanos,
    /// The moment at which the thread should have woken up.
    pub(crate) due: Nanos,
    pub(crate) end: Nanos,
    /// The time that the watchdog thread waited for a CPU during the sleep, if that is known.
    pub(crate) own_run_delay: Option<Nanos>,
    /// The most CPU time that one thread used during the sleep, of the threads that were in a poll
    /// when the sleep started.
    pub(crate) busiest: Option<Nanos>,
}

impl Sleep {
    /// Returns whether the thread woke up too late to trust its deadlines.
    pub(crate) fn overslept(&self, threshold: Nanos) -> bool {
        self.late() >= threshold.max(MIN_OVERSLEEP)
    }

    /// Returns how much later than `due` the thread woke up.
    fn late(&self) -> Nanos {
        self.end.saturating_sub(self.due)
    }

    /// Returns the cause of an oversleep. The watchdog thread's own run delay and the
    /// CPU time of the polling threads are the evidence. Without either, the sleep excuses nobody.
    fn cause(&self) -> OversleepCause {
        if self.others_ran() || self.own_run_delay.is_none() && self.busiest.is_none() {
            return OversleepCause::OthersRan;
        }
        let was_starved = self.own_run_delay.is_some_and(|delay| delay >= self.late() / 2);
        if was_starved { OversleepCause::Starved } else { OversleepCause::Stopped }
    }

    /// Returns whether a thread that was in a poll ran during the sleep.
    fn others_ran(&self) -> bool {
        self.busiest.is_some_and(|cpu| cpu >= self.late() / 4)
    }
}

/// The cause of an oversleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OversleepCause {
    /// At least one other thread ran, or nothing is known.
    OthersRan,
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
    /// Records a sleep. Returns how long the process was stopped in it, if it was.
    pub(crate) fn record(&mut self, sleep: &Sleep, threshold: Nanos) -> Option<Nanos> {
        if !sleep.overslept(threshold) {
            return None;
        }
        let cause = sleep.cause();
        let list = match cause {
            OversleepCause::OthersRan => return None,
            OversleepCause::Starved => &mut self.starved,
            OversleepCause::Stopped => &mut self.stopped,
        };
        if list.len() == MAX_PERIODS {
            list.pop_front();
        }
        list.push_back(Period { start: sleep.start, end: sleep.end });
        (cause == OversleepCause::Stopped).then(|| sleep.end.saturating_sub(sleep.start))
    }

    /// Returns how much of `start..end` was a pause.
    pub(crate) fn overlap(&self, start: Nanos, end: Nanos) -> Nanos {
        overlap(&self.stopped, start, end)
    }

    /// Returns during how much of `start..end` the process was given no CPU.
    pub(crate) fn starved(&self, start: Nanos, end: Nanos) -> Nanos {
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
    const SLEEP: Sleep = Sleep {
        start: Nanos::from_millis(100),
        due: Nanos::from_millis(110),
        end: Nanos::from_millis(1_110),
        own_run_delay: Some(Nanos::ZERO),
        busiest: Some(MS),
    };

    #[test]
    fn a_stopped_process_is_a_pause() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.record(&SLEEP, 10 * MS), Some(1_010 * MS));
        assert_eq!(pauses.overlap(Nanos::ZERO, 2_000 * MS), 1_010 * MS);
        assert_eq!(pauses.overlap(105 * MS, 120 * MS), 15 * MS);
        assert_eq!(pauses.overlap(1_110 * MS, 2_000 * MS), Nanos::ZERO);
    }

    #[test]
    fn a_late_watchdog_is_not() {
        let mut pauses = Pauses::default();
        let starved = Sleep { own_run_delay: Some(900 * MS), ..SLEEP };
        assert!(starved.overslept(10 * MS));
        assert_eq!(pauses.record(&starved, 10 * MS), None, "others had the CPU");
        assert_eq!(pauses.record(&Sleep { busiest: Some(950 * MS), ..SLEEP }, 10 * MS), None, "the worker ran on");
        assert_eq!(pauses.record(&Sleep { end: 112 * MS, ..SLEEP }, 10 * MS), None, "a little late");
        assert_eq!(pauses.record(&Sleep { end: 109 * MS, ..SLEEP }, 10 * MS), None, "woken early");
        assert_eq!(pauses.overlap(Nanos::ZERO, Nanos::MAX), Nanos::ZERO);
    }

    #[test]
    fn no_evidence_is_no_pause() {
        let mut pauses = Pauses::default();
        let unknown = Sleep { own_run_delay: None, busiest: None, ..SLEEP };
        assert_eq!(pauses.record(&unknown, 10 * MS), None);
        assert_eq!(
            (pauses.overlap(Nanos::ZERO, Nanos::MAX), pauses.starved(Nanos::ZERO, Nanos::MAX)),
            (Nanos::ZERO, Nanos::ZERO)
        );
        for one in [Sleep { own_run_delay: None, ..SLEEP }, Sleep { busiest: None, ..SLEEP }] {
            assert_eq!(pauses.record(&one, 10 * MS), Some(1_010 * MS), "{one:?}");
        }
    }

    #[test]
    fn keeps_a_bounded_number() {
        let mut pauses = Pauses::default();
        for i in 0..100 {
            let shift = i * 10_000 * MS;
            pauses.record(&Sleep { start: shift, due: shift + MS, end: shift + 100 * MS, ..SLEEP }, 10 * MS);
        }
        assert_eq!(pauses.overlap(Nanos::ZERO, Nanos::MAX), MAX_PERIODS as u64 * 100 * MS);
    }
}
