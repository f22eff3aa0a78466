use std::fmt;
use std::io;

use crate::Pid;

/// The reason why another process cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// No process has this id.
    NotFound {
        /// The id.
        pid: Pid,
    },
    /// The process has ended since it was opened.
    Exited {
        /// The id of the process.
        pid: Pid,
    },
    /// The process has ended, and its parent has not asked for its exit status yet.
    Zombie {
        /// The id of the process.
        pid: Pid,
    },
    /// The process is a thread of the kernel.
    KernelThread {
        /// The id of the process.
        pid: Pid,
    },
    /// The process runs a program for another kind of processor, or a 32-bit one.
    OtherArchitecture {
        /// The id of the process.
        pid: Pid,
    },
    /// The kernel does not permit it.
    Denied {
        /// The id of the process.
        pid: Pid,
        /// The check that fails.
        denial: Denial,
    },
    /// `/proc` is not mounted, or belongs to another pid namespace than this process.
    NoProcfs,
    /// Captures do not exist on this platform, or were left out of this build.
    Unsupported,
    /// An unexpected error of the operating system.
    Io {
        /// The id of the process.
        pid: Pid,
        /// The error.
        source: io::Error,
    },
}

/// The check of the kernel that fails, so that a process cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// The process belongs to another user, or has changed its user.
    OtherUser {
        /// The user of the process.
        user: u32,
        /// The user of this process.
        own: u32,
    },
    /// `/proc/sys/kernel/yama/ptrace_scope` forbids it.
    Yama {
        /// Its value. 1: only parents may; 2: only `CAP_SYS_PTRACE` may; 3: nobody may.
        scope: u8,
    },
    /// The process is not dumpable: it has file capabilities, has changed its user, or has asked
    /// for it.
    NotDumpable,
    /// The process has capabilities that this one does not have.
    Capabilities,
    /// The process is in a user namespace in which this one has no rights.
    OtherUserNamespace,
    /// `/proc` is mounted with `hidepid`, which hides the processes of others.
    HiddenProc,
    /// None of the above: a seccomp filter, such as that of a container, or a security module.
    Filtered,
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessError::NotFound { pid } => write!(f, "there is no process {pid}"),
            ProcessError::Exited { pid } => write!(f, "process {pid} has ended"),
            ProcessError::Zombie { pid } => {
                write!(f, "process {pid} has ended, and waits for its parent to ask for its exit status")
            }
            ProcessError::KernelThread { pid } => write!(f, "process {pid} is a thread of the kernel"),
            ProcessError::OtherArchitecture { pid } => {
                write!(f, "process {pid} runs a 32-bit program or one for another processor, which cannot be unwound")
            }
            ProcessError::Denied { pid, denial } => write!(f, "process {pid} may not be read: {denial}"),
            ProcessError::NoProcfs => f.write_str(
                "/proc is not mounted, or is that of another pid namespace: mount that of this one (mount -t proc proc \
                 /proc)",
            ),
            ProcessError::Unsupported => {
                f.write_str("other processes can be read only on Linux with glibc, on x86_64 and aarch64")
            }
            ProcessError::Io { pid, source } => write!(f, "process {pid} cannot be read: {source}"),
        }
    }
}

impl std::error::Error for ProcessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProcessError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Denial {
    /// Returns which check fails, without what to do about it.
    pub fn reason(&self) -> String {
        match self {
            Denial::OtherUser { user, own: 0 } => {
                format!("it belongs to user {user}, and this is root without CAP_SYS_PTRACE")
            }
            Denial::OtherUser { user, own } => format!("it belongs to user {user} and this is user {own}"),
            Denial::Yama { scope: 3 } => {
                "kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot".into()
            }
            Denial::Yama { scope } => format!("kernel.yama.ptrace_scope is {scope}"),
            Denial::NotDumpable => {
                "it is not dumpable (it has file capabilities, has changed its user, or has set PR_SET_DUMPABLE)".into()
            }
            Denial::Capabilities => "it has capabilities that this process has not".into(),
            Denial::OtherUserNamespace => {
                "it is in another user namespace, such as that of a rootless container".into()
            }
            Denial::HiddenProc => "/proc is mounted with hidepid".into(),
            Denial::Filtered => "a seccomp filter or a security module forbids it".into(),
        }
    }

    /// Returns what to do about it. `None` where nothing helps.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Denial::OtherUser { own: 0, .. } => {
                "run this as that user, or with the capability (docker run --cap-add SYS_PTRACE)"
            }
            Denial::OtherUser { .. } => "run this as that user, or as root",
            Denial::Yama { scope: 3 } => return None,
            Denial::Yama { .. } => {
                "run this as root or with CAP_SYS_PTRACE, or set it to 0 (sysctl kernel.yama.ptrace_scope=0)"
            }
            Denial::NotDumpable | Denial::Capabilities => "run this as root or with CAP_SYS_PTRACE",
            Denial::OtherUserNamespace => "run this in that namespace, or as root outside of it",
            Denial::HiddenProc => "run this as root or as the user of that process",
            Denial::Filtered => "in a container, add the capability SYS_PTRACE (docker run --cap-add SYS_PTRACE)",
        })
    }
}

/// Shows the reason and the remedy.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
    }
}
