//! A bounded single-producer, single-consumer ring buffer (a Lamport queue) of entries of some
//! words each. A full ring drops the new entry and counts it.

use super::{AtomicU64, Ordering};

/// The ring. The models use a short one.
#[derive(Debug)]
pub(crate) struct Ring<const WORDS: usize, const LEN: usize> {
    /// How many entries were pushed; written by the producer.
    head: AtomicU64,
    /// How many entries were taken; written by the consumer.
    tail: AtomicU64,
    dropped: AtomicU64,
    entries: [[AtomicU64; WORDS]; LEN],
}

impl<const WORDS: usize, const LEN: usize> Ring<WORDS, LEN> {
    pub(crate) fn new() -> Self {
        let entry = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Ring {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            entries: std::array::from_fn(entry),
        }
    }

    /// Adds an entry; the producer only.
    pub(crate) fn push(&self, entry: [u64; WORDS]) {
        let head = self.head.load(Ordering::Relaxed);
        if head.wrapping_sub(self.tail.load(Ordering::Acquire)) >= LEN as u64 {
            super::add_single_writer(&self.dropped, 1);
            return;
        }
        for (word, value) in self.entries[head as usize % LEN].iter().zip(entry) {
            word.store(value, Ordering::Relaxed);
        }
        self.head.store(head + 1, Ordering::Release);
    }

    /// Takes all entries, the oldest first; one consumer at a time.
    pub(crate) fn drain(&self, mut take: impl FnMut([u64; WORDS])) {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        while tail != head {
            let entry = &self.entries[tail as usize % LEN];
            let entry = std::array::from_fn(|at| entry[at].load(Ordering::Relaxed));
            tail += 1;
            self.tail.store(tail, Ordering::Release);
            take(entry);
        }
    }

    /// Returns whether every entry was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire) == self.tail.load(Ordering::Acquire)
    }

    /// Returns how many entries were not taken; for the producer, or once it has ended.
    pub(crate) fn len(&self) -> u64 {
        let tail = self.tail.load(Ordering::Acquire);
        self.head.load(Ordering::Acquire).wrapping_sub(tail)
    }

    /// Returns how many entries did not fit.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_counts_what_does_not_fit() {
        const LEN: usize = 4;
        let ring = Ring::<2, LEN>::new();
        for n in 0..LEN as u64 + 3 {
            ring.push([n, n]);
        }
        assert_eq!(ring.len(), LEN as u64);
        let mut got = Vec::new();
        ring.drain(|entry| got.push(entry));
        assert_eq!(got, (0..LEN as u64).map(|n| [n, n]).collect::<Vec<_>>());
        assert_eq!(ring.dropped(), 3);
        assert!(ring.is_empty());
        assert_eq!(ring.len(), 0);
        ring.push([40, 41]);
        assert!(!ring.is_empty());
        ring.drain(|entry| got.push(entry));
        assert_eq!(got.last(), Some(&[40, 41]));
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;
    use std::sync::Mutex;

    type Short = Ring<5, 2>;

    const PUSHED: u64 = 3;

    fn drain(ring: &Short, taken: &mut Vec<u64>) {
        ring.drain(|entry| {
            assert!(entry.iter().all(|word| *word == entry[0]), "{entry:?}");
            taken.push(entry[0]);
        });
    }

    #[test]
    fn each_entry_is_taken_whole_and_in_order_or_counted_as_dropped() {
        type Model = (Short, Mutex<Vec<u64>>);
        let write = |(ring, _): &Model| (1..=PUSHED).for_each(|n| ring.push([n; 5]));
        let read = |(ring, taken): &Model| {
            let mut taken = taken.lock().unwrap();
            drain(ring, &mut taken);
            drain(ring, &mut taken);
            ring.dropped() == 0 && taken.len() == 1
        };
        let at_end = |(ring, taken): &Model| {
            let mut taken = taken.lock().unwrap();
            drain(ring, &mut taken);
            assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
            assert_eq!(taken.len() as u64 + ring.dropped(), PUSHED);
            assert!(ring.is_empty());
        };
        crate::sync::model_one_writer(|| (Short::new(), Mutex::default()), write, read, at_end);
    }
}
