//! Decides whether the pool for blocking work of a runtime is full. Pure: readings and moments in,
//! changes out.
//!
//! The pool is full if at each reading, for the set time, calls waited in its queue, no thread was
//! idle, and no thread was started. tokio does not publish the largest number of threads. But it
//! starts a thread for each call that finds no idle one, unless it has that number, or the system
//! refuses to start another one. A pool that still grows takes milliseconds for that.

use crate::detect::pause::Pauses;
use crate::detect::track::without_pauses;
use crate::measure::runtime::blocking_pool::PoolCounts;
use crate::model::time::Nanos;

/// A change of a pool's condition. Durations exclude pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolChange {
    Started { duration: Nanos },
    Ongoing { duration: Nanos },
    Ended { duration: Nanos },
}

/// A time in which calls waited and no thread was idle.
#[derive(Clone, Copy, Debug)]
struct FullTime {
    since: Nanos,
    threads: usize,
    /// The duration at the latest reading.
    duration: Nanos,
    is_reported: bool,
}

/// The watch over the pool of one runtime.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PoolWatch {
    full: Option<FullTime>,
}

impl PoolWatch {
    /// Returns whether calls waited at the latest reading, so that the next one is due soon.
    pub(crate) fn is_open(&self) -> bool {
        self.full.is_some()
    }

    /// Takes in a reading, and returns what it changes. The pool is full `after` this time.
    pub(crate) fn step(&mut self, at: Nanos, pool: PoolCounts, after: Nanos, pauses: &Pauses) -> Option<PoolChange> {
        if !pool.has_waiting() {
            return self.end();
        }
        let fresh = FullTime { since: at, threads: pool.threads, duration: Nanos::ZERO, is_reported: false };
        let full = self.full.get_or_insert(fresh);
        // A pool that grows still takes calls.
        if !full.is_reported && full.threads != pool.threads {
            *full = fresh;
        }
        full.duration = without_pauses(full.since, at, pauses);
        let duration = full.duration;
        if full.is_reported {
            return Some(PoolChange::Ongoing { duration });
        }
        full.is_reported = duration >= after;
        full.is_reported.then_some(PoolChange::Started { duration })
    }

    /// Ends the condition, if there is one.
    pub(crate) fn end(&mut self) -> Option<PoolChange> {
        let ended = self.full.take().filter(|full| full.is_reported)?;
        Some(PoolChange::Ended { duration: ended.duration })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Returns the changes by readings of milliseconds, threads, idle threads and queued calls.
    fn changes(readings: &[[u64; 4]]) -> Vec<Option<PoolChange>> {
        let (mut watch, pauses) = (PoolWatch::default(), Pauses::default());
        let step = |&[at, threads, idle, queued]: &[u64; 4]| {
            let pool = PoolCounts { threads: threads as usize, idle: idle as usize, queued: queued as usize };
            watch.step(Nanos::from_millis(at), pool, Nanos::from_secs(1), &pauses)
        };
        readings.iter().map(step).collect()
    }

    fn started(ms: u64) -> Option<PoolChange> {
        Some(PoolChange::Started { duration: Nanos::from_millis(ms) })
    }

    fn ended(ms: u64) -> Option<PoolChange> {
        Some(PoolChange::Ended { duration: Nanos::from_millis(ms) })
    }

    #[test]
    fn a_pool_is_full_once_calls_have_waited_for_the_set_time() {
        let found = changes(&[[0, 2, 0, 1], [500, 2, 0, 3], [1_000, 2, 0, 3], [1_250, 2, 0, 4], [1_500, 2, 0, 0]]);
        let ongoing = Some(PoolChange::Ongoing { duration: Nanos::from_millis(1_250) });
        assert_eq!(found, [None, None, started(1_000), ongoing, ended(1_250)]);
    }

    #[test]
    fn a_pool_that_takes_its_calls_is_not_full() {
        let none = |readings: &[[u64; 4]]| changes(readings).iter().all(Option::is_none);
        assert!(none(&[[0, 2, 0, 1], [900, 2, 0, 0], [1_100, 2, 0, 1], [2_000, 2, 0, 1]]), "the queue was empty");
        assert!(none(&[[0, 2, 0, 1], [900, 2, 1, 1], [1_100, 2, 0, 1], [2_000, 2, 0, 1]]), "a thread was idle");
        assert!(none(&[[0, 2, 0, 1], [900, 3, 0, 1], [1_100, 4, 0, 1], [2_000, 4, 0, 1]]), "it grows");
        assert!(none(&[[0, 2, 0, 0], [5_000, 2, 0, 0]]), "all threads are busy, and nothing waits");
        assert!(none(&[[0, 0, 0, 1], [5_000, 0, 0, 1]]), "the first thread is being started");
    }

    #[test]
    fn a_pool_that_grows_later_is_still_full() {
        let found = changes(&[[0, 2, 0, 9], [1_000, 2, 0, 9], [1_200, 3, 0, 8], [1_300, 3, 1, 0]]);
        assert_eq!(found[1], started(1_000));
        assert_eq!(found[3], ended(1_200));
    }
}
