//! When each task was polled last: a bounded hash table from a task to its last poll and its site.
//!
//! The spawn hook adds a task, the end of each of its polls stores when that poll started, and the
//! hook of the task's end removes it. Like [`SpawnRoutes`](super::spawn_routes), an entry needs no
//! lock. Its key changes when a task is added or removed. Its value is one word, and only the
//! thread that polls the task writes it.

use std::sync::OnceLock;

use super::clock::{Clock, Ticks};
use super::spawn_routes::{BUCKETS, CHUNKS, Position};
use super::task_id::TaskBits;
use crate::model::id::{RuntimeId, SiteId};
use crate::model::time::Nanos;
use crate::sync::{AtomicU64, Ordering};

/// The number of entries of a bucket, which is two cache lines: a chunk takes 32 KiB. The model has
/// one, so that two tasks need the same.
const ENTRIES: usize = if cfg!(pollwatch_loom) { 1 } else { 8 };

/// The number of bits of a value that have the site and the runtime.
const GROUP_BITS: u32 = 24;
/// The number of bits of the site. A site beyond them counts as `other`.
const SITE_BITS: u32 = 18;

/// The runtime and the site of a task, and the moment of its last poll or of its spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastPoll {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    pub(crate) at: Ticks,
}

/// The form of a [`LastPoll`] in one word. The moment takes 40 bits: a signed number of units since
/// an origin. A unit is a power of two of the clock's ticks and takes at most a millisecond and
/// more than half of one, so that the bits suffice for eight years.
#[derive(Clone, Copy, Debug)]
struct PollEncoding {
    origin: Ticks,
    /// A unit has 2^shift ticks.
    shift: u32,
}

impl PollEncoding {
    /// `start` is a reading of this moment, and `millisecond` the ticks that a millisecond takes.
    fn new(start: Ticks, millisecond: Ticks) -> PollEncoding {
        let shift = millisecond.0.max(1).ilog2();
        // A reading of another CPU may be a bit earlier. It has a unit too, so that no word is 0
        // unless the counter jumps back to just that unit.
        PollEncoding { origin: Ticks(start.0.saturating_sub(2 << shift)), shift }
    }

    #[inline]
    fn pack(self, poll: LastPoll) -> u64 {
        let site = if poll.site.0 >> SITE_BITS == 0 { poll.site } else { SiteId::OTHER };
        let group = u64::from(poll.runtime.0 & 63) << SITE_BITS | u64::from(site.0);
        let units = poll.at.0.wrapping_sub(self.origin.0).cast_signed() >> self.shift;
        units.cast_unsigned() << GROUP_BITS | group
    }

    /// Returns the poll of a word. Its moment is up to a unit too early.
    fn unpack(self, word: u64) -> LastPoll {
        let units = word.cast_signed() >> GROUP_BITS;
        LastPoll {
            runtime: RuntimeId((word >> SITE_BITS) as u8 & 63),
            site: SiteId(word as u32 & ((1 << SITE_BITS) - 1)),
            at: Ticks(self.origin.0.saturating_add_signed(units << self.shift)),
        }
    }
}

/// The tasks whose hash is the same. The key of an empty entry is 0.
#[derive(Debug)]
#[repr(align(128))]
struct PollBucket {
    tasks: [AtomicU64; ENTRIES],
    polls: [AtomicU64; ENTRIES],
}

impl PollBucket {
    fn new() -> PollBucket {
        let empty = |_| AtomicU64::new(0);
        PollBucket { tasks: std::array::from_fn(empty), polls: std::array::from_fn(empty) }
    }

    #[inline]
    fn position(&self, task: TaskBits) -> Option<usize> {
        self.tasks.iter().position(|entry| entry.load(Ordering::Relaxed) == task.0)
    }

    /// Adds a task. Returns `false` where there is no room.
    fn insert(&self, task: TaskBits, word: u64) -> bool {
        // The entry is claimed before its value is known. Until then a reader finds a value of 0.
        // The claim is ordered after the removal of the previous task, which stores that 0.
        let claimed = (0..ENTRIES).find(|&at| {
            self.tasks[at].load(Ordering::Relaxed) == 0
                && self.tasks[at].compare_exchange(0, task.0, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        if let Some(at) = claimed {
            self.polls[at].store(word, Ordering::Release);
        }
        claimed.is_some()
    }

    #[inline]
    fn store(&self, task: TaskBits, word: u64) {
        if let Some(at) = self.position(task) {
            self.polls[at].store(word, Ordering::Release);
        }
    }

    #[inline]
    fn remove(&self, task: TaskBits) {
        if let Some(at) = self.position(task) {
            self.polls[at].store(0, Ordering::Relaxed);
            self.tasks[at].store(0, Ordering::Release);
        }
    }

    fn for_each(&self, mut f: impl FnMut(TaskBits, u64)) {
        for (task, poll) in self.tasks.iter().zip(&self.polls) {
            let known = TaskBits(task.load(Ordering::Acquire));
            let word = poll.load(Ordering::Acquire);
            // An entry that was given to another task meanwhile is that of a new task.
            if known != TaskBits::NONE && word != 0 && task.load(Ordering::Relaxed) == known.0 {
                f(known, word);
            }
        }
    }
}

/// The last polls of the tasks of one watchdog: of 131,072 tasks at most, and fewer where many have
/// the same hash.
#[derive(Debug)]
pub(crate) struct LastPolls {
    chunks: [OnceLock<Box<[PollBucket]>>; CHUNKS],
    encoding: PollEncoding,
    /// The number of tasks that did not fit.
    overflowed: AtomicU64,
}

impl LastPolls {
    /// The moments of the polls are readings of this clock or of its threads' clocks.
    pub(crate) fn new(clock: &Clock) -> LastPolls {
        LastPolls::of(PollEncoding::new(clock.now(), clock.ticks(Nanos::from_millis(1))))
    }

    fn of(encoding: PollEncoding) -> LastPolls {
        LastPolls { chunks: [const { OnceLock::new() }; CHUNKS], encoding, overflowed: AtomicU64::new(0) }
    }

    #[inline]
    fn bucket(&self, task: TaskBits) -> Option<&PollBucket> {
        let Position { chunk, bucket } = Position::of(task);
        self.chunks[chunk].get()?.get(bucket)
    }

    /// Adds a task that is being spawned. It is counted and not added where there is no room.
    pub(crate) fn insert(&self, task: TaskBits, spawned: LastPoll) {
        if task == TaskBits::NONE {
            return;
        }
        let Position { chunk, bucket } = Position::of(task);
        let chunk = self.chunks[chunk].get_or_init(|| (0..BUCKETS).map(|_| PollBucket::new()).collect());
        if !chunk[bucket].insert(task, self.encoding.pack(spawned)) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stores the last poll of a task; the thread that polls it only.
    #[inline]
    pub(crate) fn store(&self, task: TaskBits, poll: LastPoll) {
        if let Some(bucket) = self.bucket(task) {
            bucket.store(task, self.encoding.pack(poll));
        }
    }

    /// Removes a task that has ended, if it is in the table.
    #[inline]
    pub(crate) fn remove(&self, task: TaskBits) {
        if task != TaskBits::NONE
            && let Some(bucket) = self.bucket(task)
        {
            bucket.remove(task);
        }
    }

    /// Calls `f` with each task and its last poll, of which the moment is up to a millisecond too
    /// early; any thread.
    pub(crate) fn for_each(&self, mut f: impl FnMut(TaskBits, LastPoll)) {
        for bucket in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            bucket.for_each(|task, word| f(task, self.encoding.unpack(word)));
        }
    }

    /// Returns how many tasks did not fit.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1 << 20;

    fn table() -> LastPolls {
        LastPolls::of(PollEncoding::new(Ticks(4 * MILLISECOND), Ticks(MILLISECOND)))
    }

    fn poll(site: u32, at: u64) -> LastPoll {
        LastPoll { runtime: RuntimeId(63), site: SiteId(site), at: Ticks(at * MILLISECOND) }
    }

    fn all(table: &LastPolls) -> Vec<(u64, LastPoll)> {
        let mut all = Vec::new();
        table.for_each(|task, poll| all.push((task.0, poll)));
        all.sort_by_key(|(task, _)| *task);
        all
    }

    #[test]
    fn the_last_poll_of_each_task_is_known_until_its_end() {
        let table = table();
        table.store(TaskBits(1), poll(1, 1));
        table.insert(TaskBits(1), poll(1, 5));
        table.insert(TaskBits(2), poll(2, 6));
        table.store(TaskBits(2), poll(2, 9));
        assert_eq!(all(&table), [(1, poll(1, 5)), (2, poll(2, 9))]);
        table.remove(TaskBits(1));
        table.remove(TaskBits(3));
        assert_eq!(all(&table), [(2, poll(2, 9))]);
        table.insert(TaskBits::NONE, poll(1, 1));
        assert_eq!((all(&table).len(), table.overflowed()), (1, 0));
    }

    #[test]
    fn the_table_is_bounded_and_counts_what_does_not_fit() {
        const TASKS: u64 = 300_000;
        let table = table();
        (1..=TASKS).for_each(|task| table.insert(TaskBits(task), poll(1, 1)));
        let kept = all(&table).len() as u64;
        assert_eq!(kept + table.overflowed(), TASKS);
        assert!(kept >= 100_000 && kept <= (CHUNKS * BUCKETS * ENTRIES) as u64, "{kept}");
        (1..=TASKS).for_each(|task| table.remove(TaskBits(task)));
        assert_eq!(all(&table), []);
    }

    #[test]
    fn a_site_beyond_the_bits_is_other() {
        let table = table();
        table.insert(TaskBits(1), poll(1 << SITE_BITS, 5));
        assert_eq!(all(&table), [(1, poll(0, 5))]);
    }

    /// The counter of x86_64 has some 3 GHz, those of aarch64 have 24 MHz to 1 GHz. A system's
    /// uptime or a hypervisor may have it start anywhere, and it may jump back.
    #[test]
    fn a_moment_is_up_to_a_millisecond_early_at_any_frequency() {
        const MONOTONIC: u64 = 1 << 62;
        for hertz in [1_000, 1_000_000, 24_000_000, 25_000_000, 1_000_000_000, 2_596_000_000, 5_700_000_000_u64] {
            let millisecond = hertz / 1_000;
            for start in [hertz, 100_000 * hertz, 3 << 60, MONOTONIC, MONOTONIC + 7] {
                let table = LastPolls::of(PollEncoding::new(Ticks(start), Ticks(millisecond)));
                let after = [0, 1, millisecond - 1, millisecond, 12_345 * millisecond, 5 * 365 * 86_400 * hertz];
                let before = [1, 86_400 * hertz].map(|ticks| start.saturating_sub(ticks));
                for at in after.map(|ticks| start + ticks).into_iter().chain(before) {
                    let polled = LastPoll { runtime: RuntimeId(0), site: SiteId::OTHER, at: Ticks(at) };
                    table.insert(TaskBits(1), polled);
                    let [(1, known)] = all(&table)[..] else { panic!("{hertz} Hz: {at} is not known") };
                    let early = at.checked_sub(known.at.0);
                    assert!(early.is_some_and(|early| early < millisecond.max(1)), "{hertz} Hz: {at} is {known:?}");
                    table.remove(TaskBits(1));
                }
            }
        }
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A task ends, and another one takes its entry: its last poll is not lost, and a reader finds
    /// each task with its own.
    #[test]
    fn a_task_that_takes_an_entry_keeps_its_poll() {
        let all = |bucket: &PollBucket| {
            let mut all = Vec::new();
            bucket.for_each(|task, word| all.push((task.0, word)));
            all
        };
        // Each outcome has to occur, or the model proves nothing.
        let taken = std::sync::Arc::new([const { AtomicBool::new(false) }; 2]);
        let seen = std::sync::Arc::new([const { AtomicBool::new(false) }; 3]);
        loom::model({
            let (taken, seen) = (taken.clone(), seen.clone());
            move || {
                let bucket = loom::sync::Arc::new(PollBucket::new());
                assert!(bucket.insert(TaskBits(1), 10));
                let takes = loom::thread::spawn({
                    let bucket = bucket.clone();
                    move || bucket.insert(TaskBits(2), 20)
                });
                let reads = loom::thread::spawn({
                    let (bucket, seen) = (bucket.clone(), seen.clone());
                    move || {
                        let all = all(&bucket);
                        assert!(matches!(all[..], [] | [(1, 10)] | [(2, 20)]), "{all:?}");
                        seen[all.first().map_or(0, |(task, _)| *task as usize)].store(true, Ordering::Relaxed);
                    }
                });
                // loom runs this thread first.
                bucket.remove(TaskBits(1));
                let is_taken = takes.join().unwrap();
                reads.join().unwrap();
                assert_eq!(all(&bucket), if is_taken { vec![(2, 20)] } else { vec![] });
                taken[usize::from(is_taken)].store(true, Ordering::Relaxed);
            }
        });
        let occurred = |outcomes: &[AtomicBool]| outcomes.iter().all(|outcome| outcome.load(Ordering::Relaxed));
        assert!(occurred(&*taken) && occurred(&*seen), "{taken:?} {seen:?}");
    }
}
