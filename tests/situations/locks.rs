//! Situations of threads that wait for other threads.

use std::cell::UnsafeCell;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};

use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check, leak, not_the_last_call};
use test_support::TIMEOUT;

pub(crate) const ONCE: &str = "a value that another thread is initialising";

pub(crate) fn lock(reason: &'static str, advice: &'static str, function: &'static str) -> Expected {
    Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }
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
fn sends(to: &SyncSender<u8>) {
    to.send(2).unwrap(); // blocks here
}

#[test]
fn a_full_channel_is_diagnosed() {
    check(lock("a send into a full blocking channel", "tokio::sync::mpsc", "locks::sends"), || {
        let (send, receive) = sync_channel(1);
        send.send(1).unwrap();
        Situation::new(move || sends(&send), move || assert_eq!(receive.iter().count(), 2))
    });
}

#[inline(never)]
fn waits_at_a_barrier(barrier: &Barrier) {
    barrier.wait(); // blocks here
    not_the_last_call();
}

#[test]
fn a_barrier_is_diagnosed() {
    check(lock("a wait at a Barrier", "tokio::sync::Barrier", "locks::waits_at_a_barrier"), || {
        let barrier = leak(Barrier::new(2));
        Situation::new(
            || waits_at_a_barrier(barrier),
            || {
                barrier.wait();
            },
        )
    });
}

#[inline(never)]
fn publishes(sender: &tokio::sync::watch::Sender<u8>) {
    sender.send_replace(2); // blocks here
}

#[test]
fn a_borrowed_value_of_tokio_is_diagnosed() {
    let (reason, advice) = ("the value of a tokio::sync::watch channel", "before an .await");
    check(lock(reason, advice, "locks::publishes"), || {
        let (sender, receiver) = tokio::sync::watch::channel(1);
        let receiver = leak(receiver);
        let held = receiver.borrow();
        Situation::new(move || publishes(&sender), || drop(held))
    });
}

/// A mutex of C and its condition variable.
struct CMutex(UnsafeCell<libc::pthread_mutex_t>, UnsafeCell<libc::pthread_cond_t>);

// SAFETY: the functions of C that use them are thread-safe.
unsafe impl Sync for CMutex {}

impl CMutex {
    fn new() -> CMutex {
        CMutex(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER), UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER))
    }

    /// Unlocks it for the thread that has locked it.
    fn unlock(&self) {
        // SAFETY: the mutex is initialised.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.0.get()) }, 0);
    }
}

#[inline(never)]
fn locks_a_mutex_of_c(mutex: &CMutex) {
    // SAFETY: the mutex is initialised.
    assert_eq!(unsafe { libc::pthread_mutex_lock(mutex.0.get()) }, 0); // blocks here
}

#[test]
fn a_mutex_of_c_is_diagnosed() {
    check(lock("a lock of C code", "tokio::task::spawn_blocking", "locks::locks_a_mutex_of_c"), || {
        let mutex = leak(CMutex::new());
        locks_a_mutex_of_c(mutex);
        Situation::new(
            || {
                locks_a_mutex_of_c(mutex);
                mutex.unlock();
            },
            || mutex.unlock(),
        )
    });
}

#[inline(never)]
fn waits_for_a_condition_of_c(mutex: &CMutex) {
    // SAFETY: both are initialised, and this thread has locked the mutex.
    assert_eq!(unsafe { libc::pthread_cond_wait(mutex.1.get(), mutex.0.get()) }, 0); // blocks here
}

#[test]
fn a_condition_variable_of_c_is_diagnosed() {
    let reason = "a wait on a condition variable of C code";
    check(lock(reason, "tokio::task::spawn_blocking", "locks::waits_for_a_condition_of_c"), || {
        let mutex = leak(CMutex::new());
        let release = || {
            locks_a_mutex_of_c(mutex);
            // SAFETY: it is initialised.
            assert_eq!(unsafe { libc::pthread_cond_signal(mutex.1.get()) }, 0);
            mutex.unlock();
        };
        Situation::new(
            || {
                locks_a_mutex_of_c(mutex);
                waits_for_a_condition_of_c(mutex);
                mutex.unlock();
            },
            release,
        )
    });
}

#[inline(never)]
fn waits_for_a_condvar_in_time(shared: &(Mutex<bool>, Condvar)) {
    let ready = shared.0.lock().unwrap();
    drop(shared.1.wait_timeout_while(ready, TIMEOUT, |ready| !*ready).unwrap()); // blocks here
}

#[test]
fn a_condvar_with_a_time_limit_is_diagnosed() {
    let function = "locks::waits_for_a_condvar_in_time";
    check(lock("a wait on a Condvar", "tokio::sync::Notify", function), || {
        let shared = leak((Mutex::new(false), Condvar::new()));
        let release = || {
            *shared.0.lock().unwrap() = true;
            shared.1.notify_all();
        };
        Situation::new(|| waits_for_a_condvar_in_time(shared), release)
    });
}

#[inline(never)]
fn receives_in_time(from: &Receiver<u8>) -> u8 {
    from.recv_timeout(TIMEOUT).unwrap() // blocks here
}

#[test]
fn a_channel_with_a_time_limit_is_diagnosed() {
    let (reason, advice) = ("a receive from a blocking channel", "tokio::sync::mpsc");
    check(lock(reason, advice, "locks::receives_in_time"), || {
        let (send, receive) = channel();
        Situation::new(move || assert_eq!(receives_in_time(&receive), 1), move || send.send(1).unwrap())
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
