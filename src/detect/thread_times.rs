//! Readings of the threads' CPU times and run delays from before their polls, so that the amounts
//! within a poll are known. Pure.
//!
//! An amount within a poll follows from the difference between two readings, one of them from
//! before the poll. Each thread is read at every scan while CPUs are short, and occasionally
//! otherwise. One scan reads only a few threads, since each reading reads a file.

use std::collections::HashMap;

use super::time_account::ThreadTimes;
use crate::measure::thread::InitialTimes;
use crate::model::id::ThreadNumber;
use crate::model::time::Nanos;

/// CPUs are short when the watchdog thread itself waits this long for one, from the start of one
/// sleep to the start of the next. Other threads may have waited, too.
const MIN_OWN_WAIT: Nanos = Nanos::from_micros(100);
/// The time for which CPUs are taken to be short after such a wait.
const SHORTAGE_LASTS: Nanos = Nanos::from_secs(1);
/// The interval at which threads are read while CPUs are not short. By the time that a shortage is
/// noticed, polls have waited already.
const INTERVAL: Nanos = Nanos::from_millis(100);
/// The number of threads that are read in one scan.
const MAX_READS: usize = 16;
/// The age up to which a reading counts as one of the start of a poll. An older reading is
/// corrected: the thread is taken to have waited for all of the time beyond this age. So a wait
/// from before the poll is not taken for one within it.
const MAX_FRESH_AGE: Nanos = Nanos::from_millis(400);

/// The two readings of a thread that are kept.
#[derive(Clone, Copy, Debug)]
struct Readings {
    /// The latest reading from before the poll that the thread was in at the time of `latest`.
    before_poll: Option<ThreadTimes>,
    latest: ThreadTimes,
    /// The moment at which a reading was last tried, successfully or not.
    tried_at: Nanos,
}

/// A measured thread in a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchedThread {
    pub(crate) number: ThreadNumber,
    /// The moment at which the thread's outermost poll started, if it is in one.
    pub(crate) poll_start: Option<Nanos>,
    /// The thread's CPU time and run delay when it was first measured.
    pub(crate) initial: InitialTimes,
}

/// Tracks the CPU times and run delays of all measured threads.
#[derive(Debug, Default)]
pub(crate) struct ThreadTimesTracker {
    /// The moment until which CPUs are taken to be short.
    short_until: Nanos,
    /// The moment at which a reading is next due.
    next: Nanos,
    threads: HashMap<ThreadNumber, Readings>,
}

impl ThreadTimesTracker {
    /// Takes in a scan at the moment `now`. `own_wait` is how long the watchdog thread has waited
    /// for a CPU since it started the latest sleep; `read` reads the times of a thread. Threads
    /// in a poll are read first, unless others have not been read for long.
    pub(crate) fn update(
        &mut self,
        now: Nanos,
        own_wait: Nanos,
        threads: impl Iterator<Item = WatchedThread>,
        read: impl Fn(ThreadNumber) -> Option<ThreadTimes>,
    ) {
        if own_wait >= MIN_OWN_WAIT {
            self.short_until = now + SHORTAGE_LASTS;
        }
        let is_short = now < self.short_until;
        if !is_short && now < self.next {
            return;
        }
        let mut known = std::mem::take(&mut self.threads);
        let mut due = Vec::new();
        self.next = now + INTERVAL;
        for thread in threads {
            let readings = known.remove(&thread.number).unwrap_or_else(|| Readings::new(&thread, now));
            if is_short || now.saturating_sub(readings.tried_at) >= INTERVAL {
                // A thread in no poll is ranked as if it had been read an interval later.
                let handicap = if thread.poll_start.is_some() { Nanos::ZERO } else { INTERVAL };
                due.push((readings.tried_at + handicap, thread));
            } else {
                self.next = self.next.min(readings.tried_at + INTERVAL);
            }
            self.threads.insert(thread.number, readings);
        }
        if due.len() > MAX_READS {
            due.select_nth_unstable_by_key(MAX_READS - 1, |(priority, _)| *priority);
            due.truncate(MAX_READS);
            self.next = now;
        }
        for (_, thread) in due {
            if let Some(readings) = self.threads.get_mut(&thread.number) {
                readings.update(thread.poll_start, now, read(thread.number));
            }
        }
    }

    /// Returns the times of a thread shortly before a poll that started at `start`, or when the
    /// thread was first measured if that was later. `None` where they are unknown.
    pub(crate) fn before(&self, thread: ThreadNumber, start: Nanos, initial: InitialTimes) -> Option<ThreadTimes> {
        // No update has met a thread without readings: it was first measured a short time ago.
        let Some(readings) = self.threads.get(&thread) else { return Some(initial.reading()) };
        readings.latest_before(start)
    }
}

impl InitialTimes {
    /// Returns these times as a reading.
    fn reading(self) -> ThreadTimes {
        // The number of runs is one that no later reading has: the kernel counts from 1.
        let InitialTimes { at, cpu, run_delay } = self;
        ThreadTimes { at, cpu, run_delay: Some(run_delay), runs: 0, is_runnable: false }
    }
}

impl Readings {
    /// The readings of a thread that no earlier update has met. Its times when it was first
    /// measured count as a reading from the start of its poll.
    fn new(thread: &WatchedThread, now: Nanos) -> Readings {
        let at = thread.poll_start.map_or(now, |start| start.min(now));
        Readings { before_poll: None, latest: thread.initial.reading(), tried_at: at }
    }

    /// Takes in a new reading, or a failed one.
    fn update(&mut self, poll_start: Option<Nanos>, now: Nanos, reading: Option<ThreadTimes>) {
        self.tried_at = now;
        let Some(reading) = reading else { return };
        self.before_poll = match poll_start {
            Some(start) => self.latest_before(start),
            None => Some(self.latest),
        };
        self.latest = reading;
    }

    /// Returns the latest reading that is no later than `start`, corrected for its age.
    fn latest_before(&self, start: Nanos) -> Option<ThreadTimes> {
        let readings = [Some(self.latest), self.before_poll].into_iter().flatten();
        let reading = readings.into_iter().find(|reading| reading.at <= start)?;
        let unknown = start.saturating_sub(reading.at).saturating_sub(MAX_FRESH_AGE);
        // Neither amount of the poll becomes larger by the older reading.
        let run_delay = reading.run_delay.map(|delay| delay + unknown);
        let cpu = if unknown > Nanos::ZERO { reading.cpu + unknown } else { reading.cpu };
        Some(ThreadTimes { at: reading.at + unknown, cpu, run_delay, ..reading })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const MS: Nanos = Nanos::from_millis(1);

    fn initial(run_delay: u64) -> InitialTimes {
        InitialTimes { at: Nanos::ZERO, cpu: Nanos::ZERO, run_delay: Nanos(run_delay) }
    }

    fn times(at: Nanos, run_delay: Nanos) -> ThreadTimes {
        ThreadTimes { at, cpu: Nanos::ZERO, run_delay: Some(run_delay), runs: 1, is_runnable: false }
    }

    /// A thread in no poll.
    fn idle(number: u64) -> WatchedThread {
        WatchedThread { number: ThreadNumber(number), poll_start: None, initial: initial(3) }
    }

    /// Returns the threads that one scan reads, in the order of their numbers.
    fn read(
        tracker: &mut ThreadTimesTracker,
        now: Nanos,
        own_wait: Nanos,
        threads: impl IntoIterator<Item = WatchedThread>,
    ) -> Vec<u64> {
        let read: RefCell<Vec<u64>> = RefCell::default();
        tracker.update(now, own_wait, threads.into_iter(), |thread| {
            read.borrow_mut().push(thread.0);
            Some(times(now, Nanos(7)))
        });
        let mut read = read.into_inner();
        read.sort_unstable();
        read
    }

    /// Returns the run delay before a poll that started at `start`.
    fn before(tracker: &ThreadTimesTracker, thread: u64, start: Nanos, delay: u64) -> Option<Nanos> {
        tracker.before(ThreadNumber(thread), start, initial(delay))?.run_delay
    }

    #[test]
    fn reads_at_every_scan_only_while_cpus_are_short() {
        let mut tracker = ThreadTimesTracker::default();
        let mut reads = |now: Nanos, own_wait: Nanos| !read(&mut tracker, now, own_wait, [idle(1)]).is_empty();
        assert!(!reads(MS, Nanos::ZERO), "its run delay when it was first measured is known");
        assert!(!reads(2 * MS, MIN_OWN_WAIT - Nanos(1)));
        assert!(
            reads(3 * MS, MIN_OWN_WAIT) && reads(4 * MS, Nanos::ZERO) && reads(2 * MS + SHORTAGE_LASTS, Nanos::ZERO)
        );
        assert!(!reads(3 * MS + SHORTAGE_LASTS, Nanos::ZERO));
        assert!(reads(3 * MS + SHORTAGE_LASTS + INTERVAL, Nanos::ZERO));
        let start = 3 * MS + SHORTAGE_LASTS + INTERVAL;
        assert_eq!(before(&tracker, 1, start, 3), Some(Nanos(7)));
        assert_eq!(before(&tracker, 2, start, 3), Some(Nanos(3)), "a new one, of a thread that lived before");
    }

    #[test]
    fn the_reading_from_before_a_poll_is_kept() {
        let mut tracker = ThreadTimesTracker::default();
        let mut scan = |now: u64, poll_start: Option<u64>, run_delay: u64| {
            let poll_start = poll_start.map(|start| start * MS);
            let thread = WatchedThread { number: ThreadNumber(1), poll_start, initial: initial(0) };
            let now = now * MS;
            let reading = times(now, Nanos(run_delay));
            tracker.update(now, MIN_OWN_WAIT, [thread].into_iter(), |_| Some(reading));
            before(&tracker, 1, poll_start.unwrap_or(now), 0)
        };
        assert_eq!(scan(10, None, 5), Some(Nanos(5)));
        assert_eq!(scan(20, Some(13), 9), Some(Nanos(5)), "it started after the first scan");
        assert_eq!(scan(30, Some(13), 17), Some(Nanos(5)), "and lasts");
        assert_eq!(scan(40, Some(33), 18), Some(Nanos(17)), "the next one");
        assert_eq!(scan(50, Some(33), 19), Some(Nanos(17)));
        assert_eq!(before(&tracker, 1, 52 * MS, 0), Some(Nanos(19)), "a later poll, which may end unseen");
        assert_eq!(before(&tracker, 1, 2 * MS, 0), None, "too long ago");
    }

    #[test]
    fn the_reading_from_before_a_poll_is_kept_as_long_as_the_poll_lasts() {
        let mut tracker = ThreadTimesTracker::default();
        let thread = |poll_start| WatchedThread { number: ThreadNumber(1), poll_start, initial: initial(0) };
        for scan in 0..1_000 {
            let poll = (scan > 0).then_some(MS);
            read(&mut tracker, scan * 5 * MS, MIN_OWN_WAIT, [thread(poll)]);
        }
        assert_eq!(before(&tracker, 1, MS, 0), Some(Nanos(7)));
    }

    /// While the watchdog slept or read other threads, the thread may have waited outside of the
    /// poll.
    #[test]
    fn the_time_beyond_the_fresh_age_of_a_reading_counts_as_a_wait_before_the_poll() {
        let mut tracker = ThreadTimesTracker::default();
        assert_eq!(read(&mut tracker, MS, MIN_OWN_WAIT, [idle(1)]), [1]);
        assert_eq!(before(&tracker, 1, MS + INTERVAL, 3), Some(Nanos(7)));
        assert_eq!(before(&tracker, 1, MS + MAX_FRESH_AGE, 3), Some(Nanos(7)));
        assert_eq!(before(&tracker, 1, MS + MAX_FRESH_AGE + Nanos(1), 3), Some(Nanos(8)));
        assert_eq!(before(&tracker, 1, MS + MAX_FRESH_AGE + 600 * MS, 3), Some(Nanos(7) + 600 * MS));
        // The same holds for the initial reading. A failed reading is none.
        let mut tracker = ThreadTimesTracker::default();
        for now in [Nanos::ZERO, INTERVAL, 2 * INTERVAL, 6 * INTERVAL] {
            tracker.update(now, MIN_OWN_WAIT, [idle(1)].into_iter(), |_| None);
        }
        assert_eq!(
            (before(&tracker, 1, INTERVAL, 3), before(&tracker, 1, 6 * INTERVAL, 3)),
            (Some(Nanos(3)), Some(Nanos(3) + 2 * INTERVAL))
        );
    }

    #[test]
    fn reads_a_few_in_a_scan_each_in_its_turn() {
        const THREADS: u64 = 500;
        let in_poll = |thread: u64| thread <= 8;
        let watched =
            |thread: u64, poll_start| WatchedThread { number: ThreadNumber(thread), poll_start, initial: initial(0) };
        for own_wait in [MIN_OWN_WAIT, Nanos::ZERO] {
            let mut tracker = ThreadTimesTracker::default();
            let mut latest: HashMap<u64, Nanos> = HashMap::new();
            let mut longest = [Nanos::ZERO; 2];
            for now in (1..400).map(|scan| scan * 5 * MS) {
                let poll_start = now.saturating_sub(MS);
                let threads = (1..=THREADS).map(|thread| watched(thread, in_poll(thread).then_some(poll_start)));
                let read = read(&mut tracker, now, own_wait, threads);
                assert!(read.len() <= MAX_READS, "{} at one scan", read.len());
                for thread in read {
                    let ago = now - latest.insert(thread, now).unwrap_or(5 * MS);
                    let longest = &mut longest[usize::from(in_poll(thread))];
                    *longest = ago.max(*longest);
                }
            }
            assert_eq!(latest.len() as u64, THREADS, "each has its turn");
            let [others, in_polls] = longest;
            assert!(others <= MAX_FRESH_AGE, "{others:?}");
            assert!(in_polls < others.min(2 * INTERVAL), "{in_polls:?}, {others:?}");
        }
        // However many are in a poll, the others have their turn.
        let mut tracker = ThreadTimesTracker::default();
        let mut is_idle_read = false;
        for now in (1..200).map(|scan| scan * 5 * MS) {
            let threads = (1..=THREADS).map(|thread| watched(thread, (thread > 1).then_some(now)));
            is_idle_read |= read(&mut tracker, now, MIN_OWN_WAIT, threads).contains(&1);
        }
        assert!(is_idle_read);
    }

    #[test]
    fn a_thread_that_exited_is_forgotten() {
        let mut tracker = ThreadTimesTracker::default();
        read(&mut tracker, MS, MIN_OWN_WAIT, (1..=100).map(idle));
        read(&mut tracker, 2 * MS, MIN_OWN_WAIT, [idle(7)]);
        assert_eq!(tracker.threads.len(), 1);
    }
}
