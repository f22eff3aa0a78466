//! A watchdog with a server, a runtime with two workers, and tasks that block them.

use std::sync::mpsc;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::runtime::Runtime;

use crate::{TIMEOUT, multi_thread};

/// Starts a watchdog that does not log and serves on a free port.
pub fn served(threshold: Duration) -> Watchdog {
    let builder = Watchdog::builder().threshold(threshold).log(false);
    builder.listen("127.0.0.1:0").start().unwrap()
}

/// Builds a runtime with two workers.
pub fn two_workers(watchdog: &Watchdog, name: &str) -> Runtime {
    watchdog.build_runtime(name, multi_thread(2)).unwrap()
}

/// Keeps one worker blocked until it is dropped, also by a failing assertion.
pub struct BlockedWorker {
    _release: mpsc::Sender<()>,
}

/// Blocks `workers` workers, each by a task spawned at the caller's location, and returns when all
/// are blocked.
#[track_caller]
pub fn block_workers(watchdog: &Watchdog, runtime: &Runtime, workers: usize) -> Vec<BlockedWorker> {
    let _inside = runtime.enter();
    let mut blocked = Vec::new();
    for _ in 0..workers {
        let (_release, released) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        watchdog.spawn(async move {
            start.send(()).unwrap();
            let _ = released.recv();
        });
        started.recv_timeout(TIMEOUT).expect("a free worker takes the task");
        blocked.push(BlockedWorker { _release });
    }
    blocked
}
