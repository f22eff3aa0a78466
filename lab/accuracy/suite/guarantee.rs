//! What pollwatch promises of a poll, by the way in which it sees it. Pure.

use super::cpu_monitor::Watch;
use super::ground_truth::{MS, Poll, Span};

/// A poll must be told only if its block lasted this much longer than the threshold.
const MARGIN: u64 = 2 * MS;

/// For so long the watchdog measures the CPU time of one thread, and looks at no other.
const MEASURING: u64 = 2 * MS;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) threshold: u64,
    /// Polls that last this long must be told.
    pub(crate) long: u64,
    /// Routes of requests that last this long must be.
    pub(crate) long_request: u64,
    /// Found by looks alone: by this much a duration may be too short, since nobody sees a begin before the next look.
    look: Option<u64>,
}

impl Promise {
    /// Every poll is timed.
    pub(crate) fn exact(threshold: u64) -> Promise {
        Promise { threshold, long: threshold + MARGIN, long_request: threshold + MS / 2, look: None }
    }

    /// Workers are seen from outside, by four looks a threshold: one comes after the begin, and one a threshold later.
    pub(crate) fn unwatched(threshold: u64) -> Promise {
        let long = threshold * 3 / 2 + MARGIN;
        Promise { threshold, long, long_request: long, look: Some(threshold / 2) }
    }

    /// By how much the duration of this poll may be told too short.
    pub(crate) fn short_by(&self, poll: &Poll, watch: &Watch) -> u64 {
        self.look.map_or(0, |look| look + MEASURING + self.held_up(poll, watch))
    }

    /// For how long no look was to be had at this poll; what held the next one up may have begun before.
    fn held_up(&self, poll: &Poll, watch: &Watch) -> u64 {
        watch.held_up(Span { begin: poll.outer.begin.saturating_sub(self.threshold), end: poll.outer.end })
    }

    /// A long poll that was not told though it must be, as long as the watchdog is given a CPU: whether it was not. What a poll is
    /// longer than it has to be, it can be looked at later.
    pub(crate) fn excuses(&self, poll: &Poll, watch: &Watch) -> bool {
        let more = poll.at_least().saturating_sub(self.long);
        self.look.is_some() && self.held_up(poll, watch) >= more.max(self.threshold / FREE)
    }
}

/// A CPU was free for the watchdog if it was kept from one for less than this part of the threshold.
pub(crate) const FREE: u64 = 10;

#[cfg(test)]
mod tests {
    use super::super::matching::tests::{T, poll};
    use super::*;

    #[test]
    fn only_a_watchdog_without_a_cpu_is_excused_and_only_where_it_looks() {
        let kept_off = |from: u64, nanos: u64| Watch::standing(Span { begin: from, end: from + nanos });
        let (quiet, busy) = (Watch::default(), kept_off(2 * MS, 2 * MS));
        let seventeen = poll(0, 17 * MS);
        assert!(Promise::unwatched(T).excuses(&seventeen, &busy) && !Promise::unwatched(T).excuses(&seventeen, &quiet));
        assert!(!Promise::exact(T).excuses(&seventeen, &busy), "what is timed needs no look");
        assert!(!Promise::unwatched(T).excuses(&poll(0, 30 * MS), &busy), "there was time enough");
        assert!(!Promise::unwatched(T).excuses(&poll(40 * MS, 17 * MS), &busy), "that was before");
        assert_eq!(Promise::unwatched(T).short_by(&seventeen, &busy), T / 2 + MEASURING + 2 * MS);
        assert_eq!(Promise::exact(T).short_by(&seventeen, &busy), 0);
        // Nor can one that waits for the stack of a thread without one.
        let mut waits = Watch::default();
        waits.remember(T, &[Poll { waited: 4 * MS, ..poll(0, 30 * MS) }, poll(60 * MS, 30 * MS)]);
        assert!(Promise::unwatched(T).excuses(&poll(35 * MS, 17 * MS), &waits));
        assert!(!Promise::unwatched(T).excuses(&poll(70 * MS, 17 * MS), &waits), "that one was given a CPU");
    }
}
