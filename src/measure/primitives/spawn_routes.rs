//! The routes under which tasks were spawned: a bounded hash table from a task to a route.
//!
//! The spawn hook adds a task that is spawned within a request, and the hook of the task's end
//! removes it. A poll neither reads nor writes the table. It is read where a slow poll is recorded,
//! and where a task spawns another one.
//!
//! An entry is one word, so that it changes at once and needs no lock: 48 bits of the task's id and
//! 16 of the route. tokio numbers tasks one after the other, so 48 bits distinguish all tasks of a
//! process. The memory order does not matter: tokio orders the spawn of a task before its polls,
//! and its polls before its end, and each of these concerns the entry of this task only.

use std::sync::OnceLock;

use super::route::RouteId;
use super::task_id::TaskBits;
use crate::sync::{AtomicU64, Ordering};

/// The number of chunks, each allocated when a task of it is added first.
pub(super) const CHUNKS: usize = 64;
/// The number of buckets of a chunk, which takes 16 KiB.
pub(super) const BUCKETS: usize = 256;
/// The number of entries of a bucket, which is a cache line.
const ENTRIES: usize = 8;

/// The tasks whose hash is the same. An empty entry is 0.
#[derive(Debug)]
#[repr(align(64))]
struct Bucket([AtomicU64; ENTRIES]);

impl Bucket {
    fn new() -> Bucket {
        Bucket(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Adds an entry. Returns `false` where there is no room.
    fn insert(&self, word: u64) -> bool {
        let is_added = |entry: &AtomicU64| {
            entry.load(Ordering::Relaxed) == 0
                && entry.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.0.iter().any(is_added)
    }

    #[inline]
    fn find(&self, task: TaskBits) -> Option<u64> {
        self.0.iter().map(|entry| entry.load(Ordering::Relaxed)).find(|word| is_of(*word, task))
    }

    #[inline]
    fn remove(&self, task: TaskBits) {
        // Only the end of this task changes its entry.
        if let Some(entry) = self.0.iter().find(|entry| is_of(entry.load(Ordering::Relaxed), task)) {
            entry.store(0, Ordering::Relaxed);
        }
    }
}

/// The routes of the tasks of one watchdog that were spawned within a request and have not ended:
/// 131,072 of them at most, and fewer where many have the same hash.
#[derive(Debug)]
pub(crate) struct SpawnRoutes {
    chunks: [OnceLock<Box<[Bucket]>>; CHUNKS],
    /// The number of tasks that did not fit.
    overflowed: AtomicU64,
}

/// The position of a task in the table.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) chunk: usize,
    pub(super) bucket: usize,
}

impl Position {
    /// Returns the position by Fibonacci hashing, which spreads consecutive numbers evenly
    /// (Knuth, "The Art of Computer Programming", volume 3, section 6.4).
    #[inline]
    pub(super) fn of(task: TaskBits) -> Position {
        let hash = task.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Position { chunk: (hash >> 58) as usize, bucket: (hash >> 50) as usize % BUCKETS }
    }
}

/// Returns the entry of a task.
fn entry_of(task: TaskBits, route: RouteId) -> u64 {
    task.0 << 16 | u64::from(RouteId::to_bits(Some(route)))
}

/// Returns whether a word is the entry of a task.
#[inline]
fn is_of(word: u64, task: TaskBits) -> bool {
    word != 0 && word >> 16 == task.0 & (u64::MAX >> 16)
}

impl SpawnRoutes {
    pub(crate) fn new() -> SpawnRoutes {
        SpawnRoutes { chunks: [const { OnceLock::new() }; CHUNKS], overflowed: AtomicU64::new(0) }
    }

    #[inline]
    fn bucket(&self, task: TaskBits) -> Option<&Bucket> {
        let Position { chunk, bucket } = Position::of(task);
        self.chunks[chunk].get()?.get(bucket)
    }

    /// Adds a task that is being spawned. It is counted and not added where there is no room.
    pub(crate) fn insert(&self, task: TaskBits, route: RouteId) {
        if task == TaskBits::NONE {
            return;
        }
        let Position { chunk, bucket } = Position::of(task);
        let chunk = self.chunks[chunk].get_or_init(|| (0..BUCKETS).map(|_| Bucket::new()).collect());
        if !chunk[bucket].insert(entry_of(task, route)) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the route under which a task was spawned, while the task has not ended.
    #[inline]
    pub(crate) fn find(&self, task: TaskBits) -> Option<RouteId> {
        RouteId::from_bits(self.bucket(task)?.find(task)? as u16)
    }

    /// Removes a task that has ended, if it is in the table.
    #[inline]
    pub(crate) fn remove(&self, task: TaskBits) {
        if let Some(bucket) = self.bucket(task) {
            bucket.remove(task);
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

    fn route(n: u16) -> RouteId {
        RouteId::from_bits(n).unwrap()
    }

    #[test]
    fn tasks_are_found_until_they_are_removed() {
        let routes = SpawnRoutes::new();
        routes.insert(TaskBits::NONE, route(1));
        routes.remove(TaskBits(1));
        let tasks = || (1..=50_000).map(TaskBits);
        tasks().for_each(|task| routes.insert(task, route((task.0 % 9 + 1) as u16)));
        assert_eq!(routes.overflowed(), 0);
        tasks().for_each(|task| assert_eq!(routes.find(task), Some(route((task.0 % 9 + 1) as u16))));
        assert_eq!((routes.find(TaskBits(50_001)), routes.find(TaskBits::NONE)), (None, None));
        tasks().filter(|task| task.0 % 2 == 0).for_each(|task| routes.remove(task));
        tasks().for_each(|task| assert_eq!(routes.find(task).is_some(), task.0 % 2 == 1));
    }

    #[test]
    fn a_full_table_counts_what_it_drops() {
        let routes = SpawnRoutes::new();
        let all = (CHUNKS * BUCKETS * ENTRIES) as u64;
        (1..=2 * all).for_each(|n| routes.insert(TaskBits(n), route(1)));
        let kept = (1..=2 * all).filter(|n| routes.find(TaskBits(*n)).is_some()).count() as u64;
        assert_eq!(kept + routes.overflowed(), 2 * all);
        assert!(kept > all * 9 / 10, "{kept}: consecutive ids spread evenly");
        (1..=2 * all).for_each(|n| routes.remove(TaskBits(n)));
        routes.insert(TaskBits(1), route(2));
        assert_eq!(routes.find(TaskBits(1)), Some(route(2)));
    }

    #[test]
    fn threads_add_and_remove_at_the_same_time() {
        let routes = SpawnRoutes::new();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let routes = &routes;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let task = TaskBits(1 + 4 * n + thread);
                        routes.insert(task, route(thread as u16 + 1));
                        assert_eq!(routes.find(task), Some(route(thread as u16 + 1)));
                        routes.remove(task);
                        assert_eq!(routes.find(task), None);
                    }
                });
            }
        });
        let is_empty = |bucket: &Bucket| bucket.0.iter().all(|entry| entry.load(Ordering::Relaxed) == 0);
        assert!(routes.chunks.iter().filter_map(OnceLock::get).flatten().all(is_empty));
        assert_eq!(routes.overflowed(), 0);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    /// Two tasks of one bucket are added and removed at the same time: neither takes the entry of
    /// the other.
    #[test]
    fn tasks_of_one_bucket_do_not_collide() {
        loom::model(|| {
            let bucket = loom::sync::Arc::new(Bucket::new());
            let live = |bucket: &Bucket, task: u64, route: u16| {
                let (task, route) = (TaskBits(task), RouteId::from_bits(route).unwrap());
                assert!(bucket.insert(entry_of(task, route)));
                assert_eq!(bucket.find(task), Some(entry_of(task, route)));
                bucket.remove(task);
                assert_eq!(bucket.find(task), None);
            };
            let other = loom::thread::spawn({
                let bucket = bucket.clone();
                move || live(&bucket, 1, 1)
            });
            live(&bucket, 2, 2);
            other.join().unwrap();
            assert!(bucket.0.iter().all(|entry| entry.load(Ordering::Relaxed) == 0));
        });
    }
}
