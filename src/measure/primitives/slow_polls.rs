//! The last slow polls of a thread that have ended: a ring of one writer (the thread) and one reader (the watchdog).
//!
//! A poll is entered only when it lasted at least the threshold, so the watchdog learns the true duration of a stall, and
//! hears of one that ended before it looked. A full ring loses the entry and counts it.

use crate::sync::{AtomicU64, Ordering};

/// A poll that lasted at least the threshold and is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its frame's push number.
    pub(crate) number: u64,
    /// Clock reading at its begin.
    pub(crate) begin: u64,
    /// How long it took.
    pub(crate) nanos: u64,
    /// `What`, packed.
    pub(crate) what: u64,
    /// The task id's bits, 0 where there is none; of a request, the push number of the poll that it is a part of.
    pub(crate) task: u64,
    /// The worker that it was still blocking at its end, if it was.
    pub(crate) worker: Option<u16>,
}

#[derive(Debug)]
struct Entry([AtomicU64; 6]);

/// See the module's text. Its length is a parameter, so that the model of it can be small.
#[derive(Debug)]
pub(crate) struct EndedRing<const LEN: usize = 64> {
    head: AtomicU64,
    tail: AtomicU64,
    lost: AtomicU64,
    entries: [Entry; LEN],
}

impl<const LEN: usize> EndedRing<LEN> {
    pub(crate) fn new() -> Self {
        EndedRing {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            entries: std::array::from_fn(|_| Entry(std::array::from_fn(|_| AtomicU64::new(0)))),
        }
    }

    /// Enters one; the owning thread only.
    pub(crate) fn push(&self, ended: Ended) {
        let head = self.head.load(Ordering::Relaxed);
        if head.wrapping_sub(self.tail.load(Ordering::Acquire)) >= LEN as u64 {
            self.lost.store(self.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return;
        }
        let worker = ended.worker.map_or(0, |w| u64::from(w) + 1);
        let words = [ended.number, ended.begin, ended.nanos, ended.what, ended.task, worker];
        for (slot, word) in self.entries[head as usize % LEN].0.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.head.store(head + 1, Ordering::Release);
    }

    /// Takes all that are there, oldest first; one reader at a time (the watchdog).
    pub(crate) fn drain(&self, mut take: impl FnMut(Ended)) {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        while tail != head {
            let [number, begin, nanos, what, task, worker] =
                std::array::from_fn(|i| self.entries[tail as usize % LEN].0[i].load(Ordering::Relaxed));
            tail += 1;
            self.tail.store(tail, Ordering::Release);
            let worker = worker.checked_sub(1).map(|w| w as u16);
            take(Ended { number, begin, nanos, what, task, worker });
        }
    }

    /// Whether the watchdog still has something to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire) == self.tail.load(Ordering::Acquire)
    }

    /// How many did not fit.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn ended(number: u64) -> Ended {
        Ended { number, begin: 1, nanos: 2, what: 3, task: 4, worker: number.is_multiple_of(2).then_some(7) }
    }

    #[test]
    fn keeps_order_and_counts_what_does_not_fit() {
        const LEN: usize = 4;
        let ring = EndedRing::<LEN>::new();
        for i in 0..LEN as u64 + 3 {
            ring.push(ended(i));
        }
        let mut got = Vec::new();
        ring.drain(|e| got.push(e));
        assert_eq!(got, (0..LEN as u64).map(ended).collect::<Vec<_>>());
        assert_eq!(ring.lost(), 3);
        assert!(ring.is_empty());
        ring.push(ended(40));
        ring.drain(|e| got.push(e));
        assert_eq!(got.last(), Some(&ended(40)));
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;
    use crate::measure::primitives::slot::Slot;
    use std::sync::Mutex;

    type Ring = EndedRing<2>;

    const PUSHED: u64 = 3;

    fn drain(ring: &Ring, taken: &mut Vec<u64>) {
        ring.drain(|e| {
            let words = [e.begin, e.nanos, e.what, e.task, e.worker.map_or(0, u64::from)];
            assert!(words.iter().all(|word| *word == e.number), "{e:?}");
            taken.push(e.number);
        });
    }

    /// A slow poll leaves its word before its frame goes, and the watchdog reads frames before words: of a poll that was seen once, it
    /// finds the one or the other ever after. So no stall is taken for one that ended without a word.
    #[test]
    fn a_poll_is_seen_or_has_left_its_word() {
        type Model = (Slot, Ring);
        let new = || (Slot::new(), Ring::new());
        let write = |(slot, ring): &Model| {
            let number = slot.push(1, 1, 1, None);
            ring.push(Ended { number, begin: 1, nanos: 1, what: 1, task: 1, worker: Some(1) });
            slot.pop();
        };
        let read = |(slot, ring): &Model| {
            let look = || {
                // As `Watcher::look`. What moves too fast to be read is concluded nothing about.
                let seen = slot.read().is_none_or(|reading| !reading.frames().is_empty());
                let mut words = 0;
                ring.drain(|_| words += 1);
                (seen, words)
            };
            let ((first, early), (second, late)) = (look(), look());
            assert!(early + late <= 1);
            assert!(!first || second || early + late == 1, "it was seen, is gone, and has left no word");
            first && !second
        };
        crate::sync::model_one_writer(new, write, read, |(slot, _)| assert_eq!(slot.depth(), 0));
    }

    /// Each entry is taken whole, once and in order, or is counted as lost.
    #[test]
    fn an_ended_poll_is_taken_whole_or_counted_as_lost() {
        type Model = (Ring, Mutex<Vec<u64>>);
        let write = |(ring, _): &Model| {
            for i in 1..=PUSHED {
                ring.push(Ended { number: i, begin: i, nanos: i, what: i, task: i, worker: Some(i as u16) });
            }
        };
        let read = |(ring, taken): &Model| {
            let mut taken = taken.lock().unwrap();
            drain(ring, &mut taken);
            drain(ring, &mut taken);
            ring.lost() == 0 && taken.len() == 1
        };
        let at_end = |(ring, taken): &Model| {
            let mut taken = taken.lock().unwrap();
            drain(ring, &mut taken);
            assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
            assert_eq!(taken.len() as u64 + ring.lost(), PUSHED);
            assert!(ring.is_empty());
        };
        crate::sync::model_one_writer(|| (Ring::new(), Mutex::default()), write, read, at_end);
    }
}
