//! Code that blocks a worker, or a whole runtime.

use std::future::pending;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::{Watchdog, allow_blocking};
use test_support::keep_driver;
use tokio::runtime::{Handle, Runtime};

/// The size of a service's pool for blocking work.
pub(crate) const POOL_THREADS: usize = 4;

/// The time for which a handler blocks, some thresholds.
const BLOCK: Duration = Duration::from_millis(30);
/// How long an outage lasts that occurs again and again, and the time until the next.
const OUTAGE: Duration = Duration::from_secs(110);
const BETWEEN_OUTAGES: Duration = Duration::from_secs(10);

/// Blocks in a sleep.
pub(crate) fn sleep() {
    thread::sleep(BLOCK);
}

/// Blocks in a lock that a thread of the blocking pool holds.
pub(crate) fn wait_for_lock() {
    let (mutex, barrier) = (Arc::new(Mutex::new(())), Arc::new(Barrier::new(2)));
    let (held, both) = (mutex.clone(), barrier.clone());
    tokio::task::spawn_blocking(move || {
        let _guard = held.lock();
        both.wait();
        thread::sleep(BLOCK);
    });
    barrier.wait();
    drop(mutex.lock());
}

/// Blocks in a computation.
pub(crate) fn compute() {
    let started = Instant::now();
    while started.elapsed() < BLOCK {
        std::hint::spin_loop();
    }
}

/// Panics as a handler with a bug does, without the output of the panic hook.
pub(crate) fn panic() {
    std::panic::resume_unwind(Box::new("on purpose"));
}

/// Blocks all workers, again and again: each waits for a reply of a server that is gone.
pub(crate) fn block_all_workers(watchdog: Watchdog, runtime: Handle) {
    thread::spawn(move || {
        let _inside = runtime.enter();
        loop {
            thread::sleep(BETWEEN_OUTAGES);
            for _ in 0..runtime.metrics().num_workers() {
                watchdog.spawn(async {
                    let (_server, reply) = std::sync::mpsc::channel::<()>();
                    let _ = reply.recv_timeout(OUTAGE);
                });
            }
            thread::sleep(OUTAGE);
        }
    });
}

/// A task and a thread of the blocking pool use one lock, and the thread holds it while it waits
/// for a timer. Sooner or later the worker that attends the timers waits for the lock, for ever.
pub(crate) fn leave_driver_unattended(watchdog: &Watchdog, runtime: &Runtime) {
    let mutex = Arc::new(Mutex::new(()));
    let (locked, handle) = (mutex.clone(), runtime.handle().clone());
    let _inside = runtime.enter();
    watchdog.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(locked.lock());
        }
    });
    runtime.spawn_blocking(move || {
        loop {
            let _guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
            handle.block_on(tokio::time::sleep(Duration::from_millis(5)));
        }
    });
}

/// Has the runtime hang, again and again: a waker blocks the worker that is in the driver.
pub(crate) fn hang(runtime: Handle) {
    thread::spawn(move || {
        loop {
            let kept = keep_driver(&runtime, Duration::from_millis(50));
            kept.wait_entered();
            thread::sleep(OUTAGE);
            drop(kept);
            thread::sleep(BETWEEN_OUTAGES);
        }
    });
}

/// Fills the pool for blocking work for ever: its calls wait for one that gets no thread.
pub(crate) fn fill_blocking_pool(runtime: &Runtime) {
    let all = Arc::new(Barrier::new(POOL_THREADS));
    for _ in 0..POOL_THREADS {
        let (all, handle) = (all.clone(), runtime.handle().clone());
        runtime.spawn_blocking(move || {
            all.wait();
            let _ = handle.block_on(handle.spawn_blocking(|| {}));
        });
    }
}

/// Floods the runtime with polls that are too short for a stall, so that all tasks wait.
pub(crate) fn flood(watchdog: &Watchdog, runtime: &Runtime) {
    const TASKS_PER_WORKER: usize = 150;
    let _inside = runtime.enter();
    for _ in 0..TASKS_PER_WORKER * runtime.metrics().num_workers() {
        watchdog.spawn(async {
            loop {
                thread::sleep(Duration::from_millis(5));
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Leaks two tasks each half second, cancels one, and blocks where that is allowed.
pub(crate) fn leak_tasks(watchdog: Watchdog, runtime: &Runtime) {
    runtime.spawn(async move {
        loop {
            for _ in 0..2 {
                drop(tokio::spawn(pending::<()>()));
            }
            watchdog.spawn(pending::<()>()).abort();
            drop(watchdog.spawn(async { allow_blocking("a migration", sleep) }));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
}
