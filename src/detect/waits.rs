//! How long threads had to wait for a CPU before a poll of theirs was seen. The kernel counts it from the thread's begin on, so a count
//! from before the poll is needed: each thread's is taken at every look while CPUs are short, and now and then otherwise. Pure.

use std::collections::HashMap;

/// The watchdog itself waited this long for a CPU between two looks: others may have, too.
const SHORT: u64 = 100_000;
/// And may for so long.
const LASTS: u64 = 1_000_000_000;
/// Without that, counts are taken this often: by the time that CPUs are found to be short, polls have waited for them already.
const EVERY: u64 = 100_000_000;

#[derive(Clone, Copy, Debug)]
struct Count {
    at: u64,
    waited: u64,
}

impl Count {
    /// What a thread had waited when it was first measured: it may have lived long before that.
    fn first(waited: u64) -> Count {
        Count { at: 0, waited }
    }
}

/// The last two counts of a thread that matter: one of the last look, and one from before the poll that it was in then.
#[derive(Clone, Copy, Debug)]
struct Counts {
    before: Count,
    latest: Count,
}

/// See the module's text. All times in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    until: u64,
    next: u64,
    threads: HashMap<u64, Counts>,
}

impl Waits {
    /// Notes at a look how long the watchdog waited since the last one, and what each thread (with the begin of its outermost poll, if
    /// it is in one, and what it had waited when it was first measured) has waited in all, with the moment of that answer. That is not
    /// asked for at every look.
    pub(crate) fn note(
        &mut self,
        now: u64,
        own: u64,
        threads: impl Iterator<Item = (u64, Option<u64>, u64)>,
        waited: impl Fn(u64) -> Option<(u64, u64)>,
    ) {
        if own >= SHORT {
            self.until = now + LASTS;
        }
        if now >= self.until && now < self.next {
            return;
        }
        self.next = now + EVERY;
        let known = std::mem::take(&mut self.threads);
        for (thread, poll, first) in threads {
            let Some((at, waited)) = waited(thread) else { continue };
            let latest = Count { at, waited };
            let before = known.get(&thread).and_then(|known| match poll {
                Some(begin) => known.at(begin),
                None => Some(known.latest),
            });
            self.threads.insert(thread, Counts { before: before.unwrap_or(Count::first(first)), latest });
        }
    }

    /// What a thread had waited in all at the last look before a poll of it began; where none saw it before, what it had waited when it
    /// was first measured.
    pub(crate) fn before(&self, thread: u64, begin: u64, first: u64) -> Option<u64> {
        let counts = self.threads.get(&thread);
        counts.map_or(Some(Count::first(first)), |counts| counts.at(begin)).map(|count| count.waited)
    }
}

impl Counts {
    fn at(&self, begin: u64) -> Option<Count> {
        [self.latest, self.before].into_iter().find(|count| count.at <= begin)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn asks_at_every_look_only_while_cpus_are_short() {
        let mut waits = Waits::default();
        let mut asks = |now: u64, own: u64| {
            let asked = std::cell::Cell::new(false);
            waits.note(now, own, [(1, None, 3)].into_iter(), |_| {
                asked.set(true);
                Some((now, 7))
            });
            assert_eq!(waits.before(1, now, 3), Some(7));
            assert_eq!(waits.before(2, now, 3), Some(3), "a new one, of a thread that lived before");
            asked.get()
        };
        assert!(asks(MS, 0), "the first");
        assert!(!asks(2 * MS, SHORT - 1));
        assert!(asks(3 * MS, SHORT) && asks(4 * MS, 0) && asks(2 * MS + LASTS, 0));
        assert!(!asks(3 * MS + LASTS, 0));
        assert!(asks(3 * MS + LASTS + EVERY, 0));
    }

    #[test]
    fn a_poll_keeps_the_count_from_before_it() {
        let mut waits = Waits::default();
        let mut look = |now: u64, poll: Option<u64>, waited: u64| {
            waits.note(now * MS, SHORT, [(1, poll.map(|begin| begin * MS), 0)].into_iter(), |_| {
                Some((now * MS, waited))
            });
            waits.before(1, poll.unwrap_or(now) * MS, 0)
        };
        assert_eq!(look(10, None, 5), Some(5));
        assert_eq!(look(20, Some(13), 9), Some(5), "it began after the first look");
        assert_eq!(look(30, Some(13), 17), Some(5), "and goes on");
        assert_eq!(look(40, Some(33), 18), Some(17), "the next one");
        assert_eq!(look(50, Some(33), 19), Some(17));
        assert_eq!(waits.before(1, 52 * MS, 0), Some(19), "of one that begins after it, and may end unseen");
        assert_eq!(waits.before(1, 2 * MS, 0), None, "too long ago");
    }
}
