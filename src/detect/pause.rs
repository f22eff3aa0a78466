//! Pauses: whether the whole process stood still while the watchdog thread was kept from running,
//! or the thread was only late. Pure.

use std::collections::VecDeque;

/// A shorter oversleep, in nanoseconds, is the scheduler's doing and no pause.
const MIN_OVERSLEEP: u64 = 5_000_000;
/// The number of pauses that are kept, to correct the durations of polls that spanned them.
const MAX_PERIODS: usize = 16;

/// One sleep of the watchdog thread, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    pub(crate) begin: u64,
    /// The moment at which it should have woken up.
    pub(crate) due: u64,
    pub(crate) end: u64,
    /// How long the watchdog thread waited for a CPU during the sleep, if that is known.
    pub(crate) own_run_delay: Option<u64>,
    /// The CPU time that the busiest of the watched threads used during the sleep, of those that
    /// were in a poll when it began.
    pub(crate) busiest: Option<u64>,
}

impl Sleep {
    /// Returns whether the thread woke up too late to trust its deadlines.
    pub(crate) fn overslept(&self, threshold: u64) -> bool {
        self.late() >= threshold.max(MIN_OVERSLEEP)
    }

    fn late(&self) -> u64 {
        self.end.saturating_sub(self.due)
    }

    /// Returns whether the whole process stood still: the watchdog thread was not waiting for a CPU
    /// that others had, and no watched thread ran on. Where neither is known, the sleep exonerates
    /// nobody.
    fn stood_still(&self) -> bool {
        let was_starved = self.own_run_delay.is_some_and(|delay| delay >= self.late() / 2);
        self.is_evident() && !was_starved && !self.others_ran()
    }

    /// Returns whether anything is known beside the oversleep.
    fn is_evident(&self) -> bool {
        self.own_run_delay.is_some() || self.busiest.is_some()
    }

    /// Returns whether a watched thread ran during the sleep.
    fn others_ran(&self) -> bool {
        self.busiest.is_some_and(|cpu| cpu >= self.late() / 4)
    }
}

/// The periods in which the process stood still, and those in which it was given no CPU.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    still: VecDeque<(u64, u64)>,
    starved: VecDeque<(u64, u64)>,
}

impl Pauses {
    /// Records a sleep. Returns how long the process stood still in it, if it did.
    pub(crate) fn note(&mut self, sleep: &Sleep, threshold: u64) -> Option<u64> {
        if !sleep.overslept(threshold) {
            return None;
        }
        let stood_still = sleep.stood_still();
        let list = match stood_still {
            true => &mut self.still,
            false if sleep.others_ran() || !sleep.is_evident() => return None,
            false => &mut self.starved,
        };
        if list.len() == MAX_PERIODS {
            list.pop_front();
        }
        list.push_back((sleep.begin, sleep.end));
        stood_still.then(|| sleep.end - sleep.begin)
    }

    /// Returns how much of `begin..end` was a pause.
    pub(crate) fn overlap(&self, begin: u64, end: u64) -> u64 {
        overlap(&self.still, begin, end)
    }

    /// Returns during how much of `begin..end` the process was given no CPU.
    pub(crate) fn starved(&self, begin: u64, end: u64) -> u64 {
        overlap(&self.starved, begin, end)
    }
}

fn overlap(times: &VecDeque<(u64, u64)>, begin: u64, end: u64) -> u64 {
    times.iter().map(|&(from, to)| to.min(end).saturating_sub(from.max(begin))).sum()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SLEEP: Sleep =
        Sleep { begin: 100 * MS, due: 110 * MS, end: 1_110 * MS, own_run_delay: Some(0), busiest: Some(MS) };

    #[test]
    fn a_stopped_process_is_a_pause() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.note(&SLEEP, 10 * MS), Some(1_010 * MS));
        assert_eq!(pauses.overlap(0, 2_000 * MS), 1_010 * MS);
        assert_eq!(pauses.overlap(105 * MS, 120 * MS), 15 * MS);
        assert_eq!(pauses.overlap(1_110 * MS, 2_000 * MS), 0);
    }

    #[test]
    fn a_late_watchdog_is_not() {
        let mut pauses = Pauses::default();
        let starved = Sleep { own_run_delay: Some(900 * MS), ..SLEEP };
        assert!(starved.overslept(10 * MS));
        assert_eq!(pauses.note(&starved, 10 * MS), None, "others had the CPU");
        assert_eq!(pauses.note(&Sleep { busiest: Some(950 * MS), ..SLEEP }, 10 * MS), None, "the worker ran on");
        assert_eq!(pauses.note(&Sleep { end: 112 * MS, ..SLEEP }, 10 * MS), None, "a little late");
        assert_eq!(pauses.note(&Sleep { end: 109 * MS, ..SLEEP }, 10 * MS), None, "woken early");
        assert_eq!(pauses.overlap(0, u64::MAX), 0);
    }

    #[test]
    fn no_evidence_is_no_pause() {
        let mut pauses = Pauses::default();
        let unknown = Sleep { own_run_delay: None, busiest: None, ..SLEEP };
        assert_eq!(pauses.note(&unknown, 10 * MS), None);
        assert_eq!((pauses.overlap(0, u64::MAX), pauses.starved(0, u64::MAX)), (0, 0));
        for one in [Sleep { own_run_delay: None, ..SLEEP }, Sleep { busiest: None, ..SLEEP }] {
            assert_eq!(pauses.note(&one, 10 * MS), Some(1_010 * MS), "{one:?}");
        }
    }

    #[test]
    fn keeps_a_bounded_number() {
        let mut pauses = Pauses::default();
        for i in 0..100 {
            let shift = i * 10_000 * MS;
            pauses.note(&Sleep { begin: shift, due: shift + MS, end: shift + 100 * MS, ..SLEEP }, 10 * MS);
        }
        assert_eq!(pauses.overlap(0, u64::MAX), MAX_PERIODS as u64 * 100 * MS);
    }
}
