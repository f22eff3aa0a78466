//! Runtimes whose sockets and timers nobody attends, and runtimes that hang.
//!
//! The tests run one after the other: a runtime that is built at the same moment by anybody else
//! would blur the descriptors of the driver.

#![cfg(target_os = "linux")]

mod alerts;
mod log;
mod no_false_positives;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Condition, ConditionKind, Watchdog};
use test_support::*;
use tokio::runtime::{Handle, Runtime};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The time without a round after which a program counts as dead. The probe would have woken a
/// worker many times.
const DEAD: Duration = Duration::from_secs(1);
/// The rounds after which a program counts as alive.
const ALIVE: u64 = 20;

/// A program that a deadlock ends: a task and a thread of the blocking pool use one lock, and the
/// thread holds it while it waits for a timer.
struct SingleMutex {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl SingleMutex {
    fn start(runtime: &Handle) -> SingleMutex {
        let program = SingleMutex { rounds: Arc::default(), stop: Arc::default() };
        let mutex = Arc::new(Mutex::new(()));
        let (locked, stop, rounds) = (mutex.clone(), program.stop.clone(), program.rounds.clone());
        runtime.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(lock(&locked));
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (stop, handle) = (program.stop.clone(), runtime.clone());
        runtime.spawn_blocking(move || {
            while !stop.load(Ordering::Relaxed) {
                let _guard = lock(&mutex);
                handle.block_on(tokio::time::sleep(Duration::from_millis(5)));
            }
        });
        program
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until the program has made no round for a while, and returns whether that was before
    /// it has made many.
    fn is_dead(&self) -> bool {
        let (mut rounds, mut since) = (self.rounds(), Instant::now());
        while since.elapsed() < DEAD {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.rounds();
            if now != rounds {
                (rounds, since) = (now, Instant::now());
            }
            if now >= ALIVE {
                return false;
            }
        }
        true
    }

    /// Ends the program, also if it is dead: each task that is spawned from outside wakes a worker.
    fn end(self, runtime: Runtime) {
        self.stop.store(true, Ordering::Relaxed);
        wait_until("the program ends", || {
            drop(runtime.spawn(async {}));
            Arc::strong_count(&self.stop) == 1
        });
        drop(runtime);
    }
}

/// A watchdog that reports to nobody, and a runtime that it watches.
fn watched(workers: usize, rescue: bool) -> (Watchdog, Runtime) {
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).rescue_driver(rescue).start().unwrap();
    let runtime = watchdog.build_runtime("main", multi_thread(workers)).unwrap();
    (watchdog, runtime)
}

fn bare(workers: usize) -> Runtime {
    multi_thread(workers).enable_all().build().unwrap()
}

fn unattended(watchdog: &Watchdog) -> pollwatch::snapshot::ConditionSnapshot {
    runtime_of(&watchdog.snapshot(), "main").driver_unattended
}

fn ongoing(watchdog: &Watchdog) -> Vec<Condition> {
    watchdog.conditions()
}

/// The program deadlocks on a bare runtime and, just so, on one that is watched without a rescue,
/// where it is reported. With the rescue it continues, and each rescue is counted.
#[test]
fn a_deadlock_with_the_driver_is_reported_and_only_rescued_on_purpose() {
    let _guard = lock(&ONE_AT_A_TIME);
    for workers in [2, 4] {
        undisturbed(|| {
            let bare = bare(workers);
            let (silent, not_rescued) = watched(workers, false);
            let (watchdog, rescued) = watched(workers, true);
            let [on_bare, on_silent, on_rescued] =
                [&bare, &not_rescued, &rescued].map(|r| SingleMutex::start(r.handle()));
            let rounds = || on_rescued.rounds();
            wait_until("the rescued program continues", || rounds() >= ALIVE);
            let dead = (on_bare.is_dead(), on_silent.is_dead());
            let conditions = ongoing(&silent);
            let figures = (unattended(&silent), unattended(&watchdog), rounds());
            on_bare.end(bare);
            on_silent.end(not_rescued);
            on_rescued.end(rescued);
            if !dead.0 {
                return Err("the bare program got through without a deadlock".to_owned());
            }
            assert!(dead.1, "without a rescue, nothing of pollwatch wakes a worker");
            let [condition] = &conditions[..] else { panic!("{conditions:?}") };
            assert_eq!((condition.kind, condition.rescues), (ConditionKind::DriverUnattended, 0), "{condition:?}");
            assert!(condition.duration >= DEAD / 2, "{condition:?}");
            let summary = condition.stall_summary.as_deref().unwrap_or_default();
            assert!(condition.stall.is_some() && summary.contains("blocked"), "{condition:?}");
            let (silent, with_rescues, rounds) = figures;
            // Where the thread that holds the lock lacks a CPU, a condition may end by itself.
            assert!(silent.count >= 1 && silent.rescues == 0, "{silent:?}");
            assert!(silent.time >= DEAD / 2, "{silent:?}");
            // A round in which the driver was attended needs no rescue; all others need one.
            assert!(
                with_rescues.rescues >= 1 && with_rescues.count >= with_rescues.rescues,
                "{with_rescues:?} {rounds}"
            );
            Ok(())
        });
    }
}

/// A shutdown without a rescue wakes no worker either, so that the program remains as dead as
/// without pollwatch.
#[test]
fn a_shutdown_rescues_no_driver_without_the_setting() {
    let _guard = lock(&ONE_AT_A_TIME);
    undisturbed(|| {
        let (watchdog, runtime) = watched(2, false);
        let program = SingleMutex::start(runtime.handle());
        if !program.is_dead() {
            program.end(runtime);
            return Err("the program got through without a deadlock".to_owned());
        }
        let rounds = program.rounds();
        watchdog.shutdown();
        let is_dead = program.is_dead();
        let continued = program.rounds() - rounds;
        program.end(runtime);
        assert!(is_dead && continued == 0, "the shutdown has woken a worker: {continued} rounds");
        Ok(())
    });
}

/// What a runtime does while a task that its driver has woken blocks a worker: how late a timer of
/// another task is.
fn lateness(runtime: &Runtime) -> Duration {
    const BLOCKED: Duration = Duration::from_secs(1);
    const TIMER: Duration = Duration::from_millis(200);
    let started = Instant::now();
    runtime.spawn(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::thread::sleep(BLOCKED);
    });
    let timer = runtime.spawn(async move {
        tokio::time::sleep(TIMER).await;
        started.elapsed()
    });
    runtime.block_on(timer).unwrap().saturating_sub(TIMER)
}

/// A timer waits while the worker that has left the driver is blocked, on a bare runtime and
/// on one that is watched without a rescue. With the rescue, it fires.
#[test]
fn a_timer_behind_a_stall_is_late_unless_the_driver_is_rescued() {
    let _guard = lock(&ONE_AT_A_TIME);
    const LATE: Duration = Duration::from_millis(700);
    for workers in [2, 4] {
        undisturbed(|| {
            let bare = bare(workers);
            let (silent, not_rescued) = watched(workers, false);
            let (watchdog, rescued) = watched(workers, true);
            let runtimes = [&bare, &not_rescued, &rescued];
            let [on_bare, on_silent, on_rescued] = std::thread::scope(|scope| {
                runtimes.map(|runtime| scope.spawn(|| lateness(runtime))).map(|thread| thread.join().unwrap())
            });
            if on_bare < LATE {
                return Err(format!("another worker has attended the driver of the bare runtime: {on_bare:?}"));
            }
            let (silent, with_rescue) = (unattended(&silent), unattended(&watchdog));
            assert!(on_silent >= LATE, "nothing of pollwatch wakes a worker: {on_silent:?} {silent:?}");
            assert!(silent.count >= 1 && silent.rescues == 0, "{silent:?}");
            assert!(silent.time >= LATE, "{silent:?}");
            if on_rescued >= LATE || with_rescue.count > 1 {
                return Err(format!("the rescue was late, or a poll lacked a CPU: {on_rescued:?} {with_rescue:?}"));
            }
            assert_eq!((with_rescue.count, with_rescue.rescues), (1, 1), "{with_rescue:?}");
            assert!(with_rescue.time < silent.time, "{with_rescue:?} {silent:?}");
            Ok(())
        });
    }
}

fn hangs(watchdog: &Watchdog) -> bool {
    ongoing(watchdog).iter().any(|condition| condition.kind == ConditionKind::RuntimeHung)
}

/// A runtime hangs when a worker blocks within the driver. That is found when the watchdog is about
/// to sleep.
#[test]
fn a_runtime_that_hangs_is_reported() {
    let _guard = lock(&ONE_AT_A_TIME);
    for rescue in [true, false] {
        let (watchdog, runtime) = watched(2, rescue);
        let release = keep_driver(runtime.handle(), Duration::from_millis(50));
        wait_until("the runtime hangs", || hangs(&watchdog));
        let [condition] = &ongoing(&watchdog)[..] else { panic!("{:?}", ongoing(&watchdog)) };
        assert_eq!((condition.kind, condition.stall), (ConditionKind::RuntimeHung, None), "{condition}");
        assert_eq!(condition.rescues, u64::from(rescue), "{condition}");
        assert!(condition.duration >= Duration::from_secs(1), "{condition}");
        drop(release);
        wait_until("it no longer hangs", || ongoing(&watchdog).is_empty());
        let hung = runtime_of(&watchdog.snapshot(), "main").hung;
        assert_eq!((hung.count, hung.rescues >= 1), (1, rescue), "{hung:?}");
    }
}

/// A runtime that hangs is also found while another one keeps the watchdog awake, on which nothing
/// is blocked.
#[test]
fn a_runtime_that_hangs_is_reported_while_another_one_is_busy() {
    let _guard = lock(&ONE_AT_A_TIME);
    let (watchdog, runtime) = watched(2, false);
    let busy = watchdog.build_runtime("busy", multi_thread(1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let ticker = busy.spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let release = keep_driver(runtime.handle(), Duration::from_millis(50));
    wait_until("the runtime hangs", || hangs(&watchdog));
    let [condition] = &ongoing(&watchdog)[..] else { panic!("{:?}", ongoing(&watchdog)) };
    assert_eq!((condition.kind, &*condition.runtime), (ConditionKind::RuntimeHung, "main"), "{condition}");
    drop(release);
    wait_until("it no longer hangs", || ongoing(&watchdog).is_empty());
    stop.store(true, Ordering::Relaxed);
    busy.block_on(ticker).unwrap();
}

/// The watchdog sleeps when a driver is taken from an idle runtime. A request to `/healthz` finds
/// that, and the answer says so.
#[test]
fn health_finds_a_runtime_that_hangs_while_the_watchdog_sleeps() {
    let _guard = lock(&ONE_AT_A_TIME);
    let builder = Watchdog::builder().log(false).unhealthy_after(Duration::from_secs(1));
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let release = keep_driver(runtime.handle(), Duration::from_secs(3));
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    let addr = watchdog.local_addr().unwrap();
    assert_eq!(get(addr, "/healthz").status, 200);
    let mut before = wakeups();
    wait_until("the watchdog sleeps", || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, wakeups()) == before
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((wakeups(), ongoing(&watchdog).len()), (before, 0), "nothing wakes the watchdog");
    let body = wait_for("503", || Some(get(addr, "/healthz")).filter(|reply| reply.status == 503)).body;
    assert!(body.contains("the runtime \"main\" hangs, for"), "{body}");
    let metrics = Metrics::scrape(addr);
    assert_eq!(metrics.get("pollwatch_driver_attended", &[("runtime", "main")]), 0.0);
    assert_eq!(metrics.get("pollwatch_runtime_hangs_total", &[("runtime", "main")]), 1.0);
    assert!(metrics.get("pollwatch_runtime_hung_seconds_total", &[("runtime", "main")]) >= 1.0);
    drop(release);
    wait_until("it is well again", || get(addr, "/healthz").status == 200);
    let attended = || Metrics::scrape(addr).get("pollwatch_driver_attended", &[("runtime", "main")]);
    assert_eq!(attended(), 1.0);
}

/// Of an attached runtime the driver is learned, and an unattended one takes longer to confirm.
#[test]
fn the_driver_of_an_attached_runtime_is_learned() {
    const TIME_TO_FIND: Duration = Duration::from_secs(5);
    let _guard = lock(&ONE_AT_A_TIME);
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).rescue_driver(false).start().unwrap();
    let runtime = bare(2);
    watchdog.attach("main", runtime.handle()).unwrap();
    let unobserved = || watchdog.coverage().runtimes[0].driver_unobserved;
    wait_until("the driver is learned", || {
        let _entered = runtime.enter();
        let short = watchdog.spawn(tokio::time::sleep(Duration::from_millis(5)));
        runtime.block_on(short).unwrap();
        unobserved().is_none()
    });
    undisturbed(|| {
        let stop = Gate::new();
        let key = stop.key();
        let blocked = {
            let _entered = runtime.enter();
            watchdog.spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                key.pass()
            })
        };
        let started = Instant::now();
        while ongoing(&watchdog).is_empty() && started.elapsed() < TIME_TO_FIND {
            std::thread::sleep(Duration::from_millis(10));
        }
        let found = ongoing(&watchdog);
        stop.open();
        runtime.block_on(blocked).unwrap();
        let [condition] = &found[..] else {
            let attended = runtime_of(&watchdog.snapshot(), "main").driver_attended;
            return Err(format!("another worker has attended the driver: {attended:?}, {:?}", unobserved()));
        };
        assert_eq!(condition.kind, ConditionKind::DriverUnattended, "{condition}");
        assert!(condition.stall.is_some(), "{condition}");
        Ok(())
    });
    wait_until("it is attended again", || ongoing(&watchdog).is_empty());
}
