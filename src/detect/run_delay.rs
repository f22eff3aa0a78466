//! Run delays: how long threads had to wait for a CPU before a poll began. Pure.
//!
//! The kernel counts the delay from the start of a thread, so that a count from before the poll is
//! needed. The count of each thread is read repeatedly while CPUs are short, and occasionally
//! otherwise. One scan reads only a few of them, since each is a file.

use std::collections::HashMap;

/// When the watchdog thread itself waits this long for a CPU between two scans, CPUs are short:
/// other threads may have waited, too.
const SHORT: u64 = 100_000;
/// The time for which CPUs are taken to be short after that.
const SHORTAGE: u64 = 1_000_000_000;
/// The interval at which counts are read while CPUs are not short: by the time that they are found
/// to be, polls have waited for them already.
const INTERVAL: u64 = 100_000_000;
/// The number of counts that are read in one scan.
const MAX_READS: usize = 16;
/// The age up to which a count is taken as the count at the start of a poll. An older one is
/// corrected: the thread is taken to have waited during all of the time beyond this, so that no
/// wait from before the poll excuses the poll.
const STALE: u64 = 4 * INTERVAL;

/// The run delay of a thread at one moment.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: u64,
    waited: u64,
}

/// The two counts of a thread that matter: the latest, and one from before the poll that it was in
/// at that time.
#[derive(Clone, Copy, Debug)]
struct Counts {
    before: Option<Count>,
    latest: Count,
    /// The moment at which the count was last requested, successfully or not.
    asked: u64,
}

/// A measured thread in a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchedThread {
    pub(crate) id: u64,
    /// The start of the thread's outermost poll, if it is in one.
    pub(crate) poll: Option<u64>,
    /// The thread's run delay when it was first measured.
    pub(crate) first: u64,
}

/// Tracks the run delays of all measured threads. Times are in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct RunDelayTracker {
    /// The moment until which CPUs are taken to be short.
    short_until: u64,
    /// The moment at which a count is next due.
    next: u64,
    threads: HashMap<u64, Counts>,
}

impl RunDelayTracker {
    /// Records a scan. `own` is how long the watchdog thread waited for a CPU since the previous
    /// scan; `waited` reads the run delay of a thread and the moment of that reading. Threads in a
    /// poll come first, unless others have not been read for long.
    pub(crate) fn note(
        &mut self,
        now: u64,
        own: u64,
        threads: impl Iterator<Item = WatchedThread>,
        waited: impl Fn(u64) -> Option<(u64, u64)>,
    ) {
        if own >= SHORT {
            self.short_until = now + SHORTAGE;
        }
        let is_short = now < self.short_until;
        if !is_short && now < self.next {
            return;
        }
        let mut known = std::mem::take(&mut self.threads);
        let mut due = Vec::new();
        self.next = now + INTERVAL;
        for thread in threads {
            let counts = known.remove(&thread.id).unwrap_or_else(|| Counts::new(&thread, now));
            if is_short || now.saturating_sub(counts.asked) >= INTERVAL {
                due.push((counts.asked + if thread.poll.is_some() { 0 } else { INTERVAL }, thread));
            } else {
                self.next = self.next.min(counts.asked + INTERVAL);
            }
            self.threads.insert(thread.id, counts);
        }
        if due.len() > MAX_READS {
            due.select_nth_unstable_by_key(MAX_READS - 1, |(asked, _)| *asked);
            due.truncate(MAX_READS);
            self.next = now;
        }
        for (_, thread) in due {
            if let Some(counts) = self.threads.get_mut(&thread.id) {
                counts.renew(thread.poll, now, waited(thread.id));
            }
        }
    }

    /// Returns the run delay of a thread shortly before a poll of it began, or when it was first
    /// measured if that was later. `None` where it is unknown.
    pub(crate) fn before(&self, thread: u64, begin: u64, first: u64) -> Option<u64> {
        // A thread without counts has been measured since the previous scan.
        let Some(counts) = self.threads.get(&thread) else { return Some(first) };
        counts.at(begin).map(|count| count.waited)
    }
}

impl Counts {
    /// The counts of a thread that has been measured since the previous scan. Its run delay at that
    /// moment is a count as well.
    fn new(thread: &WatchedThread, now: u64) -> Counts {
        let latest = Count { at: thread.poll.map_or(now, |begin| begin.min(now)), waited: thread.first };
        Counts { before: None, latest, asked: latest.at }
    }

    fn renew(&mut self, poll: Option<u64>, now: u64, count: Option<(u64, u64)>) {
        self.asked = now;
        let Some((at, waited)) = count else { return };
        self.before = match poll {
            Some(begin) => self.at(begin),
            None => Some(self.latest),
        };
        self.latest = Count { at, waited };
    }

    fn at(&self, begin: u64) -> Option<Count> {
        let count = [Some(self.latest), self.before].into_iter().flatten().find(|count| count.at <= begin)?;
        let unknown = (begin - count.at).saturating_sub(STALE);
        Some(Count { at: count.at + unknown, waited: count.waited.saturating_add(unknown) })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const MS: u64 = 1_000_000;

    /// A thread in no poll.
    fn idle(id: u64) -> WatchedThread {
        WatchedThread { id, poll: None, first: 3 }
    }

    /// Returns the threads whose counts one scan reads, in the order of their ids.
    fn asked(
        tracker: &mut RunDelayTracker,
        now: u64,
        own: u64,
        threads: impl IntoIterator<Item = WatchedThread>,
    ) -> Vec<u64> {
        let asked: RefCell<Vec<u64>> = RefCell::default();
        tracker.note(now, own, threads.into_iter(), |id| {
            asked.borrow_mut().push(id);
            Some((now, 7))
        });
        let mut asked = asked.into_inner();
        asked.sort_unstable();
        asked
    }

    #[test]
    fn reads_at_every_scan_only_while_cpus_are_short() {
        let mut tracker = RunDelayTracker::default();
        let mut asks = |now: u64, own: u64| !asked(&mut tracker, now, own, [idle(1)]).is_empty();
        assert!(!asks(MS, 0), "what it had waited when it was first measured is known");
        assert!(!asks(2 * MS, SHORT - 1));
        assert!(asks(3 * MS, SHORT) && asks(4 * MS, 0) && asks(2 * MS + SHORTAGE, 0));
        assert!(!asks(3 * MS + SHORTAGE, 0));
        assert!(asks(3 * MS + SHORTAGE + INTERVAL, 0));
        assert_eq!(tracker.before(1, 3 * MS + SHORTAGE + INTERVAL, 3), Some(7));
        assert_eq!(
            tracker.before(2, 3 * MS + SHORTAGE + INTERVAL, 3),
            Some(3),
            "a new one, of a thread that lived before"
        );
    }

    #[test]
    fn a_poll_keeps_the_count_from_before_it() {
        let mut tracker = RunDelayTracker::default();
        let mut scan = |now: u64, poll: Option<u64>, waited: u64| {
            let thread = WatchedThread { id: 1, poll: poll.map(|begin| begin * MS), first: 0 };
            tracker.note(now * MS, SHORT, [thread].into_iter(), |_| Some((now * MS, waited)));
            tracker.before(1, poll.unwrap_or(now) * MS, 0)
        };
        assert_eq!(scan(10, None, 5), Some(5));
        assert_eq!(scan(20, Some(13), 9), Some(5), "it began after the first scan");
        assert_eq!(scan(30, Some(13), 17), Some(5), "and lasts");
        assert_eq!(scan(40, Some(33), 18), Some(17), "the next one");
        assert_eq!(scan(50, Some(33), 19), Some(17));
        assert_eq!(tracker.before(1, 52 * MS, 0), Some(19), "of one that begins after it, and may end unseen");
        assert_eq!(tracker.before(1, 2 * MS, 0), None, "too long ago");
    }

    /// As long as a poll lasts, the count from before it stays known.
    #[test]
    fn a_long_poll_does_not_outlive_its_count() {
        let mut tracker = RunDelayTracker::default();
        let thread = |poll| WatchedThread { id: 1, poll, first: 0 };
        for scan in 0..1_000 {
            let poll = (scan > 0).then_some(MS);
            asked(&mut tracker, scan * 5 * MS, SHORT, [thread(poll)]);
        }
        assert_eq!(tracker.before(1, MS, 0), Some(7));
    }

    /// While the watchdog was asleep or read other counts, the thread may have waited for what is
    /// no part of the poll.
    #[test]
    fn the_older_a_count_the_less_it_excuses() {
        let mut tracker = RunDelayTracker::default();
        assert_eq!(asked(&mut tracker, MS, SHORT, [idle(1)]), [1]);
        assert_eq!(tracker.before(1, MS + INTERVAL, 3), Some(7));
        assert_eq!(tracker.before(1, MS + STALE, 3), Some(7));
        assert_eq!(tracker.before(1, MS + STALE + 1, 3), Some(8));
        assert_eq!(tracker.before(1, MS + STALE + 600 * MS, 3), Some(7 + 600 * MS));
        // Its first, too; and what is asked for in vain is no answer.
        let mut tracker = RunDelayTracker::default();
        for now in [0, INTERVAL, 2 * INTERVAL, 6 * INTERVAL] {
            tracker.note(now, SHORT, [idle(1)].into_iter(), |_| None);
        }
        assert_eq!(
            (tracker.before(1, INTERVAL, 3), tracker.before(1, 6 * INTERVAL, 3)),
            (Some(3), Some(3 + 2 * INTERVAL))
        );
    }

    #[test]
    fn reads_a_few_in_a_scan_each_in_its_turn() {
        const THREADS: u64 = 500;
        let in_poll = |id: u64| id <= 8;
        let threads = |now: u64| {
            (1..=THREADS).map(move |id| WatchedThread {
                id,
                poll: in_poll(id).then_some(now.saturating_sub(MS)),
                first: 0,
            })
        };
        for own in [SHORT, 0] {
            let mut tracker = RunDelayTracker::default();
            let mut latest: HashMap<u64, u64> = HashMap::new();
            let mut longest = [0; 2];
            for now in (1..400).map(|scan| scan * 5 * MS) {
                let asked = asked(&mut tracker, now, own, threads(now));
                assert!(asked.len() <= MAX_READS, "{} at one scan", asked.len());
                for id in asked {
                    let ago = now - latest.insert(id, now).unwrap_or(5 * MS);
                    let longest = &mut longest[usize::from(in_poll(id))];
                    *longest = ago.max(*longest);
                }
            }
            assert_eq!(latest.len() as u64, THREADS, "each has its turn");
            let [others, in_polls] = longest;
            assert!(others <= STALE, "{} ms", others / MS);
            assert!(in_polls < others.min(2 * INTERVAL), "{} ms, {} ms", in_polls / MS, others / MS);
        }
        // However many are in a poll, the others have their turn.
        let mut tracker = RunDelayTracker::default();
        let mut idle_asked = false;
        for now in (1..200).map(|scan| scan * 5 * MS) {
            let threads = (1..=THREADS).map(|id| WatchedThread { id, poll: (id > 1).then_some(now), first: 0 });
            idle_asked |= asked(&mut tracker, now, SHORT, threads).contains(&1);
        }
        assert!(idle_asked);
    }

    #[test]
    fn a_thread_that_is_gone_is_forgotten() {
        let mut tracker = RunDelayTracker::default();
        asked(&mut tracker, MS, SHORT, (1..=100).map(idle));
        asked(&mut tracker, 2 * MS, SHORT, [idle(7)]);
        assert_eq!(tracker.threads.len(), 1);
    }
}
