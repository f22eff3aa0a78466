//! The stack depths of threads that wait, read once for each wait.
//!
//! A depth is read from `/proc`, which costs some ten times as much as the thread's CPU time. So it
//! is read only of a thread that has not run since it was last considered, and not again before the
//! thread has run.

use std::collections::HashMap;

use super::observation::EntryId;
use crate::model::time::Nanos;

/// The depths of the threads that were considered.
#[derive(Debug, Default)]
pub(super) struct WaitDepths {
    threads: HashMap<EntryId, WaitDepth>,
}

/// The depth of a thread's stack, which is valid as long as it has used no more CPU time.
#[derive(Clone, Copy, Debug)]
struct WaitDepth {
    cpu: Nanos,
    /// The depth of its stack, once it was found waiting.
    depth: Option<usize>,
}

impl WaitDepths {
    /// Returns the depth of the stack of a thread that waits; `None` where it runs, or has run
    /// since the previous call. `cpu` is the CPU time that it has used, and `read` returns the
    /// depth at this moment if it waits.
    pub(super) fn of_waiting(
        &mut self,
        thread: EntryId,
        cpu: Nanos,
        read: impl FnOnce() -> Option<usize>,
    ) -> Option<usize> {
        let known = self.threads.entry(thread).or_insert(WaitDepth { cpu: Nanos::MAX, depth: None });
        if known.cpu != cpu {
            *known = WaitDepth { cpu, depth: None };
            return None;
        }
        if known.depth.is_none() {
            known.depth = read();
        }
        known.depth
    }

    /// Drops what is known of threads that are gone.
    pub(super) fn retain(&mut self, is_listed: impl Fn(EntryId) -> bool) {
        self.threads.retain(|&thread, _| is_listed(thread));
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: Nanos = Nanos::from_millis(1);

    #[test]
    fn a_thread_is_read_once_a_wait_and_never_while_it_runs() {
        let mut depths = WaitDepths::default();
        let mut reads = 0;
        let mut scan = |thread: u64, cpu: Nanos, depth: Option<usize>| {
            depths.of_waiting(EntryId(thread), cpu, || {
                reads += 1;
                depth
            })
        };
        for scan_number in 0..100 {
            assert_eq!(scan(1, scan_number * MS, Some(7)), None, "a busy worker runs between the scans");
            assert_eq!(scan(2, MS, Some(7)), (scan_number > 0).then_some(7));
        }
        assert_eq!(scan(2, 2 * MS, Some(9)), None, "it has run");
        assert_eq!(scan(2, 2 * MS, Some(9)), Some(9));
        assert_eq!(reads, 2);
    }

    #[test]
    fn a_thread_that_is_ready_to_run_is_read_again() {
        let mut depths = WaitDepths::default();
        assert_eq!(depths.of_waiting(EntryId(1), MS, || None), None);
        assert_eq!(depths.of_waiting(EntryId(1), MS, || None), None);
        assert_eq!(depths.of_waiting(EntryId(1), MS, || Some(3)), Some(3));
        depths.retain(|_| false);
        assert_eq!(depths.threads.len(), 0);
    }
}
