//! Readings of each CPU, by a thread that visits them and is left behind if one does not let it in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// What was read on the CPUs that were visited in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Visit<T> {
    pub(super) found: Vec<T>,
    /// False if some CPU may not have been visited.
    pub(super) is_complete: bool,
}

/// Returns what `read` returns on each CPU that the calling thread may use, as far as that is known
/// after `limit`. Returns nothing where no thread can be started.
///
/// A thread that is moved to a CPU continues once it gets that CPU. Where a thread of a real-time
/// priority spins, that may be never. So another thread is moved, and `is_visiting` is true until
/// it has ended. Only one is left behind: meanwhile nothing is returned.
pub(super) fn collect<T: Send + 'static>(
    is_visiting: &Arc<AtomicBool>,
    limit: Duration,
    mut read: impl FnMut() -> T + Send + 'static,
) -> Visit<T> {
    let mut visited = Visit { found: Vec::new(), is_complete: false };
    if is_visiting.swap(true, Ordering::Acquire) {
        return visited;
    }
    let deadline = Instant::now() + limit;
    let (found, results) = mpsc::channel();
    let visit = {
        let visiting = Visiting(is_visiting.clone());
        move || {
            let _visiting = visiting;
            // Nobody receives after the deadline.
            crate::sys::on_each_cpu(|| found.send(read()).is_ok());
        }
    };
    // Where this fails, `visit` is dropped, and with it `visiting`.
    let is_started = thread::Builder::new().name("pollwatch-cpus".into()).spawn(visit).is_ok();
    loop {
        match results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(reading) => visited.found.push(reading),
            Err(error) => {
                visited.is_complete = is_started && error == RecvTimeoutError::Disconnected;
                return visited;
            }
        }
    }
}

/// Set while a thread visits the CPUs.
struct Visiting(Arc<AtomicBool>);

impl Drop for Visiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// A thread that does not get on with its visit is waited for no longer than the limit.
    #[test]
    fn a_visit_that_hangs_is_left_behind() {
        let is_visiting = Arc::default();
        let (release, is_released) = mpsc::channel::<()>();
        let mut visits = 0;
        let hang = move || {
            visits += 1;
            if visits > 1 {
                let _ = is_released.recv();
            }
            visits
        };
        let start = Instant::now();
        let found = collect(&is_visiting, Duration::from_secs(2), hang);
        // One CPU was visited, and nothing hangs where there is only one.
        assert_eq!(found.found, [1]);
        assert_eq!(found.is_complete, start.elapsed() < Duration::from_secs(2));
        if !found.is_complete {
            let second = collect(&is_visiting, Duration::from_secs(2), || 7);
            assert_eq!(second, Visit { found: Vec::new(), is_complete: false }, "one at a time");
        }
        drop(release);
        let start = Instant::now();
        while is_visiting.load(Ordering::Acquire) {
            assert!(start.elapsed() < Duration::from_secs(60), "the thread ends");
            thread::yield_now();
        }
        let visited = collect(&is_visiting, Duration::from_secs(60), || 7);
        assert!(visited.is_complete && !visited.found.is_empty(), "{visited:?}");
    }
}
