use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::measure::runtime::build_facts::BuildFacts;
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
    let worker_threads = Some(threads.clone());
    entry.go_live(runtime.handle(), BuildFacts { worker_threads, ..BuildFacts::default() });
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

/// What is kept by the number of a thread must not mix two threads.
#[cfg(feature = "capture")]
#[test]
fn each_thread_that_is_not_measured_has_a_state_of_its_own() {
    let meter = Meter::of(Nanos::from_millis(10), 10);
    let threads = WorkerThreads::new(&meter);
    let (hold, held) = channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let spawn = || {
        let (threads, held, started) = (threads.clone(), held.clone(), channel());
        let thread = std::thread::spawn(move || {
            threads.register();
            let _ = started.0.send(());
            let _ = lock(&held).recv();
        });
        started.1.recv().unwrap();
        thread
    };
    let handles = [spawn(), spawn()];
    let mut workers = Workers::default();
    let entries = threads.entries();
    let states: Vec<_> = entries.iter().filter_map(|entry| workers.state_of(&meter, entry)).collect();
    drop(hold);
    handles.into_iter().for_each(|thread| thread.join().unwrap());
    if entries.iter().any(|entry| entry.target().is_none()) {
        return;
    }
    let [first, second] = &states[..] else { panic!("{states:?}") };
    assert_ne!(first.id, second.id);
    assert!(workers.is_detached(first.id) && workers.is_detached(second.id));
    assert_ne!(meter.register_thread().unwrap().id, first.id);
    let again = workers.state_of(&meter, &entries[0]).unwrap();
    assert_eq!(again.id, first.id);
}
