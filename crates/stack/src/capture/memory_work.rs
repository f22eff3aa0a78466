//! The limits of the time that is spent waiting for the memory of another process.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::guard::lock_within;
use crate::Pid;
use crate::blocking::BlockingWork;

/// The time that captures may wait for pages at once. Other threads are not captured meanwhile.
const CAPTURE_BURST: Duration = Duration::from_millis(200);
/// The time that reading modules may take at once. A disk may have to read all of their tables.
const MODULE_BURST: Duration = Duration::from_secs(10);

/// The time for which another thread may hold the lock of [`SHARED`]: some instructions, except in
/// a forked child.
const PATIENCE: Duration = Duration::from_secs(1);

/// The work of all processes that are open now.
static SHARED: Mutex<Vec<SharedWork>> = Mutex::new(Vec::new());

/// The threads on which memory of another process is read.
#[derive(Debug)]
pub(super) struct MemoryWork {
    /// Reads of pages that are in memory, which wait for the lock of the process alone.
    pub(super) present: BlockingWork,
    /// Reads of pages that are not, for captures.
    pub(super) captures: BlockingWork,
    /// Copies of threads that are stopped meanwhile, for which the threads of this work have a
    /// higher priority.
    pub(super) stops: BlockingWork,
    pub(super) modules: BlockingWork,
}

struct SharedWork {
    pid: Pid,
    work: Weak<MemoryWork>,
}

impl MemoryWork {
    pub(super) fn new(captures: Duration, modules: Duration) -> Arc<MemoryWork> {
        let of_captures = || BlockingWork::new(captures);
        let modules = BlockingWork::new(modules);
        Arc::new(MemoryWork { present: of_captures(), captures: of_captures(), stops: of_captures(), modules })
    }

    /// Returns the work for a process. All who have opened it share the limits, so that a thread
    /// dump of a process that is watched gets no time of its own.
    pub(super) fn of(pid: Pid) -> Arc<MemoryWork> {
        let new = || MemoryWork::new(CAPTURE_BURST, MODULE_BURST);
        let Some(mut shared) = lock_within(&SHARED, PATIENCE) else { return new() };
        shared.retain(|shared| shared.work.strong_count() > 0);
        let found = shared.iter().find(|shared| shared.pid == pid).and_then(|shared| shared.work.upgrade());
        found.unwrap_or_else(|| {
            let work = new();
            shared.push(SharedWork { pid, work: Arc::downgrade(&work) });
            work
        })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn all_who_open_a_process_share_its_limits_while_it_is_open() {
        // No process has such ids.
        let (pid, other) = (Pid::from_raw(i32::MAX - 1), Pid::from_raw(i32::MAX - 2));
        let first = MemoryWork::of(pid);
        assert!(Arc::ptr_eq(&first, &MemoryWork::of(pid)));
        assert!(!Arc::ptr_eq(&first, &MemoryWork::of(other)));
        let _ = first.captures.run(Duration::ZERO, || std::thread::sleep(Duration::from_millis(5)));
        assert_eq!(first.captures.lost(), 1);
        drop(first);
        assert_eq!(MemoryWork::of(pid).captures.lost(), 0, "nobody has had it open");
    }
}
