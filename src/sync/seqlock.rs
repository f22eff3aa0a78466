//! A seqlock with one writer: readers copy the data without a lock, and discard the copy when the
//! version has changed meanwhile.
//!
//! The memory orderings are those of Hans Boehm, "Can seqlocks get along with programming language
//! memory models?" (2012, <https://doi.org/10.1145/2247684.2247688>). Two things are special:
//!
//! - The version says how much of the data is visible. The writer stores only into fields that the
//!   current version hides, and then publishes the next version. So no version marks a write in
//!   progress, and a write takes one store of the version instead of two.
//! - Fields are stored with `Release` instead of after a fence. A reader that saw a field of a
//!   later version therefore sees the versions before it, too, and discards its copy. On x86 these
//!   are plain stores.
//!
//! There is no read-modify-write, because the owning thread is the only writer.

use super::{AtomicU64, Ordering, fence};

/// How often a reader tries again. A thread that writes faster than it can be read is not blocked.
const READ_ATTEMPTS: usize = 3;

/// The version of the data. Each published version must differ from all before it.
#[derive(Debug)]
pub(crate) struct Version(AtomicU64);

/// One word of the data.
#[derive(Debug)]
pub(crate) struct Field(AtomicU64);

impl Version {
    pub(crate) fn new() -> Version {
        Version(AtomicU64::new(0))
    }

    /// Returns the current version, for the writer.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Publishes all fields that were set before, or hides some; for the writer.
    #[inline(always)]
    pub(crate) fn publish(&self, version: u64) {
        self.0.store(version, Ordering::Release);
    }

    /// Returns the current version, for any thread. Two equal versions mean that nothing was
    /// published between them.
    pub(crate) fn observe(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Returns the word in memory that has the version.
    #[cfg(not(all(test, pollwatch_loom)))]
    pub(crate) fn word(&self) -> &AtomicU64 {
        &self.0
    }

    /// Returns what `copy` makes of the fields that a version shows, with that version. Returns
    /// `None` when the writer publishes faster than the fields can be copied.
    #[inline]
    pub(crate) fn read<T>(&self, mut copy: impl FnMut(u64) -> T) -> Option<(u64, T)> {
        for _ in 0..READ_ATTEMPTS {
            let version = self.0.load(Ordering::Acquire);
            let data = copy(version);
            fence(Ordering::Acquire);
            if self.0.load(Ordering::Relaxed) == version {
                return Some((version, data));
            }
        }
        None
    }
}

impl Field {
    pub(crate) fn new() -> Field {
        Field(AtomicU64::new(0))
    }

    /// Returns the field, for the writer, and for `copy` in [`Version::read`].
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the field; for the writer.
    #[inline(always)]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    struct Pair {
        version: Version,
        fields: [Field; 2],
    }

    /// A version is odd while the pair is visible.
    #[test]
    fn a_copy_is_of_one_version() {
        let new = || Pair { version: Version::new(), fields: [Field::new(), Field::new()] };
        let write = |pair: &Pair| {
            for n in 1..=2 {
                pair.fields.iter().for_each(|field| field.set(n));
                pair.version.publish(2 * n - 1);
                pair.version.publish(2 * n);
            }
        };
        let read = |pair: &Pair| {
            let copy = |_| [0, 1].map(|at: usize| pair.fields[at].get());
            match pair.version.read(copy) {
                Some((version, pair)) if version % 2 == 1 => {
                    assert_eq!(pair, [version.div_ceil(2); 2]);
                    true
                }
                _ => false,
            }
        };
        crate::sync::model_one_writer(new, write, read, |pair| assert_eq!(pair.version.get(), 4));
    }
}
