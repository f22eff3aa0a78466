use std::sync::Arc;

use tokio::runtime::Builder;

use super::*;
use crate::detect::conditions::driver_watch::WorkerCounts;
use crate::detect::procfs::{SyscallState, syscall};
use crate::detect::status::WatcherStatus;
use crate::detect::threads::{DumpSettings, ThreadDumper};
use crate::detect::watcher::WatcherSettings;
use crate::measure::runtime::build_facts::BuildFacts;
use crate::measure::runtime::io_driver::OpenDescriptors;
use crate::measure::runtime::meter::Meter;
use crate::model::coverage::StackCoverage;

/// A watcher that scans only when the test does, and idle runtimes with a driver that nobody
/// attends, as far as can be read.
struct Fixture {
    watcher: Watcher,
    entries: Vec<Arc<Runtime>>,
    /// The worker of each is parked.
    _runtimes: Vec<tokio::runtime::Runtime>,
    /// The runtime that has the driver. No thread drives it.
    _owner: tokio::runtime::Runtime,
}

impl Fixture {
    fn new(names: &[&str]) -> Fixture {
        let meter = Meter::of(Nanos::from_millis(10), 10);
        let thread_dumps =
            DumpSettings { capture_stacks: false, symbols: false, explain: |_| "", stacks: StackCoverage::SwitchedOff };
        let settings = WatcherSettings {
            capture_stacks: false,
            stacks: StackCoverage::SwitchedOff,
            warn_above_alive_tasks: u64::MAX,
            rescue_driver: false,
            blocking_pool_full_after: Nanos::from_secs(1),
            thread_dumps: Arc::new(ThreadDumper::new(meter.clone(), thread_dumps)),
        };
        let (owner, io_driver) = unattended_driver();
        let watched = |name: &&str| {
            let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let entry = meter.runtimes.reserve(name, &meter).unwrap().unwrap();
            entry.go_live(runtime.handle(), BuildFacts { io_driver: io_driver.clone(), ..BuildFacts::default() });
            while !entry.probe.polled_by().is_some_and(waits) {
                std::thread::yield_now();
            }
            (entry, runtime)
        };
        let (entries, runtimes) = names.iter().map(watched).unzip();
        let watcher = Watcher::new(meter, Arc::new(WatcherStatus::new()), settings, Box::new(drop));
        Fixture { watcher, entries, _runtimes: runtimes, _owner: owner }
    }

    fn scan(&self, now: Nanos) -> ScanResult {
        ScanResult {
            now,
            polls: Default::default(),
            delayed: Vec::new(),
            threads: HashMap::new(),
            workers: Default::default(),
            fingerprint: 0,
        }
    }

    fn driver(&self, index: usize) -> &WatchedDriver {
        &self.watcher.drivers.by_runtime[&self.entries[index].id]
    }

    /// Returns the moment from which on a reading is affordable.
    fn next_affordable(&self, now: Nanos) -> Nanos {
        now + self.watcher.drivers.budget.time_left(now)
    }
}

/// Returns whether a thread waits in a system call. A worker that does so after a poll has parked.
fn waits(tid: Tid) -> bool {
    matches!(syscall(tid), Some(SyscallState::Waiting { call: Some(_), .. }))
}

/// Returns a runtime that no thread drives, and its driver. Other tests build runtimes as well.
fn unattended_driver() -> (tokio::runtime::Runtime, IoDriver) {
    loop {
        let before = OpenDescriptors::list();
        let owner = Builder::new_current_thread().enable_io().build().unwrap();
        let driver = before.driver_opened_since();
        if driver.descriptors().is_some() && !driver.is_ambiguous() {
            return (owner, driver);
        }
    }
}

#[test]
fn a_worker_lacks_a_cpu_until_it_has_used_one() {
    let (tid, mut running) = (Tid::from_raw(1), RunningWorkers::default());
    assert!(running.lacks_cpu(tid, Some(Nanos::from_secs(7))), "it may have left the driver just now");
    assert!(running.lacks_cpu(tid, Some(Nanos::from_secs(7) + Nanos::from_millis(9))));
    assert!(!running.lacks_cpu(tid, Some(Nanos::from_secs(7) + Nanos::from_millis(10))));
    assert!(!running.lacks_cpu(Tid::from_raw(2), None), "it is not known");
}

/// A runtime that nobody attends is read as often as the budget allows. The probe of another one
/// gets its turn.
#[test]
fn an_unattended_driver_leaves_readings_to_the_probe_of_another_runtime() {
    let mut fixture = Fixture::new(&["unattended", "busy"]);
    let busy = fixture.entries[1].clone();
    let (mut readings, mut probe_readings) = (0, 0);
    for scan in 1..=1_000 {
        let now = Nanos::from_millis(10 * scan);
        let scan = fixture.scan(now);
        fixture.watcher.check_drivers(&scan);
        assert!(fixture.driver(0).watch.is_open());
        readings += u64::from(fixture.driver(0).next_reading > now);
        assert!(!fixture.watcher.is_probe_harmless(&scan, &busy), "nobody is in its driver");
        probe_readings += u64::from(fixture.driver(1).next_probe_reading > now);
    }
    assert!(probe_readings >= readings / 3 && readings >= probe_readings / 3, "{readings} {probe_readings}");
}

/// An idle watchdog is woken by each request to `/healthz`, and is about to sleep again at once.
#[test]
fn repeated_sleeps_do_not_put_off_the_next_reading() {
    let mut fixture = Fixture::new(&["main"]);
    let start = Nanos::from_secs(1);
    let first = fixture.scan(start);
    let limit = fixture.watcher.check_drivers_before_sleep(&first);
    let next = fixture.next_affordable(start);
    assert!(next > start && limit.is_some_and(|limit| start + limit >= next), "{limit:?} {next:?}");
    for after in 0..100 {
        let now = start + Nanos(after);
        let scan = fixture.scan(now);
        let limit = fixture.watcher.check_drivers_before_sleep(&scan);
        assert_eq!(fixture.next_affordable(now), next, "{after}");
        assert!(limit.is_some_and(|limit| now + limit >= next), "the next reading is affordable: {limit:?}");
    }
    let scan = fixture.scan(next);
    fixture.watcher.check_drivers_before_sleep(&scan);
    assert!(fixture.next_affordable(next) > next, "it is made then");
}

/// The reading that confirms a condition may exceed the budget, and is due soon also with a long
/// threshold. No other one may.
#[test]
fn a_condition_is_confirmed_before_the_next_reading_is_affordable() {
    let mut fixture = Fixture::new(&["main"]);
    // The moment of a reading is that of the clock.
    let start = fixture.watcher.now();
    let scan = fixture.scan(start);
    fixture.watcher.check_drivers(&scan);
    // However long the first reading took.
    fixture.watcher.drivers.budget.spend(ReadingPurpose::Condition, Nanos::from_secs(60), start);
    let due = fixture.watcher.next_confirmation(&scan).expect("the driver is unattended");
    let next = fixture.next_affordable(start);
    assert!(start < due && due < next, "{due:?} {next:?}");
    let ongoing = |fixture: &Fixture| fixture.driver(0).watch.ongoing();
    let before = fixture.scan(due.saturating_sub(Nanos(1)));
    fixture.watcher.check_drivers(&before);
    assert_eq!((ongoing(&fixture), fixture.next_affordable(start)), (None, next));
    let scan = fixture.scan(due);
    fixture.watcher.check_drivers(&scan);
    assert_eq!(ongoing(&fixture), Some(ConditionKind::DriverUnattended));
    let next = fixture.next_affordable(start);
    let later = fixture.scan(due + ALL_INTERVAL);
    fixture.watcher.check_drivers(&later);
    assert_eq!(fixture.next_affordable(start), next, "the condition is known, and has no other reading");
}

/// A reading beyond the budget may find another condition, that is not confirmed. It is confirmed
/// within the budget.
#[test]
fn no_two_readings_exceed_the_budget_one_after_the_other() {
    let mut driver = WatchedDriver::default();
    let reading = RuntimeReading {
        at: Nanos::from_secs(1),
        read_at: Nanos::from_secs(1),
        driver: DriverState::Unattended,
        published: 0,
        workers: WorkerCounts { blocked: 1, parked: 1, active: 0 },
        culprit: None,
        evidence: ReadingEvidence::Conclusive,
    };
    driver.watch.step(&reading, &Default::default());
    assert!(driver.confirmation().is_some_and(|due| due > reading.at));
    driver.is_overdrawn = true;
    assert_eq!(driver.confirmation(), None);
}
