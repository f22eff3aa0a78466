use std::thread;

use super::*;
use crate::detect::threads::DumpSettings;

fn settings(meter: &Arc<Meter>) -> WatcherSettings {
    let thread_dumps =
        DumpSettings { capture_stacks: false, symbols: false, explain: |_| "", stacks: StackCoverage::SwitchedOff };
    WatcherSettings {
        capture_stacks: false,
        stacks: StackCoverage::SwitchedOff,
        warn_above_alive_tasks: u64::MAX,
        rescue_driver: false,
        blocking_pool_full_after: Nanos::from_secs(1),
        thread_dumps: Arc::new(ThreadDumper::new(meter.clone(), thread_dumps)),
    }
}

/// The recorder panics as well, with the report of the panic.
#[test]
fn a_thread_that_ends_by_a_panic_of_the_recorder_says_so() {
    let meter = Meter::of(Nanos::from_millis(20), 10);
    let status = Arc::new(WatcherStatus::new());
    status.injected_panics.store(u64::MAX, Ordering::Relaxed);
    let watcher =
        Watcher::new(meter.clone(), status.clone(), settings(&meter), Box::new(|_| panic!("injected by a test")));
    thread::spawn(move || watcher.run()).join().expect("no panic leaves the thread");
    assert!(!status.is_running());
    // Ten scans, the report of the first panic, and the report of the end.
    assert_eq!(status.panics.load(Ordering::Relaxed), 10 + 2);
    assert!(!meter.runtimes.are_scanned());
}

/// Nobody is left who would drop it later.
#[test]
fn nothing_is_kept_of_a_runtime_that_shuts_down_after_the_last_scan() {
    let meter = Meter::of(Nanos::from_millis(20), 10);
    let end = EndOfScans { meter: meter.clone(), status: Arc::new(WatcherStatus::new()) };
    let [before, after] = ["before", "after"].map(|name| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let entry = meter.runtimes.reserve(name, &meter).unwrap().unwrap();
        entry.go_live(runtime.handle(), Default::default());
        let thread = meter.register_thread().unwrap();
        let index = thread.counters.create(entry.id, SiteId::OTHER).unwrap();
        thread.push(thread.now(), thread.counters.get(index).unwrap().tag());
        (runtime, entry)
    });
    let is_left = |entry: &Runtime| entry.release_if_idle(true, Nanos::ZERO, Nanos::ZERO);
    drop(before.0);
    assert!(!before.1.is_live() && is_left(&before.1));
    drop(end);
    assert!(!is_left(&before.1));
    drop(after.0);
    assert!(!after.1.is_live() && !is_left(&after.1));
}

/// The scheduler's state is kept until the polls are over, and not for longer.
#[test]
fn what_is_kept_of_a_runtime_is_dropped_once_scans_find_no_poll() {
    const IDLE: Nanos = Nanos::from_millis(20);
    let meter = Meter::of(IDLE, 10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let id = runtime.handle().id();
    let entry = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
    entry.go_live(runtime.handle(), Default::default());
    let thread = meter.register_thread().unwrap();
    let index = thread.counters.create(entry.id, SiteId::OTHER).unwrap();
    thread.push(thread.now(), thread.counters.get(index).unwrap().tag());
    drop(runtime);
    let at = |millis, is_polling| entry.release_if_idle(is_polling, Nanos::from_millis(millis), IDLE);
    assert!(at(0, true) && at(100, false) && at(119, false));
    assert!(at(130, true) && at(140, false) && at(159, false), "another poll has started");
    assert!(meter.runtimes.find(id).is_some(), "its polls are still counted for it");
    assert!(!at(160, false) && !at(170, false));
    assert!(meter.runtimes.find(id).is_none());
    // The name is free, and a runtime without polls leaves nothing.
    thread.slot.pop();
    let next = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let entry = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
    entry.go_live(next.handle(), Default::default());
    drop(next);
    assert!(!entry.release_if_idle(true, Nanos::ZERO, IDLE));
}
