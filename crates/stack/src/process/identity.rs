//! The identity of a process, by which another process with its id is recognised, and that of the
//! program that it runs.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::{Denial, ProcessError};
use crate::procfs::{ProcessFolder, RunState};
use crate::{Pid, Tid};

/// The flag of the kernel's own threads in `stat` (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Entries of the auxiliary vector: the program headers, and the first instruction.
const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;

/// A process, as opposed to a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: Pid,
    started: Duration,
}

impl Identity {
    /// Reads the identity of the process that has this id, or a thread with it.
    pub(super) fn read(id: Pid) -> Result<Identity, ProcessError> {
        let pid = match status_field(id, "Tgid:") {
            Ok(field) => field.and_then(|field| field.parse().ok()).unwrap_or(id),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(ProcessError::Denied { pid: id, denial: Denial::HiddenProc });
            }
            Err(_) if exists(id) => return Err(ProcessError::Denied { pid: id, denial: Denial::HiddenProc }),
            Err(_) => return Err(ProcessError::NotFound { pid: id }),
        };
        let started = started(pid).ok_or(ProcessError::NotFound { pid })?;
        if is_kernel_thread(pid) {
            return Err(ProcessError::KernelThread { pid });
        }
        Ok(Identity { pid, started })
    }

    /// Checks that the process still exists.
    pub(super) fn check(&self) -> Result<(), ProcessError> {
        if started(self.pid) == Some(self.started) { Ok(()) } else { Err(ProcessError::Exited { pid: self.pid }) }
    }

    /// Returns a thread whose files in procfs describe the process. The first thread has none once
    /// it has ended, which it may do before the others.
    pub(super) fn anchor(&self, pid: Pid) -> Result<Pid, ProcessError> {
        let folder = ProcessFolder::of(pid);
        let is_alive = |tid: Tid| folder.stat(tid).is_some_and(|stat| stat.state != RunState::Ended);
        if is_alive(pid.first_thread()) {
            return Ok(pid);
        }
        let others = folder.threads().unwrap_or_default();
        let other = others.into_iter().find(|&tid| is_alive(tid));
        self.check()?;
        other.map(|tid| Pid::from_raw(tid.as_raw())).ok_or(ProcessError::Zombie { pid })
    }
}

/// Checks that `/proc` is there, and that it is that of this process' pid namespace.
pub(super) fn check_procfs() -> Result<(), ProcessError> {
    let own = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse::<Pid>().ok());
    if own == Some(Pid::current()) { Ok(()) } else { Err(ProcessError::NoProcfs) }
}

/// Returns whether a process exists that is not in `/proc`.
fn exists(pid: Pid) -> bool {
    if pid.as_raw() <= 0 {
        return false;
    }
    // SAFETY: signal 0 is sent to nobody. The kernel checks the id, which names one process.
    let result = unsafe { libc::kill(pid.as_raw(), 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

fn started(pid: Pid) -> Option<Duration> {
    Some(ProcessFolder::of(pid).stat(pid.first_thread())?.started)
}

fn is_kernel_thread(pid: Pid) -> bool {
    let stat = ProcessFolder::of(pid).read_of(pid.first_thread(), "stat");
    let flags = stat.as_deref().and_then(|stat| stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// Returns a line of `status`, without its title.
pub(super) fn status_field(pid: Pid, title: &str) -> std::io::Result<Option<String>> {
    let text = fs::read(ProcessFolder::of(pid).path("status"))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find_map(|line| line.strip_prefix(title)).map(|rest| rest.trim().to_owned()))
}

/// The program that a process runs, as opposed to another one after an `exec`: the auxiliary
/// vector, which has addresses that are random for each program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProgramIdentity(Vec<u64>);

impl ProgramIdentity {
    /// Reads the identity; `None` if the thread has ended or has no memory any more.
    pub(super) fn read(anchor: Pid) -> io::Result<Option<ProgramIdentity>> {
        let bytes = match fs::read(ProcessFolder::of(anchor).path("auxv")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let words = bytes.chunks_exact(size_of::<u64>());
        let words = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        Ok((!bytes.is_empty()).then(|| ProgramIdentity(words.collect())))
    }

    /// Returns an address in the executable.
    pub(super) fn entry(&self) -> Option<u64> {
        let value = |key| self.0.chunks_exact(2).find(|pair| pair[0] == key).map(|pair| pair[1]);
        value(AT_ENTRY).or_else(|| value(AT_PHDR))
    }
}
