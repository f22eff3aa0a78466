//! The locks of the run, and the code that uses them.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, RwLock};

use dashmap::DashMap;

/// A lock, and how the holder and the waiting task use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestedLock {
    StdMutex,
    StdRwLockWritten,
    StdRwLockRead,
    ParkingLotMutex,
    ParkingLotRwLockWritten,
    ParkingLotRwLockRead,
    DashMapWritten,
    DashMapRead,
    Pthread,
}

impl TestedLock {
    pub(super) const ALL: [TestedLock; 9] = [
        TestedLock::StdMutex,
        TestedLock::StdRwLockWritten,
        TestedLock::StdRwLockRead,
        TestedLock::ParkingLotMutex,
        TestedLock::ParkingLotRwLockWritten,
        TestedLock::ParkingLotRwLockRead,
        TestedLock::DashMapWritten,
        TestedLock::DashMapRead,
        TestedLock::Pthread,
    ];
}

impl fmt::Display for TestedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TestedLock::StdMutex => "std Mutex",
            TestedLock::StdRwLockWritten => "std RwLock, held by a writer",
            TestedLock::StdRwLockRead => "std RwLock, held by a reader",
            TestedLock::ParkingLotMutex => "parking_lot Mutex",
            TestedLock::ParkingLotRwLockWritten => "parking_lot RwLock, held by a writer",
            TestedLock::ParkingLotRwLockRead => "parking_lot RwLock, held by a reader",
            TestedLock::DashMapWritten => "DashMap, held by a RefMut",
            TestedLock::DashMapRead => "DashMap, held by a Ref",
            TestedLock::Pthread => "pthread_mutex_t",
        })
    }
}

/// The code that holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestedHolder {
    /// A task on another worker, which sleeps.
    SleepingTask,
    /// A task on another worker, which computes.
    ComputingTask,
    SleepingThread,
    /// A thread that has polled nothing, so it cannot be interrupted and searched while it runs.
    ComputingThread,
    /// A thread of tokio's blocking pool, which sleeps.
    BlockingPool,
    /// A future that is not polled.
    AcrossAwait,
}

impl TestedHolder {
    pub(super) const ALL: [TestedHolder; 6] = [
        TestedHolder::SleepingTask,
        TestedHolder::ComputingTask,
        TestedHolder::SleepingThread,
        TestedHolder::ComputingThread,
        TestedHolder::BlockingPool,
        TestedHolder::AcrossAwait,
    ];

    pub(super) fn computes(self) -> bool {
        matches!(self, TestedHolder::ComputingTask | TestedHolder::ComputingThread)
    }
}

impl fmt::Display for TestedHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TestedHolder::SleepingTask => "a task that sleeps",
            TestedHolder::ComputingTask => "a task that computes",
            TestedHolder::SleepingThread => "a thread that sleeps",
            TestedHolder::ComputingThread => "a thread that computes",
            TestedHolder::BlockingPool => "the blocking pool",
            TestedHolder::AcrossAwait => "a future across an .await",
        })
    }
}

/// A mutex of the C library.
pub(super) struct CMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's functions may be called with it on any thread.
unsafe impl Sync for CMutex {}
// SAFETY: it is sent only while it is not locked.
unsafe impl Send for CMutex {}

impl CMutex {
    fn lock(&self) {
        // SAFETY: the mutex is initialised, and does not move while it is in use.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0.get()) }, 0);
    }

    fn unlock(&self) {
        // SAFETY: as above, and this thread has locked it.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.0.get()) }, 0);
    }
}

/// One lock of each kind.
pub(super) struct Locks {
    pub(super) std_mutex: Mutex<u64>,
    pub(super) std_rwlock: RwLock<Vec<u64>>,
    pub(super) parking_lot_mutex: parking_lot::Mutex<String>,
    pub(super) parking_lot_rwlock: parking_lot::RwLock<u64>,
    map: DashMap<u64, String>,
    pub(super) pthread: CMutex,
}

impl Locks {
    pub(super) fn new() -> Locks {
        let map = DashMap::new();
        map.insert(1, "one".to_owned());
        Locks {
            std_mutex: Mutex::new(0),
            std_rwlock: RwLock::new(vec![1]),
            parking_lot_mutex: parking_lot::Mutex::new("text".to_owned()),
            parking_lot_rwlock: parking_lot::RwLock::new(0),
            map,
            pthread: CMutex(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)),
        }
    }

    /// Calls a function while the lock is held.
    #[inline(never)]
    pub(super) fn hold(&self, which: TestedLock, during: &dyn Fn()) {
        match which {
            TestedLock::StdMutex => {
                let mut value = self.std_mutex.lock().unwrap();
                during();
                *value += 1;
            }
            TestedLock::StdRwLockWritten => {
                let mut value = self.std_rwlock.write().unwrap();
                during();
                value[0] += 1;
            }
            TestedLock::StdRwLockRead => {
                let value = self.std_rwlock.read().unwrap();
                during();
                assert_eq!(value.len(), 1);
            }
            TestedLock::ParkingLotMutex => {
                let value = self.parking_lot_mutex.lock();
                during();
                assert_eq!(&*value, "text");
            }
            TestedLock::ParkingLotRwLockWritten => {
                let mut value = self.parking_lot_rwlock.write();
                during();
                *value += 1;
            }
            TestedLock::ParkingLotRwLockRead => {
                let value = self.parking_lot_rwlock.read();
                during();
                std::hint::black_box(*value);
            }
            TestedLock::DashMapWritten => {
                let mut entry = self.map.get_mut(&1).unwrap();
                during();
                entry.truncate(3);
            }
            TestedLock::DashMapRead => {
                let entry = self.map.get(&1).unwrap();
                during();
                assert_eq!(entry.value(), "one");
            }
            TestedLock::Pthread => {
                self.pthread.lock();
                during();
                self.pthread.unlock();
            }
        }
    }

    /// Waits for the lock, and releases it.
    #[inline(never)]
    pub(super) fn wait(&self, which: TestedLock) {
        match which {
            TestedLock::StdMutex => *self.std_mutex.lock().unwrap() += 1,
            TestedLock::StdRwLockWritten => assert_eq!(self.std_rwlock.read().unwrap().len(), 1),
            TestedLock::StdRwLockRead => self.std_rwlock.write().unwrap()[0] += 1,
            TestedLock::ParkingLotMutex => assert_eq!(&*self.parking_lot_mutex.lock(), "text"),
            TestedLock::ParkingLotRwLockWritten => drop(std::hint::black_box(*self.parking_lot_rwlock.read())),
            TestedLock::ParkingLotRwLockRead => *self.parking_lot_rwlock.write() += 1,
            TestedLock::DashMapWritten => assert!(self.map.contains_key(&1)),
            TestedLock::DashMapRead => drop(self.map.insert(1, "one".to_owned())),
            TestedLock::Pthread => {
                self.pthread.lock();
                self.pthread.unlock();
            }
        }
    }

    /// Keeps the lock until a message arrives.
    #[expect(clippy::await_holding_lock, reason = "it is what this measures")]
    #[expect(clippy::readonly_write_lock, reason = "the lint does not see the write after the await")]
    pub(super) async fn keep(
        &self,
        which: TestedLock,
        locked: &Sender<()>,
        mut release: tokio::sync::mpsc::Receiver<()>,
    ) {
        let announce = || locked.send(()).expect("the run waits for it");
        match which {
            TestedLock::StdMutex => {
                let mut value = self.std_mutex.lock().unwrap();
                announce();
                release.recv().await;
                *value += 1;
            }
            TestedLock::StdRwLockWritten => {
                let mut value = self.std_rwlock.write().unwrap();
                announce();
                release.recv().await;
                *value = vec![1];
            }
            TestedLock::StdRwLockRead => {
                let value = self.std_rwlock.read().unwrap();
                announce();
                release.recv().await;
                assert_eq!(value.len(), 1);
            }
            TestedLock::ParkingLotMutex => {
                let value = self.parking_lot_mutex.lock();
                announce();
                release.recv().await;
                assert_eq!(&*value, "text");
            }
            TestedLock::ParkingLotRwLockWritten => {
                let mut value = self.parking_lot_rwlock.write();
                announce();
                release.recv().await;
                *value += 1;
            }
            TestedLock::ParkingLotRwLockRead => {
                let value = self.parking_lot_rwlock.read();
                announce();
                release.recv().await;
                std::hint::black_box(*value);
            }
            TestedLock::DashMapWritten => {
                let mut entry = self.map.get_mut(&1).unwrap();
                announce();
                release.recv().await;
                entry.truncate(3);
            }
            TestedLock::DashMapRead => {
                let entry = self.map.get(&1).unwrap();
                announce();
                release.recv().await;
                assert_eq!(entry.value(), "one");
            }
            TestedLock::Pthread => unreachable!("it is no guard"),
        }
    }
}
