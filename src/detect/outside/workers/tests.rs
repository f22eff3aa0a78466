use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::util::lock;

#[test]
fn a_worker_that_has_never_parked_is_busy() {
    let meter = Meter::of(Nanos::from_millis(10), 10);
    let entry = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
    let threads = WorkerThreads::new(&meter);
    let [starting, parking, unparking] = [(); 3].map(|()| threads.clone());
    // The thread that starts first is blocked until the test has scanned.
    let (release, blocked) = channel::<()>();
    let blocked = Mutex::new(Some(blocked));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).on_thread_park(move || parking.publish_park());
    builder.on_thread_unpark(move || unparking.publish_unpark()).on_thread_start(move || {
        starting.register();
        let first = lock(&blocked).take();
        first.map(|blocked| blocked.recv_timeout(Duration::from_secs(30)));
    });
    let runtime = builder.build().unwrap();
    entry.go_live(runtime.handle(), false, Some(threads.clone()));
    let mut workers = Workers::default();
    let start = Instant::now();
    let mut wait_parked = |n: usize| {
        let parked = |entry: &Arc<ThreadEntry>| entry.last_event().is_some_and(|event| event.is_parked());
        while threads.entries().iter().filter(|entry| parked(entry)).count() < n {
            assert!(start.elapsed() < Duration::from_secs(30), "the workers do not park");
            std::thread::sleep(Duration::from_millis(1));
        }
        workers.scan(&meter).busy_runtimes
    };
    assert_eq!(wait_parked(1), [entry.id]);
    drop(release);
    while !wait_parked(2).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "an idle runtime is not busy");
    }
}
