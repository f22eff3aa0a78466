//! The limit on requests of blocking routes that are in their first poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::AtomicU32;

/// A counting [semaphore](https://en.wikipedia.org/wiki/Semaphore_(programming)) that never waits.
/// Acquiring a permit writes to shared memory, which only requests of an overloaded runtime do.
#[derive(Debug)]
pub(crate) struct FirstPollLimit {
    /// The number of permits that are taken, including those that are about to be refused.
    taken: AtomicU32,
    limit: u32,
    /// The flag that a permit was refused since [`take_refused`](Self::take_refused).
    refused: AtomicBool,
}

/// The right of a request of a blocking route to block its worker in its first poll.
#[derive(Debug)]
pub(crate) struct Permit(Arc<FirstPollLimit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FirstPollLimit {
    /// Makes the limit of a runtime. One worker is kept free of blocking routes, but there is
    /// always one permit.
    pub(crate) fn new(workers: usize) -> Arc<FirstPollLimit> {
        let limit = u32::try_from(workers).unwrap_or(u32::MAX).saturating_sub(1).max(1);
        Arc::new(FirstPollLimit { taken: AtomicU32::new(0), limit, refused: AtomicBool::new(false) })
    }

    /// Returns a permit, or `None` when all are taken.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        // If the permit is refused, dropping it restores the count.
        let permit = Permit(self.clone());
        if taken < self.limit {
            return Some(permit);
        }
        self.refused.store(true, Ordering::Relaxed);
        None
    }

    /// Returns whether a permit was refused since the previous call.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_worker_is_kept_free_of_blocking_routes() {
        for (workers, permits) in [(4, 3), (2, 1), (1, 1), (0, 1)] {
            let limit = FirstPollLimit::new(workers);
            let taken: Vec<_> = std::iter::from_fn(|| limit.try_acquire()).collect();
            assert_eq!(taken.len(), permits);
            assert!(limit.take_refused() && !limit.take_refused());
            drop(taken);
            assert!(limit.try_acquire().is_some() && !limit.take_refused());
        }
    }
}
