use super::*;
use crate::model::time::Nanos;

fn on_a_worker(f: impl FnOnce() + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(runtime.spawn(async move { f() })).unwrap();
}

#[test]
fn a_worker_is_known_from_its_first_park_on() {
    let meter = Meter::of(Nanos::from_millis(1), 10);
    let threads = WorkerThreads::new(&meter);
    let other = WorkerThreads::new(&meter);
    on_a_worker({
        let threads = threads.clone();
        move || {
            threads.register();
            let entry = threads.entries().pop().unwrap();
            assert!(entry.last_event().is_none() && !is_worker());
            threads.publish_park();
            let parked = entry.last_event().unwrap();
            assert!(parked.is_parked() && parked.worker == WorkerIndex(0) && is_worker());
            assert!(entry.parked_depth().is_some() && entry.depth(stack_pointer() as u64 - 4_096) > 0);
            let before = threads.fingerprint();
            threads.publish_unpark();
            let unparked = entry.last_event().unwrap();
            assert!(!unparked.is_parked() && unparked.at() >= parked.at());
            assert_ne!(threads.fingerprint(), before);
            other.publish_park();
            assert_eq!(entry.last_event(), Some(unparked), "another runtime that is driven on this thread");
            threads.unregister();
            assert!(threads.entries().is_empty() && !is_worker());
        }
    });
}

#[test]
fn an_entry_knows_the_end_of_its_thread() {
    let here = ThreadEntry::current_until_end();
    let entries = std::thread::spawn(|| [(); 2].map(|()| ThreadEntry::current_until_end())).join().unwrap();
    assert!(entries.iter().all(|entry| entry.has_ended() && entry.target().is_none()));
    assert!(!here.has_ended());
    assert_eq!(here.target().is_some(), Target::current().is_some());
}

#[test]
fn a_thread_without_a_worker_publishes_nothing() {
    let meter = Meter::of(Nanos::from_millis(1), 10);
    let threads = WorkerThreads::new(&meter);
    threads.register();
    threads.publish_park();
    assert!(threads.entries()[0].last_event().is_none(), "a thread of the pool that runs no worker");
    assert!(meter.threads().is_empty(), "nor is it measured");
    threads.unregister();
    threads.publish_park();
    assert!(threads.entries().is_empty());
}

#[test]
fn a_list_with_too_many_threads_is_incomplete() {
    let threads = WorkerThreads::new(&Meter::of(Nanos::from_millis(1), 10));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..MAX_ENTRIES).for_each(|_| threads.register());
            assert!(!threads.is_incomplete());
        });
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            threads.register();
            assert!(threads.is_incomplete());
            threads.unregister();
            assert!(!threads.is_incomplete());
        });
    });
}
