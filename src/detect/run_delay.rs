//! How long threads had to wait for a CPU before a poll of theirs was seen. The kernel counts it from the thread's begin on, so a count
//! from before the poll is needed: each thread's is taken again and again while CPUs are short, and now and then otherwise; of a few
//! threads at a look, whatever their number, since each is a file that is read. Pure.

use std::collections::HashMap;

/// The watchdog itself waited this long for a CPU between two looks: others may have, too.
const SHORT: u64 = 100_000;
/// And may for so long.
const LASTS: u64 = 1_000_000_000;
/// Without that, counts are taken this often: by the time that CPUs are found to be short, polls have waited for them already.
const EVERY: u64 = 100_000_000;
/// Threads that are asked for their count at one look.
const MOST: usize = 16;
/// Of a count that is older than this when a poll begins, the thread is taken to have waited all the time in between but this: that is
/// not the poll's.
const STALE: u64 = 4 * EVERY;

#[derive(Clone, Copy, Debug)]
struct Count {
    at: u64,
    waited: u64,
}

/// The last two counts of a thread that matter: the latest, and one from before the poll that it was in then.
#[derive(Clone, Copy, Debug)]
struct Counts {
    before: Option<Count>,
    latest: Count,
    /// When it was last asked for, be it in vain.
    asked: u64,
}

/// A measured thread, as a look finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchedThread {
    pub(crate) id: u64,
    /// The begin of its outermost poll, if it is in one.
    pub(crate) poll: Option<u64>,
    /// What it had waited when it was first measured.
    pub(crate) first: u64,
}

/// See the module's text. All times in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct RunDelayTracker {
    until: u64,
    next: u64,
    threads: HashMap<u64, Counts>,
}

impl RunDelayTracker {
    /// Notes at a look how long the watchdog waited since the last one, and what some of the threads have waited in all, with the moment
    /// of that answer. Those in a poll come first, unless others have not been asked for long.
    pub(crate) fn note(
        &mut self,
        now: u64,
        own: u64,
        threads: impl Iterator<Item = WatchedThread>,
        waited: impl Fn(u64) -> Option<(u64, u64)>,
    ) {
        if own >= SHORT {
            self.until = now + LASTS;
        }
        let is_short = now < self.until;
        if !is_short && now < self.next {
            return;
        }
        let mut known = std::mem::take(&mut self.threads);
        let mut due = Vec::new();
        self.next = now + EVERY;
        for thread in threads {
            let counts = known.remove(&thread.id).unwrap_or_else(|| Counts::new(&thread, now));
            if is_short || now.saturating_sub(counts.asked) >= EVERY {
                due.push((counts.asked + if thread.poll.is_some() { 0 } else { EVERY }, thread));
            } else {
                self.next = self.next.min(counts.asked + EVERY);
            }
            self.threads.insert(thread.id, counts);
        }
        if due.len() > MOST {
            due.select_nth_unstable_by_key(MOST - 1, |(asked, _)| *asked);
            due.truncate(MOST);
            self.next = now;
        }
        for (_, thread) in due {
            if let Some(counts) = self.threads.get_mut(&thread.id) {
                counts.renew(thread.poll, now, waited(thread.id));
            }
        }
    }

    /// What a thread had waited in all shortly before a poll of it began; where it has been measured for less than that, what it had
    /// waited when it first was. `None` where that is not known.
    pub(crate) fn before(&self, thread: u64, begin: u64, first: u64) -> Option<u64> {
        // One that is not known here has been measured since the last look.
        let Some(counts) = self.threads.get(&thread) else { return Some(first) };
        counts.at(begin).map(|count| count.waited)
    }
}

impl Counts {
    /// Of a thread that has been measured since the last look: what it had waited by then is a count, too.
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

    fn idle(id: u64) -> WatchedThread {
        WatchedThread { id, poll: None, first: 3 }
    }

    /// Whom a look asks, in the order of their ids.
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
    fn asks_at_every_look_only_while_cpus_are_short() {
        let mut tracker = RunDelayTracker::default();
        let mut asks = |now: u64, own: u64| !asked(&mut tracker, now, own, [idle(1)]).is_empty();
        assert!(!asks(MS, 0), "what it had waited when it was first measured is known");
        assert!(!asks(2 * MS, SHORT - 1));
        assert!(asks(3 * MS, SHORT) && asks(4 * MS, 0) && asks(2 * MS + LASTS, 0));
        assert!(!asks(3 * MS + LASTS, 0));
        assert!(asks(3 * MS + LASTS + EVERY, 0));
        assert_eq!(tracker.before(1, 3 * MS + LASTS + EVERY, 3), Some(7));
        assert_eq!(tracker.before(2, 3 * MS + LASTS + EVERY, 3), Some(3), "a new one, of a thread that lived before");
    }

    #[test]
    fn a_poll_keeps_the_count_from_before_it() {
        let mut tracker = RunDelayTracker::default();
        let mut look = |now: u64, poll: Option<u64>, waited: u64| {
            let thread = WatchedThread { id: 1, poll: poll.map(|begin| begin * MS), first: 0 };
            tracker.note(now * MS, SHORT, [thread].into_iter(), |_| Some((now * MS, waited)));
            tracker.before(1, poll.unwrap_or(now) * MS, 0)
        };
        assert_eq!(look(10, None, 5), Some(5));
        assert_eq!(look(20, Some(13), 9), Some(5), "it began after the first look");
        assert_eq!(look(30, Some(13), 17), Some(5), "and goes on");
        assert_eq!(look(40, Some(33), 18), Some(17), "the next one");
        assert_eq!(look(50, Some(33), 19), Some(17));
        assert_eq!(tracker.before(1, 52 * MS, 0), Some(19), "of one that begins after it, and may end unseen");
        assert_eq!(tracker.before(1, 2 * MS, 0), None, "too long ago");
    }

    /// As long as a poll lasts, what is known from before it stays known.
    #[test]
    fn a_long_poll_does_not_outlive_its_count() {
        let mut tracker = RunDelayTracker::default();
        let thread = |poll| WatchedThread { id: 1, poll, first: 0 };
        for look in 0..1_000 {
            let poll = (look > 0).then_some(MS);
            asked(&mut tracker, look * 5 * MS, SHORT, [thread(poll)]);
        }
        assert_eq!(tracker.before(1, MS, 0), Some(7));
    }

    /// The watchdog was asleep since, or had others to ask: the thread may have waited for what is no part of the poll.
    #[test]
    fn the_older_a_count_the_less_it_excuses() {
        let mut tracker = RunDelayTracker::default();
        assert_eq!(asked(&mut tracker, MS, SHORT, [idle(1)]), [1]);
        assert_eq!(tracker.before(1, MS + EVERY, 3), Some(7));
        assert_eq!(tracker.before(1, MS + STALE, 3), Some(7));
        assert_eq!(tracker.before(1, MS + STALE + 1, 3), Some(8));
        assert_eq!(tracker.before(1, MS + STALE + 600 * MS, 3), Some(7 + 600 * MS));
        // Its first, too; and what is asked for in vain is no answer.
        let mut tracker = RunDelayTracker::default();
        for now in [0, EVERY, 2 * EVERY, 6 * EVERY] {
            tracker.note(now, SHORT, [idle(1)].into_iter(), |_| None);
        }
        assert_eq!((tracker.before(1, EVERY, 3), tracker.before(1, 6 * EVERY, 3)), (Some(3), Some(3 + 2 * EVERY)));
    }

    #[test]
    fn asks_a_few_at_a_look_each_in_its_turn() {
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
            for now in (1..400).map(|look| look * 5 * MS) {
                let asked = asked(&mut tracker, now, own, threads(now));
                assert!(asked.len() <= MOST, "{} at one look", asked.len());
                for id in asked {
                    let ago = now - latest.insert(id, now).unwrap_or(5 * MS);
                    let longest = &mut longest[usize::from(in_poll(id))];
                    *longest = ago.max(*longest);
                }
            }
            assert_eq!(latest.len() as u64, THREADS, "each has its turn");
            let [others, in_polls] = longest;
            assert!(others <= STALE, "{} ms", others / MS);
            assert!(in_polls < others.min(2 * EVERY), "{} ms, {} ms", in_polls / MS, others / MS);
        }
        // However many are in a poll, the others have their turn.
        let mut tracker = RunDelayTracker::default();
        let mut idle_asked = false;
        for now in (1..200).map(|look| look * 5 * MS) {
            let threads = (1..=THREADS).map(|id| WatchedThread { id, poll: (id > 1).then_some(now), first: 0 });
            idle_asked |= asked(&mut tracker, now, SHORT, threads).contains(&1);
        }
        assert!(idle_asked);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut tracker = RunDelayTracker::default();
        asked(&mut tracker, MS, SHORT, (1..=100).map(idle));
        asked(&mut tracker, 2 * MS, SHORT, [idle(7)]);
        assert_eq!(tracker.threads.len(), 1);
    }
}
