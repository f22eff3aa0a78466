//! A reading of who waits in the I/O driver of a runtime.

use std::fs;

use pollwatch_stack::{Tid, procfs};

use super::driver_watch::DriverState;
use crate::detect::procfs::{SyscallState, syscall};
use crate::detect::syscalls::describe;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::io_driver::{DriverKnowledge, IoDriver, UnknownReason};
use crate::measure::thread::slot::Slot;

/// The largest number of threads that are read one after the other, at some 10 µs each.
const MAX_THREADS: usize = 1_024;

/// What the threads of the process were doing at one moment, as far as it concerns one driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriverReading {
    /// This thread waits in the driver.
    Attended(Tid),
    /// No thread waits in the driver. These threads were running, or ready to run.
    Unattended { running: Vec<Tid> },
    /// It is not known whether a thread waits in the driver.
    Unknown(UnknownReason),
}

impl DriverReading {
    /// Returns whether a thread was in the driver. A worker that has published something while the
    /// threads were read may have been in the driver.
    pub(crate) fn state(&self, has_published: bool) -> DriverState {
        match self {
            DriverReading::Attended(_) => DriverState::Attended,
            DriverReading::Unattended { .. } if !has_published => DriverState::Unattended,
            DriverReading::Unattended { .. } | DriverReading::Unknown(_) => DriverState::Unknown,
        }
    }

    fn knowledge(&self) -> DriverKnowledge {
        match self {
            DriverReading::Attended(_) | DriverReading::Unattended { .. } => Ok(()),
            DriverReading::Unknown(reason) => Err(*reason),
        }
    }
}

/// Returns the reason why it is not known who attends the driver of a runtime. `None` where it is
/// known, and for a current-thread runtime.
pub(crate) fn unobserved(runtime: &Runtime) -> Option<&'static str> {
    let why = || {
        let is_too_many = procfs::threads().is_some_and(|threads| threads.len() > MAX_THREADS);
        let too_many = is_too_many.then_some(UnknownReason::TooManyThreads);
        too_many.or_else(|| runtime.driver_knowledge()?.err()).map(UnknownReason::as_str)
    };
    runtime.io_driver()?.unobserved().or_else(why)
}

/// Returns whether the latest reading showed who is in the driver of a runtime. Makes the first
/// reading where there was none yet.
pub(crate) fn knowledge(runtime: &Runtime) -> DriverKnowledge {
    runtime.driver_knowledge().unwrap_or_else(|| read(runtime, None).knowledge())
}

/// Reads who waits in the driver of a runtime, and publishes whether that is known. `likely` is the
/// thread that did at the latest reading: while it still does, nothing else is read.
pub(crate) fn read(runtime: &Runtime, likely: Option<Tid>) -> DriverReading {
    let reading = read_unpublished(runtime, likely);
    runtime.publish_driver_knowledge(reading.knowledge());
    reading
}

fn read_unpublished(runtime: &Runtime, likely: Option<Tid>) -> DriverReading {
    runtime.forget_closed_descriptors();
    let driver = runtime.io_driver().unwrap_or(IoDriver::Missing);
    let learned = |may_be: &dyn Fn(u64) -> bool| learn(runtime, may_be).map(DriverReading::Attended);
    match &driver {
        IoDriver::NotSeen => learned(&|_| true).unwrap_or(DriverReading::Unknown(UnknownReason::NoDescriptor)),
        IoDriver::Descriptors(descriptors) => {
            if driver.is_ambiguous() {
                learned(&|descriptor| descriptors.contains(&descriptor));
            }
            read_descriptors(descriptors, likely)
        }
        IoDriver::Learned(descriptors) => match read_descriptors(descriptors, likely) {
            // Another descriptor may be the driver's.
            DriverReading::Unattended { running } => {
                learned(&|_| true).unwrap_or(DriverReading::Unattended { running })
            }
            known => known,
        },
        IoDriver::Unreadable | IoDriver::Missing => DriverReading::Unknown(UnknownReason::NoDescriptor),
    }
}

/// Returns whether this thread waits in the driver of a runtime.
pub(crate) fn is_attended_by(runtime: &Runtime, tid: Tid) -> bool {
    runtime.forget_closed_descriptors();
    let driver = runtime.io_driver();
    let descriptors = driver.as_ref().and_then(IoDriver::descriptors);
    descriptors.is_some_and(|descriptors| is_waiting_on(descriptors, syscall(tid)))
}

/// Returns whether a thread waits for events of one of these descriptors.
fn is_waiting_on(descriptors: &[u64], state: Option<SyscallState>) -> bool {
    waited_on(state).is_some_and(|descriptor| descriptors.contains(&descriptor))
}

fn read_descriptors(descriptors: &[u64], likely: Option<Tid>) -> DriverReading {
    let is_in_driver = |state| is_waiting_on(descriptors, state);
    if let Some(tid) = likely.filter(|tid| is_in_driver(syscall(*tid))) {
        return DriverReading::Attended(tid);
    }
    let Some(mut threads) = procfs::threads() else {
        return DriverReading::Unknown(UnknownReason::ThreadsNotListed);
    };
    if threads.len() > MAX_THREADS {
        return DriverReading::Unknown(UnknownReason::TooManyThreads);
    }
    let own = Tid::current();
    threads.retain(|tid| Some(*tid) != own);
    read_threads(&threads, syscall, exists, is_in_driver)
}

/// Reads these threads until one is found in the driver.
fn read_threads(
    threads: &[Tid],
    state_of: impl Fn(Tid) -> Option<SyscallState>,
    exists: impl Fn(Tid) -> bool,
    is_in_driver: impl Fn(Option<SyscallState>) -> bool,
) -> DriverReading {
    let (mut running, mut was_readable, mut is_missing) = (Vec::new(), false, false);
    for &tid in threads {
        let state = state_of(tid);
        if is_in_driver(state) {
            return DriverReading::Attended(tid);
        }
        match state {
            Some(SyscallState::Running) => running.push(tid),
            Some(SyscallState::Waiting { .. }) => was_readable = true,
            // A thread that has ended is in no driver.
            None => is_missing |= exists(tid),
        }
    }
    match (was_readable, is_missing) {
        // In a process that is not dumpable, no thread that waits can be read.
        (false, _) => DriverReading::Unknown(UnknownReason::NoThreadReadable),
        (true, true) => DriverReading::Unknown(UnknownReason::ThreadUnreadable),
        (true, false) => DriverReading::Unattended { running },
    }
}

/// Returns whether a thread of the process exists. Needs no free file descriptor.
fn exists(tid: Tid) -> bool {
    fs::symlink_metadata(format!("/proc/self/task/{tid}")).is_ok()
}

/// Learns the descriptor of a runtime, one that `may_be` it, and returns the thread that waits on
/// it. One of the workers that are known, since they have polled something that is measured, may be
/// the one that waits in the driver. Within a poll it waits on something else.
fn learn(runtime: &Runtime, may_be: impl Fn(u64) -> bool) -> Option<Tid> {
    let measured = runtime.meter.upgrade().map(|meter| meter.threads()).unwrap_or_default();
    let workers = measured.iter().filter(|thread| runtime.is_driven_by(thread)).filter_map(|thread| thread.tid);
    for tid in workers.chain(runtime.probe.polled_by()) {
        let thread = measured.iter().find(|thread| thread.tid == Some(tid));
        let Some(descriptor) = waited_on_between_polls(tid, thread.map(|thread| &thread.slot)) else { continue };
        if may_be(descriptor) {
            runtime.set_io_driver(descriptor);
            return Some(tid);
        }
    }
    None
}

/// Returns the descriptor on which a thread waits for events, unless it does so within a poll that
/// is measured.
fn waited_on_between_polls(tid: Tid, slot: Option<&Slot>) -> Option<u64> {
    let before = slot.map(Slot::version);
    let descriptor = waited_on(syscall(tid))?;
    let is_between = |slot: &Slot| {
        let reading = slot.read();
        reading.is_some_and(|reading| reading.frames().is_empty() && Some(reading.version) == before)
    };
    slot.is_none_or(is_between).then_some(descriptor)
}

/// Returns the descriptor on which a thread waits for events.
fn waited_on(state: Option<SyscallState>) -> Option<u64> {
    let Some(SyscallState::Waiting { call: Some(call), .. }) = state else { return None };
    let is_epoll = matches!(&*describe(call.number).0, "epoll_wait" | "epoll_pwait" | "epoll_pwait2");
    is_epoll.then_some(call.first_argument)
}

/// Returns whether a thread is one of pollwatch's own, by its name.
pub(crate) fn is_own(tid: Tid) -> bool {
    let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
    name.is_ok_and(|name| name.starts_with("pollwatch"))
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests;
