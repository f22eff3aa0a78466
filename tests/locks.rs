//! Tests of what stalls say about the holders of locks, and of the reports of deadlocks.

#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use pollwatch::{Cause, Holder, HolderThread, LockInfo, Stall, Watchdog};
use tokio::runtime::Runtime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use test_support::*;

/// The reports of deadlocks in the log of this process.
#[derive(Clone, Default)]
struct LoggedDeadlocks(Arc<Mutex<Vec<LoggedDeadlock>>>);

#[derive(Clone, Debug)]
struct LoggedDeadlock {
    level: Level,
    message: String,
}

impl<S: Subscriber> Layer<S> for LoggedDeadlocks {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if event.metadata().target() == "pollwatch::deadlock" {
            let mut message = Message(String::new());
            event.record(&mut message);
            lock(&self.0).push(LoggedDeadlock { level: *event.metadata().level(), message: message.0 });
        }
    }
}

impl LoggedDeadlocks {
    /// Those whose text contains this name.
    fn of(&self, name: &str) -> Vec<LoggedDeadlock> {
        lock(&self.0).iter().filter(|logged| logged.message.contains(name)).cloned().collect()
    }
}

fn deadlocks() -> LoggedDeadlocks {
    static LOGGED: OnceLock<LoggedDeadlocks> = OnceLock::new();
    let logged = LOGGED.get_or_init(|| {
        let logged = LoggedDeadlocks::default();
        let subscriber = tracing_subscriber::registry().with(logged.clone());
        tracing::subscriber::set_global_default(subscriber).expect("the only one in this binary");
        logged
    });
    logged.clone()
}

/// A watchdog with a runtime of two workers, whose threads have this name.
fn watched(name: &str) -> (Watchdog, CollectedStalls, Runtime) {
    deadlocks();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().thread_name(name).build().unwrap();
    (watchdog, collected, runtime)
}

/// Waits for a report of a lock that satisfies a condition.
#[track_caller]
fn wait_for_lock(collected: &CollectedStalls, is_it: impl Fn(&LockInfo) -> bool) -> Stall {
    let stall = collected.wait(|stall| stall.lock.as_ref().is_some_and(&is_it));
    let all = || collected.all().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let stall = stall.unwrap_or_else(|| panic!("no such report:\n{}", all()));
    assert_eq!(stall.cause, Cause::Lock, "{stall}");
    stall
}

fn holder(stall: &Stall) -> &HolderThread {
    match stall.lock.as_ref().map(|lock| &lock.holder) {
        Some(Holder::Thread(thread)) => thread,
        _ => panic!("{stall}"),
    }
}

/// Makes a value live as long as the process.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn address_of<T>(value: &T) -> pollwatch::Address {
    pollwatch::Address::new(std::ptr::from_ref(value) as u64)
}

#[inline(never)]
fn refill(cache: &Mutex<u64>, locked: &Sender<()>, released: &Receiver<()>) {
    let mut cache = cache.lock().unwrap();
    locked.send(()).unwrap();
    let _ = released.recv();
    *cache += 1;
}

#[test]
fn a_thread_that_holds_the_mutex_is_named() {
    let cache: &'static Mutex<u64> = leak(Mutex::new(0));
    let (watchdog, collected, runtime) = watched("named");
    let ((locked, is_locked), (release, released)) = (channel(), channel());
    let run = move || refill(cache, &locked, &released);
    let filling = thread::Builder::new().name("refiller".into()).spawn(run).unwrap();
    is_locked.recv().unwrap();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { *cache.lock().unwrap() });
    let stall = wait_for_lock(&collected, |lock| matches!(lock.holder, Holder::Thread(_)));
    let lock = stall.lock.as_ref().unwrap();
    assert_eq!((lock.address, lock.is_deadlock), (address_of(cache), false));
    let thread = holder(&stall);
    assert_eq!((&*thread.name, thread.is_waiting_itself, thread.is_recorded), ("refiller", false, false));
    let location = thread.location.as_ref().expect("a location");
    assert_eq!(location.function.as_deref(), Some("locks::refill"), "{stall}");
    let text = "; the Mutex is held, it seems, by thread \"refiller\" at locks::refill (tests/locks.rs:";
    assert!(stall.to_string().contains(text), "{stall}");
    drop(release);
    filling.join().unwrap();
    assert_eq!(runtime.block_on(task).unwrap(), 1);
}

/// A guard that a future keeps while it is not polled, until this is dropped.
struct KeptGuard {
    release: Option<tokio::sync::mpsc::Sender<()>>,
    keeping: Option<thread::JoinHandle<()>>,
}

#[expect(clippy::await_holding_lock, reason = "it is what this tests")]
fn keep(mutex: &'static Mutex<u64>) -> KeptGuard {
    let (release, mut released) = tokio::sync::mpsc::channel::<()>(1);
    let (locked, is_locked) = channel();
    // A guard of std cannot be sent to another thread, so the future that keeps it stays on one.
    let keeping = thread::spawn(move || {
        current_thread().build().unwrap().block_on(async {
            let guard = mutex.lock().unwrap();
            locked.send(()).unwrap();
            released.recv().await;
            drop(guard);
        });
    });
    is_locked.recv().unwrap();
    KeptGuard { release: Some(release), keeping: Some(keeping) }
}

impl Drop for KeptGuard {
    fn drop(&mut self) {
        drop(self.release.take());
        self.keeping.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn a_guard_kept_across_an_await_is_held_by_no_running_code() {
    let mutex: &'static Mutex<u64> = leak(Mutex::new(0));
    let (watchdog, collected, runtime) = watched("awaiting");
    let kept = keep(mutex);
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { *mutex.lock().unwrap() });
    let stall = wait_for_lock(&collected, |lock| !matches!(lock.holder, Holder::Unknown));
    assert!(matches!(stall.lock.as_ref().unwrap().holder, Holder::NoRunningCode), "{stall}");
    let text = "the Mutex is held by no running code: it seems that a guard is kept across an .await";
    assert!(stall.to_string().contains(text), "{stall}");
    assert!(stall.advice.is_some_and(|advice| advice.contains("before the .await")), "{stall}");
    drop(kept);
    runtime.block_on(task).unwrap();
}

#[inline(never)]
fn transfer(from: &Mutex<u64>, to: &Mutex<u64>, both: &std::sync::Barrier) {
    let mut from = from.lock().unwrap();
    both.wait();
    *to.lock().unwrap() += 1;
    *from -= 1;
}

#[test]
fn two_workers_that_lock_in_opposite_order_are_a_deadlock() {
    let [a, b] = [(); 2].map(|()| -> &'static Mutex<u64> { leak(Mutex::new(1)) });
    let both: &'static std::sync::Barrier = leak(std::sync::Barrier::new(2));
    let (watchdog, collected, runtime) = watched("transfers");
    spawn_measured(&watchdog, runtime.handle(), async { transfer(a, b, both) });
    spawn_measured(&watchdog, runtime.handle(), async { transfer(b, a, both) });
    let first = wait_for_lock(&collected, |lock| lock.is_deadlock);
    let second = wait_for_lock(&collected, |lock| {
        lock.is_deadlock && Some(lock.address) != first.lock.as_ref().map(|lock| lock.address)
    });
    for stall in [&first, &second] {
        assert_eq!(&*holder(stall).name, "transfers", "{stall}");
        assert!(!holder(stall).is_waiting_itself, "{stall}");
        let location = holder(stall).location.as_ref().and_then(|location| location.function.clone());
        assert_eq!(location.as_deref(), Some("locks::transfer"), "{stall}");
        assert!(stall.advice.is_some_and(|advice| advice.contains("same order")), "{stall}");
    }
    let locks = [first, second].map(|stall| stall.lock.unwrap().address);
    assert!(locks == [a, b].map(address_of) || locks == [b, a].map(address_of), "{locks:?}");
    // It is reported once, however long it lasts.
    let since = watchdog.snapshot().watchdog.wakeups;
    wait_until("the watchdog continues", || watchdog.snapshot().watchdog.wakeups > since + 100);
    let [logged] = &deadlocks().of("transfers")[..] else { panic!("{:#?}", deadlocks().of("transfers")) };
    assert_eq!(logged.level, Level::ERROR);
    let text = &logged.message;
    assert!(text.starts_with("deadlock: 2 threads wait, it seems, for locks of each other\n"), "{text}");
    for address in locks {
        assert!(text.contains(&format!(" waits for {address} at locks::transfer (tests/locks.rs:")), "{text}");
    }
    assert_eq!(text.matches(" holds at locks::transfer (tests/locks.rs:").count(), 2, "{text}");
    runtime.shutdown_background();
}

#[inline(never)]
fn locks_twice(mutex: &Mutex<u64>) {
    let mut outer = mutex.lock().unwrap();
    *outer += *mutex.lock().unwrap();
}

#[test]
fn a_thread_that_locks_twice_waits_for_itself() {
    let mutex: &'static Mutex<u64> = leak(Mutex::new(1));
    let (watchdog, collected, runtime) = watched("twice");
    spawn_measured(&watchdog, runtime.handle(), async { locks_twice(mutex) });
    let stall = wait_for_lock(&collected, |lock| lock.is_deadlock);
    assert!(holder(&stall).is_waiting_itself, "{stall}");
    assert!(
        stall.to_string().contains("the Mutex is held, it seems, by this same thread at locks::locks_twice"),
        "{stall}"
    );
    wait_until("it is logged", || !deadlocks().of("\"twice\"").is_empty());
    let text = deadlocks().of("\"twice\"").remove(0).message;
    assert!(text.starts_with("deadlock: a thread waits, it seems, for a lock that it holds itself"), "{text}");
    runtime.shutdown_background();
}

#[inline(never)]
fn holds_one_and_waits(held: &parking_lot::Mutex<()>, waited: &parking_lot::Mutex<()>, locked: &Sender<()>) {
    let _held = held.lock();
    locked.send(()).unwrap();
    drop(waited.lock());
}

/// In a debug build the guard of a `parking_lot::Mutex<()>` is dropped by a function of the crate
/// `parking_lot`, whose address the program loads.
#[test]
fn a_guard_that_another_crate_drops_is_found() {
    let [mutex, other] = [(); 2].map(|()| -> &'static parking_lot::Mutex<()> { leak(parking_lot::Mutex::new(())) });
    let (watchdog, collected, runtime) = watched("other crate");
    let (kept, (locked, is_locked)) = (other.lock(), channel());
    let holding =
        thread::Builder::new().name("holding".into()).spawn(move || holds_one_and_waits(mutex, other, &locked));
    is_locked.recv().unwrap();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { drop(mutex.lock()) });
    let stall = wait_for_lock(&collected, |lock| !matches!(lock.holder, Holder::Unknown));
    assert_eq!(&*holder(&stall).name, "holding", "{stall}");
    assert!(stall.to_string().contains(" at locks::holds_one_and_waits"), "{stall}");
    drop(kept);
    holding.unwrap().join().unwrap();
    runtime.block_on(task).unwrap();
}

/// A thread that has only a reference to the lock, while a future keeps the guard.
#[test]
fn a_thread_without_a_guard_is_never_named() {
    let mutex: &'static Mutex<u64> = leak(Mutex::new(0));
    let (watchdog, collected, runtime) = watched("decoys");
    let (stop, stopped) = channel::<()>();
    let decoy = thread::spawn(move || {
        let mutex = std::hint::black_box(mutex);
        *mutex.lock().unwrap() += 1;
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
            std::hint::black_box(mutex);
        }
    });
    wait_until("the decoy had the lock", || mutex.try_lock().is_ok_and(|value| *value == 1));
    let (kept, task) = (keep(mutex), async { *mutex.lock().unwrap() });
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), task);
    let stall = wait_for_lock(&collected, |lock| !matches!(lock.holder, Holder::Unknown));
    assert!(matches!(stall.lock.as_ref().unwrap().holder, Holder::NoRunningCode), "{stall}");
    drop(kept);
    drop(stop);
    decoy.join().unwrap();
    assert_eq!(runtime.block_on(task).unwrap(), 1);
}
