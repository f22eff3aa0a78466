//! Locks as they are found in memory and on stacks.

use crate::Address;

/// The implementation of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// `std::sync::Mutex`.
    StdMutex,
    /// `std::sync::RwLock`.
    StdRwLock,
    /// A mutex of the crate `lock_api`, such as `parking_lot::Mutex`.
    LockApiMutex,
    /// A readers-writer lock of the crate `lock_api`, such as `parking_lot::RwLock` and the shards
    /// of a `DashMap`.
    LockApiRwLock,
    /// A mutex of the C library, `pthread_mutex_t`.
    Pthread,
}

/// A lock: its implementation, and where it is.
///
/// ```
/// use pollwatch_stack::{Address, LockKind, LockRef};
///
/// let mutex = std::sync::Mutex::new(1);
/// let lock = LockRef { kind: LockKind::StdMutex, address: Address::new(&raw const mutex as u64) };
/// assert_ne!(lock.address, Address::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockRef {
    /// The implementation.
    pub kind: LockKind,
    /// The address of the lock, which its guards refer to.
    pub address: Address,
}

/// Whether a thread holds a lock, as its stack shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holding {
    /// A guard of the lock is on the stack, in this frame: an index of
    /// [`RawStack::addresses`](crate::RawStack::addresses).
    Yes {
        /// The frame whose function would drop the guard.
        frame: usize,
    },
    /// No guard of the lock is on the stack.
    No,
    /// The stack was not understood well enough.
    Unknown,
}
