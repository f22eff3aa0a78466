//! The guarantees of pollwatch for one poll, which depend on how the poll is detected.

use super::cpu_monitor::CpuAvailability;
use super::ground_truth::{MS, Poll, Span};

/// A poll must be reported only if its block lasted this much longer than the threshold.
const MARGIN: u64 = 2 * MS;

/// The time for which the watchdog measures the CPU time of one thread, and inspects no other.
const MEASURING: u64 = 2 * MS;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarantee {
    pub(crate) threshold: u64,
    /// The shortest poll that must be reported.
    pub(crate) long: u64,
    /// The shortest request whose route must be reported.
    pub(crate) long_request: u64,
    /// The time by which a reported duration may be too short where polls are found by scans alone:
    /// the start of a poll is observed by the next scan.
    scan_delay: Option<u64>,
}

impl Guarantee {
    /// Returns the guarantee where pollwatch times every poll.
    pub(crate) fn measured(threshold: u64) -> Guarantee {
        Guarantee { threshold, long: threshold + MARGIN, long_request: threshold + MS / 2, scan_delay: None }
    }

    /// Returns the guarantee where workers are observed from outside, by four scans a threshold.
    /// One scan follows the start, and another one comes a threshold later.
    pub(crate) fn unwatched(threshold: u64) -> Guarantee {
        let long = threshold * 3 / 2 + MARGIN;
        Guarantee { threshold, long, long_request: long, scan_delay: Some(threshold / 2) }
    }

    /// Returns the time by which the reported duration of this poll may be too short.
    pub(crate) fn short_by(&self, poll: &Poll, cpu: &CpuAvailability) -> u64 {
        self.scan_delay.map_or(0, |delay| delay + MEASURING + self.hold_up_within(poll, cpu))
    }

    /// Returns the time for which pollwatch could not inspect this poll. The cause of the delay may
    /// have started before the poll.
    fn hold_up_within(&self, poll: &Poll, cpu: &CpuAvailability) -> u64 {
        cpu.hold_up_within(Span { start: poll.outer.start.saturating_sub(self.threshold), end: poll.outer.end })
    }

    /// Returns true if a long poll may remain unreported because the watchdog was given no CPU.
    /// Where a poll lasts longer than the guarantee needs, a later scan is in time.
    pub(crate) fn excuses(&self, poll: &Poll, cpu: &CpuAvailability) -> bool {
        let more = poll.min_nanos().saturating_sub(self.long);
        self.scan_delay.is_some() && self.hold_up_within(poll, cpu) >= more.max(self.threshold / FREE)
    }

    /// Returns true if a long poll may remain unreported because another poll of its runtime handed
    /// a worker on meanwhile, and no scan came in time.
    pub(crate) fn excuses_handed_on(&self, poll: &Poll, polls: &[Poll], cpu: &CpuAvailability) -> bool {
        let hands_on = |other: &Poll| {
            other.held_until.is_some()
                && other.thread != poll.thread
                && (poll.outer.start..poll.outer.end).contains(&other.outer.start)
        };
        let in_time = self.threshold * 3 / 2 + MARGIN + self.hold_up_within(poll, cpu);
        poll.min_nanos() < in_time && polls.iter().any(hands_on)
    }
}

/// The watchdog is taken to have had a CPU if its run delay was less than this part of the
/// threshold.
pub(crate) const FREE: u64 = 10;

#[cfg(test)]
mod tests {
    use super::super::matching::tests::{T, poll};
    use super::*;

    #[test]
    fn only_a_short_poll_in_which_another_one_hands_a_worker_on_is_excused() {
        let hands_on = Poll { thread: "worker 1".into(), held_until: Some(5 * MS), ..poll(4 * MS, 30 * MS) };
        let (quiet, guarantee) = (CpuAvailability::default(), Guarantee::measured(T));
        let excuses = |poll: &Poll, others: &[Poll]| guarantee.excuses_handed_on(poll, others, &quiet);
        let (short, long) = (poll(0, 14 * MS), poll(0, 19 * MS));
        assert!(excuses(&short, std::slice::from_ref(&hands_on)));
        assert!(!excuses(&long, std::slice::from_ref(&hands_on)), "two scans were in time");
        let later = poll(10 * MS, 14 * MS);
        assert!(!excuses(&later, std::slice::from_ref(&hands_on)), "it did so before");
        let stays = Poll { held_until: None, ..hands_on.clone() };
        let same_thread = Poll { thread: short.thread.clone(), ..hands_on.clone() };
        assert!(!excuses(&short, &[stays, same_thread]));
        let busy = CpuAvailability::paused_during(Span { start: 9 * MS, end: 14 * MS });
        assert!(guarantee.excuses_handed_on(&long, &[hands_on], &busy));
    }

    #[test]
    fn only_a_scan_without_a_cpu_is_excused() {
        let delay = |from: u64, nanos: u64| CpuAvailability::paused_during(Span { start: from, end: from + nanos });
        let (quiet, busy) = (CpuAvailability::default(), delay(2 * MS, 2 * MS));
        let seventeen = poll(0, 17 * MS);
        assert!(
            Guarantee::unwatched(T).excuses(&seventeen, &busy) && !Guarantee::unwatched(T).excuses(&seventeen, &quiet)
        );
        assert!(!Guarantee::measured(T).excuses(&seventeen, &busy), "a timed poll needs no scan");
        assert!(!Guarantee::unwatched(T).excuses(&poll(0, 30 * MS), &busy), "there was time enough");
        assert!(
            !Guarantee::unwatched(T).excuses(&poll(40 * MS, 17 * MS), &busy),
            "the watchdog had a CPU during this poll"
        );
        assert_eq!(Guarantee::unwatched(T).short_by(&seventeen, &busy), T / 2 + MEASURING + 2 * MS);
        assert_eq!(Guarantee::measured(T).short_by(&seventeen, &busy), 0);
        // The watchdog is excused as well while it waits for the stack of a thread that has no CPU.
        let mut waits = CpuAvailability::default();
        waits.remember(T, &[Poll { waited: 4 * MS, ..poll(0, 30 * MS) }, poll(60 * MS, 30 * MS)]);
        assert!(Guarantee::unwatched(T).excuses(&poll(35 * MS, 17 * MS), &waits));
        assert!(!Guarantee::unwatched(T).excuses(&poll(70 * MS, 17 * MS), &waits), "the thread of this poll had a CPU");
    }
}
