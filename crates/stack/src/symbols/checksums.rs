//! The limit of the bytes of debug files whose checksums are computed.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The bytes whose checksums may be computed at once, and on average in a second: one or two
/// percent of a CPU.
const BURST: u64 = 4 << 30;
const PER_SECOND: u64 = 16 << 20;

/// The bytes whose checksums may still be computed, a [token bucket].
///
/// Another process can have any number of binaries without a build id, each with a large file to
/// which it links as its debug file. Files are charged by their length, before they are read.
///
/// [token bucket]: https://en.wikipedia.org/wiki/Token_bucket
#[derive(Debug, Default)]
pub(crate) struct ChecksumBudget {
    spent: Mutex<SpentBytes>,
}

#[derive(Debug, Default)]
struct SpentBytes {
    bytes: u64,
    updated: Option<Instant>,
}

impl ChecksumBudget {
    /// Takes the bytes of a file out of the budget. Returns false if they are too many now.
    pub(super) fn take(&self, bytes: u64) -> bool {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now())
    }
}

impl SpentBytes {
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let passed = self.updated.map_or(0, |updated| now.saturating_duration_since(updated).as_secs());
        // Parts of a second count the next time.
        if passed > 0 || self.updated.is_none() {
            self.bytes = self.bytes.saturating_sub(passed.saturating_mul(PER_SECOND));
            self.updated = Some(now);
        }
        let all = self.bytes.saturating_add(bytes);
        let is_permitted = all <= BURST;
        if is_permitted {
            self.bytes = all;
        }
        is_permitted
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bytes_are_refused_until_time_has_passed() {
        let (mut spent, start) = (SpentBytes::default(), Instant::now());
        assert!(spent.take(BURST - 1, start) && spent.take(1, start));
        assert!(!spent.take(1, start));
        let later = start + Duration::from_secs(2);
        assert!(!spent.take(2 * PER_SECOND + 1, later));
        assert!(spent.take(2 * PER_SECOND, later), "what was refused costs nothing");
        assert!(!spent.take(1, later) && !spent.take(u64::MAX, later));
    }
}
