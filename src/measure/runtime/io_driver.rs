//! The I/O driver of a runtime: the descriptors by which it is recognised that a thread waits in
//! it.
//!
//! What tokio does: the driver of a multi-thread runtime waits for sockets and timers in
//! `epoll_wait`, on one descriptor. One worker at a time does so when it parks. The others park on
//! condition variables. A runtime without `enable_io` has no such descriptor.
//!
//! What follows from it: somebody attends the driver if and only if a thread of the process waits
//! in `epoll_wait` on this descriptor. tokio does not publish it. It is among those that are new
//! after the runtime was built. There are two of them, since the driver duplicates it. pollwatch
//! builds one runtime at a time. If another thread opens one meanwhile, there are more, and a wait
//! on any of them counts until a worker of the runtime is found waiting on one. If another thread
//! closes one meanwhile, the driver may get its number. Then there seem to be fewer, and the
//! descriptor is learned as that of a runtime that was attached.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use pollwatch_stack::procfs;
use tokio::runtime::Builder;
#[cfg(tokio_unstable)]
use tokio::runtime::RuntimeMetrics;

use crate::measure::runtime::Runtime;
use crate::measure::thread::ThreadState;
use crate::util::lock;

/// The target of the descriptor of an epoll instance, as `/proc` names it.
const EPOLL: &str = "anon_inode:[eventpoll]";
/// The number of descriptors of one driver.
const OWN_DESCRIPTORS: usize = 2;
/// The largest number of descriptors that are learned of one driver.
const MAX_LEARNED: usize = 8;
/// The largest number of descriptors that are listed.
const MAX_DESCRIPTORS: usize = 65_536;

/// What is known of the I/O driver of a runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum IoDriver {
    /// None of the workers was found in the driver, and the descriptors are not known from the
    /// build: the runtime was attached, or another thread closed a descriptor during the build.
    #[default]
    NotSeen,
    /// The descriptors of the process cannot be listed.
    Unreadable,
    /// The runtime has no I/O driver: it was built without `enable_io`.
    Missing,
    /// The descriptors that were new after the build. A thread that attends the driver waits on one
    /// of them.
    Descriptors(Arc<[u64]>),
    /// The descriptors on which workers were found waiting, the latest last. One of them may belong
    /// to something else, since a task that is not measured may have waited on it.
    Learned(Arc<[u64]>),
}

/// The reason why a reading does not show who is in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownReason {
    /// The descriptor of the driver is not known.
    NoDescriptor,
    /// The list of the process's threads cannot be read.
    ThreadsNotListed,
    TooManyThreads,
    /// No thread that waits could be read.
    NoThreadReadable,
    /// A thread could not be read, and no other one was in the driver.
    ThreadUnreadable,
}

impl UnknownReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            UnknownReason::NoDescriptor => "no worker has been found waiting for sockets and timers yet",
            UnknownReason::ThreadsNotListed => "the threads of the process cannot be listed in /proc/self/task",
            UnknownReason::TooManyThreads => "the process has more than 1,024 threads, which are too many to read",
            UnknownReason::NoThreadReadable => {
                "the process may not read what its own threads wait for in /proc (it is not dumpable, for example)"
            }
            UnknownReason::ThreadUnreadable => {
                "a thread could not be read in /proc/self/task (no file descriptor was free, for example)"
            }
        }
    }
}

/// The result of a reading of the driver, without the threads.
pub(crate) type DriverKnowledge = Result<(), UnknownReason>;

impl IoDriver {
    /// Returns whether some of the descriptors may be those of another driver.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(self, IoDriver::Descriptors(descriptors) if descriptors.len() > OWN_DESCRIPTORS)
    }

    /// Returns the descriptors on which a thread waits that attends the driver, if they are known.
    pub(crate) fn descriptors(&self) -> Option<&[u64]> {
        match self {
            IoDriver::Descriptors(descriptors) | IoDriver::Learned(descriptors) => Some(descriptors),
            IoDriver::NotSeen | IoDriver::Unreadable | IoDriver::Missing => None,
        }
    }

    /// Returns the reason why it is not known who attends the driver; `None` where it is known.
    pub(crate) fn unobserved(&self) -> Option<&'static str> {
        match self {
            _ if !cfg!(target_os = "linux") => Some("only on Linux it can be read what a thread waits for"),
            IoDriver::NotSeen => Some("no worker has been found waiting for sockets and timers yet"),
            IoDriver::Unreadable => Some("the process may not list its own descriptors in /proc/self/fd"),
            IoDriver::Missing => {
                Some("it has no I/O driver, without which its threads look alike when they are parked")
            }
            IoDriver::Descriptors(_) | IoDriver::Learned(_) => None,
        }
    }

    /// Adds a descriptor on which a worker waits. Where the descriptors are known from the build,
    /// it is the only one that counts from now on.
    fn learn(&mut self, descriptor: u64) {
        *self = match self {
            IoDriver::Descriptors(_) => IoDriver::Descriptors([descriptor].into()),
            IoDriver::Learned(known) => {
                let others = known.iter().copied().filter(|it| *it != descriptor);
                let excess = (known.len() + 1).saturating_sub(MAX_LEARNED);
                IoDriver::Learned(others.skip(excess).chain([descriptor]).collect())
            }
            IoDriver::NotSeen | IoDriver::Unreadable | IoDriver::Missing => IoDriver::Learned([descriptor].into()),
        };
    }

    /// Forgets the learned descriptors that are no longer those of an epoll instance.
    fn forget_closed(&mut self, is_epoll: impl Fn(u64) -> bool) {
        let IoDriver::Learned(known) = self else { return };
        let open: Vec<u64> = known.iter().copied().filter(|descriptor| is_epoll(*descriptor)).collect();
        if open.is_empty() {
            *self = IoDriver::NotSeen;
        } else if open.len() < known.len() {
            *self = IoDriver::Learned(open.into());
        }
    }
}

impl Runtime {
    /// Returns what is known of the runtime's I/O driver, while the runtime is live and has several
    /// workers that share it.
    pub(crate) fn io_driver(&self) -> Option<IoDriver> {
        lock(&self.state).live.as_ref().filter(|_| self.is_multi_thread()).map(|live| live.io_driver.clone())
    }

    /// Records the descriptor on which a worker of the runtime waits in the I/O driver.
    pub(crate) fn set_io_driver(&self, descriptor: u64) {
        if let Some(live) = &mut lock(&self.state).live {
            live.io_driver.learn(descriptor);
        }
    }

    /// Forgets the learned descriptors that were closed since.
    pub(crate) fn forget_closed_descriptors(&self) {
        if let Some(live) = &mut lock(&self.state).live {
            live.io_driver.forget_closed(is_epoll);
        }
    }

    /// Returns whether the latest reading showed who is in the driver; `None` before the first one.
    pub(crate) fn driver_knowledge(&self) -> Option<DriverKnowledge> {
        lock(&self.state).live.as_ref()?.driver_knowledge
    }

    /// Publishes whether a reading showed who is in the driver.
    pub(crate) fn publish_driver_knowledge(&self, knowledge: DriverKnowledge) {
        if let Some(live) = &mut lock(&self.state).live {
            live.driver_knowledge = Some(knowledge);
        }
    }

    /// Returns whether tokio is set to hand the driver on before it polls a task. `None` where it
    /// cannot, or where that is not known.
    pub(crate) fn hands_driver_on(&self) -> Option<bool> {
        lock(&self.state).live.as_ref()?.hands_driver_on
    }

    /// Returns whether a measured thread drives a worker of this runtime, as far as that is known.
    pub(crate) fn is_driven_by(&self, thread: &ThreadState) -> bool {
        #[cfg(tokio_unstable)]
        let is_driver = |metrics: RuntimeMetrics| {
            (0..metrics.num_workers()).any(|worker| metrics.worker_thread_id(worker) == Some(thread.thread))
        };
        #[cfg(tokio_unstable)]
        return self.metrics().is_some_and(is_driver);
        #[cfg(not(tokio_unstable))]
        return self.worker_readings().is_some_and(|(_, owners)| owners.contains(thread.id));
    }
}

/// The lock under which pollwatch builds runtimes, so that their descriptors are not confused.
static BUILDING: Mutex<()> = Mutex::new(());
/// The time for which a build waits for another one. A callback that builds a runtime within the
/// build of another one waits in vain.
const MAX_BUILD_WAIT: Duration = Duration::from_millis(100);

/// The epoll descriptors that were open before a runtime was built.
pub(crate) struct OpenDescriptors {
    known: Option<HashSet<u64>>,
    _building: Option<MutexGuard<'static, ()>>,
}

impl OpenDescriptors {
    pub(crate) fn list() -> OpenDescriptors {
        let building = lock_building();
        OpenDescriptors { known: epoll_descriptors(), _building: building }
    }

    /// Returns the driver of the runtime that was built since these descriptors were listed.
    pub(crate) fn driver_opened_since(self) -> IoDriver {
        match (&self.known, epoll_descriptors()) {
            (Some(before), Some(now)) => driver_among(before, &now),
            _ => IoDriver::Unreadable,
        }
    }
}

/// Returns the driver that was opened between two lists of epoll descriptors.
fn driver_among(before: &HashSet<u64>, now: &HashSet<u64>) -> IoDriver {
    let opened: Vec<u64> = now.difference(before).copied().collect();
    match opened.len() {
        0 => IoDriver::Missing,
        // A number of the driver was that of another epoll descriptor when the first list was made.
        1..OWN_DESCRIPTORS => IoDriver::NotSeen,
        _ => IoDriver::Descriptors(opened.into()),
    }
}

fn lock_building() -> Option<MutexGuard<'static, ()>> {
    let started = Instant::now();
    loop {
        match BUILDING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if started.elapsed() >= MAX_BUILD_WAIT => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

/// Returns the open epoll descriptors of the process; `None` where descriptors cannot be listed, or
/// are too many.
fn epoll_descriptors() -> Option<HashSet<u64>> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    let mut found = HashSet::new();
    for entry in entries {
        found.insert(entry.ok()?.file_name().to_str()?.parse().ok()?);
        if found.len() > MAX_DESCRIPTORS {
            return None;
        }
    }
    found.retain(|descriptor| is_epoll(*descriptor));
    Some(found)
}

/// Returns whether a descriptor of the process is that of an epoll instance.
fn is_epoll(descriptor: u64) -> bool {
    procfs::descriptor(descriptor).is_some_and(|target| target == EPOLL)
}

/// Returns whether the runtimes of a builder hand their driver on before a task is polled
/// (`enable_eager_driver_handoff`); `None` if this version of tokio has no such setting.
pub(crate) fn hands_driver_on(builder: &Builder) -> Option<bool> {
    // The name of the runtime, which the user chooses, comes first. So the last match counts.
    const FIELD: &str = "enable_eager_driver_handoff: ";
    let text = format!("{builder:?}");
    let at = text.rfind(FIELD)? + FIELD.len();
    Some(text[at..].starts_with("true"))
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_found_by_its_descriptors() {
        let built = |builder: &mut Builder| {
            let before = OpenDescriptors::list();
            let runtime = builder.worker_threads(1).build().unwrap();
            (before.driver_opened_since(), runtime)
        };
        // Tests run in parallel, so that others may open descriptors meanwhile.
        let (driver, _runtime) = built(Builder::new_multi_thread().enable_all());
        assert!(driver.descriptors().is_some_and(|found| found.len() >= 2), "{driver:?}");
        assert_eq!(driver.unobserved(), None);
    }

    /// The driver takes the lowest free numbers, which are those of files that were open when the
    /// descriptors were listed.
    #[test]
    fn a_number_of_a_file_that_was_closed_during_the_build_is_found() {
        let files: Vec<_> = (0..64).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let before = OpenDescriptors::list();
        drop(files);
        let _runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let driver = before.driver_opened_since();
        assert!(driver.descriptors().is_some_and(|found| found.len() >= OWN_DESCRIPTORS), "{driver:?}");
    }

    #[test]
    fn a_driver_with_too_few_new_descriptors_is_to_be_learned() {
        let driver = |before: &[u64], now: &[u64]| {
            driver_among(&before.iter().copied().collect(), &now.iter().copied().collect())
        };
        assert_eq!(driver(&[3], &[3]), IoDriver::Missing);
        assert_eq!(driver(&[3, 5], &[3, 5, 7]), IoDriver::NotSeen, "the driver has the number 5 or 3");
        assert!(driver(&[3], &[3, 5, 7]).descriptors().is_some_and(|found| found.len() == OWN_DESCRIPTORS));
        assert!(driver(&[], &[3, 5, 7]).is_ambiguous());
    }

    #[test]
    fn a_learned_descriptor_is_not_final() {
        let mut driver = IoDriver::NotSeen;
        driver.learn(3);
        driver.learn(5);
        driver.learn(3);
        assert_eq!(driver.descriptors(), Some(&[5, 3][..]), "{driver:?}");
        driver.forget_closed(|descriptor| descriptor == 5);
        assert_eq!(driver.descriptors(), Some(&[5][..]));
        driver.forget_closed(|_| false);
        assert_eq!(driver, IoDriver::NotSeen);
        (0..100).for_each(|descriptor| driver.learn(descriptor));
        assert_eq!(driver.descriptors().map(|known| (known.len(), known[MAX_LEARNED - 1])), Some((MAX_LEARNED, 99)));
        let mut built = IoDriver::Descriptors([3, 4, 5, 6].into());
        built.learn(3);
        built.forget_closed(|_| false);
        assert_eq!(built, IoDriver::Descriptors([3].into()), "the build is evidence");
    }

    #[test]
    fn the_setting_of_the_builder_is_read() {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("enable_eager_driver_handoff: true");
        let default = hands_driver_on(&builder);
        assert_ne!(default, Some(true));
        #[cfg(tokio_unstable)]
        assert_eq!((default, hands_driver_on(builder.enable_eager_driver_handoff())), (Some(false), Some(true)));
    }
}
