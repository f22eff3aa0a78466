//! Situations of threads that wait for the locks of the crate `parking_lot`.

use std::sync::mpsc::channel;
use std::thread;

use parking_lot::{Condvar, Mutex, Once, RwLock};

use crate::fixture::{Situation, check, leak};
use crate::locks::{ONCE, lock};

#[inline(never)]
fn locks_a_mutex(mutex: &Mutex<u8>) -> u8 {
    *mutex.lock() // blocks here
}

#[test]
fn a_mutex_is_diagnosed() {
    check(lock("a Mutex", "tokio::sync::Mutex", "parking_lot_locks::locks_a_mutex"), || {
        let mutex = leak(Mutex::new(1));
        let held = mutex.lock();
        Situation::new(|| assert_eq!(locks_a_mutex(mutex), 1), || drop(held))
    });
}

#[inline(never)]
fn reads(lock: &RwLock<u8>) -> u8 {
    *lock.read() // blocks here
}

#[test]
fn an_rwlock_that_is_written_is_diagnosed() {
    check(lock("an RwLock", "tokio::sync::RwLock", "parking_lot_locks::reads"), || {
        let lock = leak(RwLock::new(1));
        let held = lock.write();
        Situation::new(|| assert_eq!(reads(lock), 1), || drop(held))
    });
}

#[inline(never)]
fn writes(lock: &RwLock<u8>) {
    *lock.write() = 2; // blocks here
}

#[test]
fn an_rwlock_that_is_read_is_diagnosed() {
    check(lock("an RwLock", "tokio::sync::RwLock", "parking_lot_locks::writes"), || {
        let lock = leak(RwLock::new(1));
        let held = lock.read();
        Situation::new(|| writes(lock), || drop(held))
    });
}

#[inline(never)]
fn waits(shared: &(Mutex<bool>, Condvar)) {
    shared.1.wait_while(&mut shared.0.lock(), |ready| !*ready); // blocks here
}

#[test]
fn a_condvar_is_diagnosed() {
    check(lock("a wait on a Condvar", "tokio::sync::Notify", "parking_lot_locks::waits"), || {
        let shared = leak((Mutex::new(false), Condvar::new()));
        let release = || {
            *shared.0.lock() = true;
            shared.1.notify_all();
        };
        Situation::new(|| waits(shared), release)
    });
}

#[inline(never)]
fn initialises(once: &Once) {
    once.call_once(|| ()); // blocks here
}

#[test]
fn a_once_is_diagnosed() {
    check(lock(ONCE, "tokio::sync::OnceCell", "parking_lot_locks::initialises"), || {
        let once = leak(Once::new());
        let ((started, has_started), (end, ended)) = (channel(), channel::<()>());
        thread::spawn(move || {
            once.call_once(|| {
                started.send(()).unwrap();
                assert!(ended.recv().is_err());
            })
        });
        has_started.recv().unwrap();
        Situation::new(|| initialises(once), || drop(end))
    });
}
