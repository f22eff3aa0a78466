//! Situations of threads that wait for other threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, LazyLock, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};

use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check, leak};

const ONCE: &str = "a value that another thread is initialising";

fn lock(reason: &'static str, advice: &'static str, function: &'static str) -> Expected {
    Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }
}

/// Keeps a call from being a function's last one, which may be a jump that leaves no frame.
#[inline(always)]
fn not_the_last_call() {
    std::hint::black_box(());
}

#[inline(never)]
fn locks_a_mutex(mutex: &Mutex<u8>) -> u8 {
    *mutex.lock().unwrap() // blocks here
}

#[test]
fn a_mutex_that_is_held_is_diagnosed() {
    check(lock("a Mutex", "tokio::sync::Mutex", "locks::locks_a_mutex"), || {
        let mutex = leak(Mutex::new(1));
        let held = mutex.lock().unwrap();
        Situation::new(|| assert_eq!(locks_a_mutex(mutex), 1), || drop(held))
    });
}

#[inline(never)]
fn locks_a_mutex_of_parking_lot(mutex: &parking_lot::Mutex<u8>) -> u8 {
    *mutex.lock() // blocks here
}

#[test]
fn a_mutex_of_parking_lot_is_diagnosed() {
    check(lock("a Mutex", "tokio::sync::Mutex", "locks::locks_a_mutex_of_parking_lot"), || {
        let mutex = leak(parking_lot::Mutex::new(1));
        let held = mutex.lock();
        Situation::new(|| assert_eq!(locks_a_mutex_of_parking_lot(mutex), 1), || drop(held))
    });
}

#[inline(never)]
fn reads_an_rwlock(lock: &RwLock<u8>) -> u8 {
    *lock.read().unwrap() // blocks here
}

#[inline(never)]
fn writes_an_rwlock(lock: &RwLock<u8>) {
    *lock.write().unwrap() = 2; // blocks here
}

#[test]
fn an_rwlock_that_is_written_is_diagnosed() {
    check(lock("an RwLock", "tokio::sync::RwLock", "locks::reads_an_rwlock"), || {
        let lock = leak(RwLock::new(1));
        let held = lock.write().unwrap();
        Situation::new(|| assert_eq!(reads_an_rwlock(lock), 1), || drop(held))
    });
}

#[test]
fn an_rwlock_that_is_read_is_diagnosed() {
    check(lock("an RwLock", "tokio::sync::RwLock", "locks::writes_an_rwlock"), || {
        let lock = leak(RwLock::new(1));
        let held = lock.read().unwrap();
        Situation::new(|| writes_an_rwlock(lock), || drop(held))
    });
}

#[inline(never)]
fn waits_for_a_condvar(shared: &(Mutex<bool>, Condvar)) {
    let ready = shared.0.lock().unwrap();
    drop(shared.1.wait_while(ready, |ready| !*ready).unwrap()); // blocks here
}

#[test]
fn a_condvar_is_diagnosed() {
    check(lock("a wait on a Condvar", "tokio::sync::Notify", "locks::waits_for_a_condvar"), || {
        let shared = leak((Mutex::new(false), Condvar::new()));
        let release = || {
            *shared.0.lock().unwrap() = true;
            shared.1.notify_all();
        };
        Situation::new(|| waits_for_a_condvar(shared), release)
    });
}

#[inline(never)]
fn receives(from: &Receiver<u8>) -> u8 {
    from.recv().unwrap() // blocks here
}

#[test]
fn a_channel_is_diagnosed() {
    check(lock("a receive from a blocking channel", "tokio::sync::mpsc", "locks::receives"), || {
        let (send, receive) = channel();
        Situation::new(move || assert_eq!(receives(&receive), 1), move || send.send(1).unwrap())
    });
}

#[inline(never)]
fn joins(thread: JoinHandle<u8>) -> u8 {
    thread.join().unwrap() // blocks here
}

#[test]
fn a_join_of_a_thread_is_diagnosed() {
    check(lock("a wait for another thread's end", "tokio::sync::oneshot", "locks::joins"), || {
        let (send, receive) = channel();
        let thread = thread::spawn(move || receive.recv().unwrap());
        Situation::new(move || assert_eq!(joins(thread), 1), move || send.send(1).unwrap())
    });
}

#[inline(never)]
fn parks() {
    thread::park(); // blocks here
    not_the_last_call();
}

#[test]
fn a_park_is_diagnosed() {
    check(lock("thread::park", "tokio::sync::Notify", "locks::parks"), || {
        let location = Arc::new(Mutex::new(None));
        let theirs = location.clone();
        let block = move || {
            *theirs.lock().unwrap() = Some(thread::current());
            parks();
        };
        Situation::new(block, move || location.lock().unwrap().as_ref().unwrap().unpark())
    });
}

/// A value whose initialization waits: returns the function, a receiver for its start, and a sender
/// for its end.
fn slow_value() -> (impl FnOnce() -> u8 + Send, Receiver<()>, Sender<u8>) {
    let ((started, begun), (end, ended)) = (channel(), channel());
    let value = move || {
        started.send(()).unwrap();
        ended.recv().unwrap()
    };
    (value, begun, end)
}

#[inline(never)]
fn uses_a_once_lock(once: &OnceLock<u8>) -> u8 {
    *once.get_or_init(|| 2) // blocks here
}

#[test]
fn a_once_lock_is_diagnosed() {
    check(lock(ONCE, "tokio::sync::OnceCell", "locks::uses_a_once_lock"), || {
        let once = leak(OnceLock::new());
        let (value, begun, end) = slow_value();
        thread::spawn(|| assert_eq!(*once.get_or_init(value), 1));
        begun.recv().unwrap();
        Situation::new(|| assert_eq!(uses_a_once_lock(once), 1), move || end.send(1).unwrap())
    });
}

type Lazy = LazyLock<u8, Box<dyn FnOnce() -> u8 + Send>>;

#[inline(never)]
fn uses_a_lazy_static(lazy: &Lazy) -> u8 {
    **lazy // blocks here
}

#[test]
fn a_lazily_initialised_static_is_diagnosed() {
    check(lock(ONCE, "before the runtime starts", "locks::uses_a_lazy_static"), || {
        let (value, begun, end) = slow_value();
        let lazy: &'static Lazy = leak(LazyLock::new(Box::new(value)));
        thread::spawn(|| assert_eq!(**lazy, 1));
        begun.recv().unwrap();
        Situation::new(|| assert_eq!(uses_a_lazy_static(lazy), 1), move || end.send(1).unwrap())
    });
}

#[inline(never)]
fn waits_on_a_futex(futex: &std::sync::atomic::AtomicU32) {
    let (wait, address) = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, futex.as_ptr());
    // SAFETY: the address is that of a live word; no time limit.
    unsafe { libc::syscall(libc::SYS_futex, address, wait, 0, std::ptr::null::<libc::timespec>()) }; // blocks here
    not_the_last_call();
}

#[test]
fn a_futex_of_an_unknown_lock_is_diagnosed() {
    check(lock("a lock", "tokio::sync", "locks::waits_on_a_futex"), || {
        let futex = leak(std::sync::atomic::AtomicU32::new(0));
        let release = || {
            futex.store(1, std::sync::atomic::Ordering::Release);
            let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: the address is that of a live word.
            assert_eq!(unsafe { libc::syscall(libc::SYS_futex, futex.as_ptr(), wake, 1) }, 1);
        };
        Situation::new(|| waits_on_a_futex(futex), release)
    });
}
