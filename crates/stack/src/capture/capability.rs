use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{memory, signal};
use crate::procfs::ProcessFolder;
use crate::{Capability, Tid};

const NO_SIGNAL: &str = "tgkill, which sends the signal to a running thread, is not permitted";
const NOT_DUMPABLE: &str = "this process is not dumpable (it has file capabilities, has changed its user, or has set PR_SET_DUMPABLE), so that \
     /proc/self/task/*/syscall belongs to root: use ambient capabilities instead of file capabilities, or call \
     prctl(PR_SET_DUMPABLE, 1) after the change of user";
const NO_PROCFS: &str = "/proc is not mounted: /proc/self/task/*/syscall says what a thread waits for";
const NOT_SUPPORTED: &str = "this kernel has no /proc/self/task/*/syscall";

/// True once a capture has failed because the system calls of threads cannot be read.
static IS_UNREADABLE: AtomicBool = AtomicBool::new(false);

/// Returns which threads' stacks can be captured in this process. Costs a few system calls; sends
/// no signal and installs no handler.
///
/// ```
/// println!("stacks can be captured of {}", pollwatch_stack::capability());
/// ```
pub fn capability() -> Capability {
    let here = [1u8; 8];
    let can_send = signal::may_be_sent();
    let unreadable = match (Tid::current(), why_unreadable()) {
        (Some(_), None) => None,
        (Some(_), Some(why)) => Some(why),
        (None, _) => Some(Unreadable::NotSupported),
    };
    match unreadable {
        Some(Unreadable::NotPermitted) if !can_send => Capability::Unavailable(NO_SIGNAL),
        Some(why) => without_syscalls(why),
        None if !memory::read(here.as_ptr() as u64, &mut [0; 8]) => {
            Capability::Unavailable("neither process_vm_readv nor /proc/self/mem gives this process' memory")
        }
        None if can_send => Capability::AllThreads,
        None => without_signal(NO_SIGNAL),
    }
}

/// Returns which threads' stacks can be captured, according to the captures so far; `None` as long
/// as none of them contradicts [`capability`].
///
/// ```
/// use pollwatch_stack::{capability, degradation};
///
/// println!("stacks can be captured of {}", degradation().unwrap_or_else(capability));
/// ```
pub fn degradation() -> Option<Capability> {
    if IS_UNREADABLE.load(Ordering::Relaxed)
        && let Some(why) = why_unreadable()
    {
        return Some(without_syscalls(why));
    }
    signal::degradation().map(without_signal)
}

/// Records that the system call of a thread could not be read.
pub(super) fn record_unread() {
    // Most often the thread has ended.
    IS_UNREADABLE.store(why_unreadable().is_some(), Ordering::Relaxed);
}

fn without_signal(why: &'static str) -> Capability {
    Capability::WaitingThreadsOnly(why)
}

fn without_syscalls(why: Unreadable) -> Capability {
    match why {
        Unreadable::NotPermitted => Capability::RunningThreadsOnly(NOT_DUMPABLE),
        Unreadable::NoProcfs => Capability::Unavailable(NO_PROCFS),
        Unreadable::NotSupported => Capability::Unavailable(NOT_SUPPORTED),
    }
}

/// Returns why the system calls of this process' threads cannot be read; `None` where they can.
fn why_unreadable() -> Option<Unreadable> {
    let own = Tid::current()?;
    let error = fs::read_to_string(ProcessFolder::OWN.path_of(own, "syscall")).err()?;
    Some(match error.kind() {
        ErrorKind::PermissionDenied => Unreadable::NotPermitted,
        _ if ProcessFolder::OWN.stat(own).is_none() => Unreadable::NoProcfs,
        _ => Unreadable::NotSupported,
    })
}

/// The reason why the system calls of threads cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    /// The process is not dumpable.
    NotPermitted,
    /// There is no procfs.
    NoProcfs,
    /// The kernel does not have the file.
    NotSupported,
}
