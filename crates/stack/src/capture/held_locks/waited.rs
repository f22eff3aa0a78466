//! The lock that a thread waits for, by its stack and by the address of its futex.

use std::ops::ControlFlow;

use super::super::memory;
use crate::{Address, Frame, LockKind, LockRef, Stack, Tid};

/// The number of innermost functions among which the one that waits for a lock is.
const NEAR: usize = 24;
/// The number of words before the futex of a thread in `parking_lot_core`, among which the address
/// of the lock is.
const WORDS_BEFORE_FUTEX: usize = 5;

/// The bits of a readers-writer lock of `parking_lot` and `dashmap` that say that threads wait for
/// it. The other bits are its readers and its writer.
const RWLOCK_PARKED: u64 = 0b11;
/// The bits of a mutex of `parking_lot`.
const MUTEX_LOCKED: u8 = 0b01;
const MUTEX_PARKED: u8 = 0b10;
/// The bits of `std::sync::RwLock` that are the number of its readers, or all set by a writer.
const STD_RWLOCK_HELD: u32 = (1 << 30) - 1;

/// How a function waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// In a futex that is at this distance from the start of the lock.
    Futex(LockKind, u64),
    /// In a futex of `parking_lot_core`'s data about the thread.
    Parked(LockKind),
    /// For something that is no lock.
    NoLock,
}

/// The functions that wait, by the starts of their names. Each waits in its own way.
const WAITS: [(&str, Wait); 14] = [
    ("std::sys::sync::mutex::futex::Mutex::lock_contended", Wait::Futex(LockKind::StdMutex, 0)),
    ("std::sys::sync::rwlock::futex::RwLock::read_contended", Wait::Futex(LockKind::StdRwLock, 0)),
    ("std::sys::sync::rwlock::futex::RwLock::write_contended", Wait::Futex(LockKind::StdRwLock, 4)),
    ("std::sys::sync::condvar", Wait::NoLock),
    ("parking_lot::condvar::", Wait::NoLock),
    ("parking_lot::raw_mutex::RawMutex::", Wait::Parked(LockKind::LockApiMutex)),
    ("parking_lot::raw_rwlock::RawRwLock::", Wait::Parked(LockKind::LockApiRwLock)),
    ("dashmap::lock::RawRwLock::", Wait::Parked(LockKind::LockApiRwLock)),
    ("pthread_cond_", Wait::NoLock),
    ("__pthread_cond_", Wait::NoLock),
    ("pthread_mutex_lock", Wait::Futex(LockKind::Pthread, 0)),
    ("__pthread_mutex_lock", Wait::Futex(LockKind::Pthread, 0)),
    ("___pthread_mutex_lock", Wait::Futex(LockKind::Pthread, 0)),
    ("pthread_mutex_timedlock", Wait::Futex(LockKind::Pthread, 0)),
];

/// Returns the lock that a thread waits for; `None` if it is unknown, or if the thread waits for
/// something else.
pub(super) fn lock(stack: &Stack, futex: Address) -> Option<LockRef> {
    match wait(stack.frames())? {
        Wait::NoLock => None,
        Wait::Futex(kind, offset) => Some(LockRef { kind, address: Address::new(futex.get().checked_sub(offset)?) }),
        Wait::Parked(kind) => {
            let from = futex.get().checked_sub(8 * WORDS_BEFORE_FUTEX as u64)?;
            let words = (0..WORDS_BEFORE_FUTEX as u64).filter_map(|i| word(from + 8 * i));
            words.filter(|&word| word != 0).find_map(|key| parked_on(kind, key))
        }
    }
}

fn wait(frames: &[Frame]) -> Option<Wait> {
    let name = |frame: &'_ Frame| frame.function.clone();
    let found = frames.iter().take(NEAR).filter_map(name).try_for_each(|name| {
        match WAITS.iter().find(|(start, _)| name.starts_with(start)) {
            Some((_, wait)) => ControlFlow::Break(*wait),
            None => ControlFlow::Continue(()),
        }
    });
    found.break_value()
}

/// Returns the lock with a key of `parking_lot_core`, if threads wait for it.
fn parked_on(kind: LockKind, key: u64) -> Option<LockRef> {
    let lock = match kind {
        LockKind::LockApiMutex => {
            let state = byte(key)?;
            (state == MUTEX_LOCKED | MUTEX_PARKED).then_some(key)?
        }
        // Writers that wait for readers have the address plus one as their key.
        _ => {
            let lock = key & !1;
            let state = word(lock).filter(|_| lock.is_multiple_of(8))?;
            (state & RWLOCK_PARKED != 0 && state & !RWLOCK_PARKED != 0).then_some(lock)?
        }
    };
    Some(LockRef { kind, address: Address::new(lock) })
}

/// Returns whether a lock is held; `None` where its memory cannot be read.
pub(super) fn is_held(lock: LockRef) -> Option<bool> {
    let at = lock.address.get();
    Some(match lock.kind {
        LockKind::StdMutex | LockKind::Pthread => half_word(at)? != 0,
        LockKind::StdRwLock => half_word(at)? & STD_RWLOCK_HELD != 0,
        LockKind::LockApiMutex => byte(at)? & MUTEX_LOCKED != 0,
        LockKind::LockApiRwLock => word(at)? & !RWLOCK_PARKED != 0,
    })
}

/// Returns the thread that holds a lock, where the lock itself records it.
pub(super) fn owner(lock: LockRef) -> Option<Tid> {
    // glibc's `pthread_mutex_t`: lock, count, owner.
    let owner = match lock.kind {
        LockKind::Pthread => half_word(lock.address.get().checked_add(8)?)?,
        _ => return None,
    };
    (owner != 0).then_some(Tid::from_raw(owner.cast_signed()))
}

fn read<const N: usize>(at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    memory::read(at, &mut bytes).then_some(bytes)
}

fn byte(at: u64) -> Option<u8> {
    read::<1>(at).map(|[byte]| byte)
}

fn half_word(at: u64) -> Option<u32> {
    read(at).map(u32::from_le_bytes)
}

fn word(at: u64) -> Option<u64> {
    read(at).map(u64::from_le_bytes)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Stack {
        let frame = |name: &&str| Frame { function: Some((*name).into()), ..Frame::default() };
        Stack::new(names.iter().map(frame).collect(), true, |_| false)
    }

    #[test]
    fn locks_are_recognised_by_the_function_that_waits() {
        let futex = Address::new(0x1004);
        let of = |names: &[&str]| lock(&stack(names), futex);
        let found = |kind, at| Some(LockRef { kind, address: Address::new(at) });
        let mutex = "std::sys::sync::mutex::futex::Mutex::lock_contended";
        assert_eq!(of(&["syscall", mutex, "app::f"]), found(LockKind::StdMutex, 0x1004));
        let write = "std::sys::sync::rwlock::futex::RwLock::write_contended";
        assert_eq!(of(&["syscall", write]), found(LockKind::StdRwLock, 0x1000));
        assert_eq!(of(&["__lll_lock_wait", "pthread_mutex_lock"]), found(LockKind::Pthread, 0x1004));
        assert_eq!(of(&["syscall", "std::sys::sync::condvar::futex::Condvar::wait", mutex]), None);
        let relock = [mutex, "std::sys::sync::condvar::futex::Condvar::wait"];
        assert_eq!(of(&relock), found(LockKind::StdMutex, 0x1004), "the wait is over, the lock is not free");
        assert_eq!(of(&["syscall", "std::thread::park"]), None);
        assert_eq!(of(&["syscall", "parking_lot::raw_mutex::RawMutex::lock_slow"]), None, "no memory there");
    }

    #[test]
    fn states_of_locks_are_read() {
        let mutex = std::sync::Mutex::new(7u64);
        let this = LockRef { kind: LockKind::StdMutex, address: Address::of(&mutex) };
        assert_eq!(is_held(this), Some(false));
        let guard = mutex.lock().unwrap();
        assert_eq!((is_held(this), owner(this)), (Some(true), None));
        drop(guard);
        let lock = std::sync::RwLock::new(7u64);
        let this = LockRef { kind: LockKind::StdRwLock, address: Address::of(&lock) };
        assert_eq!(is_held(this), Some(false));
        let guard = lock.read().unwrap();
        assert_eq!(is_held(this), Some(true));
        drop(guard);
        assert_eq!(is_held(LockRef { address: Address::new(8), ..this }), None);
    }
}
