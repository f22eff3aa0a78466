//! A watchdog with a server, a runtime with two workers, and tasks that hold those.

use std::sync::mpsc;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};

use super::DEADLINE;

/// Silent, and answering on a free port.
pub(crate) fn served(threshold: Duration) -> Watchdog {
    let builder = Watchdog::builder().threshold(threshold).log(false);
    builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap()
}

pub(crate) fn two_workers(watchdog: &Watchdog, name: &str) -> Runtime {
    watchdog.build_runtime(name, Builder::new_multi_thread().worker_threads(2).enable_all()).unwrap()
}

/// A worker is blocked until this is dropped, also by a failing assertion.
pub(crate) struct Held {
    _release: mpsc::Sender<()>,
}

/// Has a task block each of so many workers, spawned at the caller's place; returns when all are.
#[track_caller]
pub(crate) fn hold(watchdog: &Watchdog, runtime: &Runtime, workers: usize) -> Vec<Held> {
    let _inside = runtime.enter();
    let mut held = Vec::new();
    for _ in 0..workers {
        let (_release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        watchdog.spawn(async move {
            begin.send(()).unwrap();
            let _ = released.recv();
        });
        begun.recv_timeout(DEADLINE).expect("a worker that is free takes the task");
        held.push(Held { _release });
    }
    held
}
