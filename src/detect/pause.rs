//! When the watchdog itself was kept from running: did the whole process stand still, or was it only late? Pure.

use std::collections::VecDeque;

/// An oversleep below this many nanoseconds is a scheduler's, not a pause.
const LEAST_OVERSLEEP: u64 = 5_000_000;
/// Pauses kept to correct the durations of polls that spanned them.
const KEPT: usize = 16;

/// One sleep of the watchdog, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    pub(crate) begin: u64,
    /// When it meant to wake.
    pub(crate) due: u64,
    pub(crate) end: u64,
    /// How much longer than before the watchdog has been ready to run without a CPU, if that can be told.
    pub(crate) own_run_delay: Option<u64>,
    /// The CPU time that the busiest of the watched threads used meanwhile, of those that were in a poll when the sleep began.
    pub(crate) busiest: Option<u64>,
}

impl Sleep {
    /// Whether the watchdog woke up too late to be trusted.
    pub(crate) fn overslept(&self, threshold: u64) -> bool {
        self.late() >= threshold.max(LEAST_OVERSLEEP)
    }

    fn late(&self) -> u64 {
        self.end.saturating_sub(self.due)
    }

    /// Whether everything stood still: the watchdog was not waiting for a CPU that others had, and no watched thread ran on. Where
    /// neither can be told, nobody is cleared of anything by it.
    fn stood_still(&self) -> bool {
        let was_starved = self.own_run_delay.is_some_and(|delay| delay >= self.late() / 2);
        self.is_evident() && !was_starved && !self.others_ran()
    }

    /// Whether anything is known of it but that the watchdog was late.
    fn is_evident(&self) -> bool {
        self.own_run_delay.is_some() || self.busiest.is_some()
    }

    /// Whether a watched thread ran on meanwhile.
    fn others_ran(&self) -> bool {
        self.busiest.is_some_and(|cpu| cpu >= self.late() / 4)
    }
}

/// The times in which the process stood still, and those in which it was given no CPU.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    still: VecDeque<(u64, u64)>,
    starved: VecDeque<(u64, u64)>,
}

impl Pauses {
    /// Takes note of a sleep; tells how long the process stood still in it, if it did.
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
        if list.len() == KEPT {
            list.pop_front();
        }
        list.push_back((sleep.begin, sleep.end));
        stood_still.then(|| sleep.end - sleep.begin)
    }

    /// How much of `begin..end` was a pause.
    pub(crate) fn overlap(&self, begin: u64, end: u64) -> u64 {
        overlap(&self.still, begin, end)
    }

    /// How much of `begin..end` nothing was given a CPU.
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
        assert_eq!(pauses.overlap(0, u64::MAX), KEPT as u64 * 100 * MS);
    }
}
