//! Classification of a blocked thread, by the state that the kernel reports and by the thread's
//! share of a CPU. Pure.

use super::procfs::SyscallState;
use crate::model::cause::{Cause, Purpose};

/// The share of a CPU above which a runnable thread computes. Below, it is starved.
const COMPUTING_SHARE: f64 = 0.5;
/// The share of a CPU above which a thread computes, even if it waits at this moment.
const COMPUTING_SHARE_OF_WAITING: f64 = 0.9;

/// The observations of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// The state of the thread, if the kernel reports it.
    pub(crate) state: Option<SyscallState>,
    /// The share of the sampled window in which the thread was on a CPU.
    pub(crate) on_cpu: Option<f64>,
}

/// Returns the cause that the evidence shows.
pub(crate) fn classify(evidence: Evidence) -> Cause {
    let share = evidence.on_cpu;
    match evidence.state {
        Some(SyscallState::Waiting { .. }) if share.is_some_and(|share| share > COMPUTING_SHARE_OF_WAITING) => {
            Cause::Cpu
        }
        Some(SyscallState::Waiting { call: Some(call), .. }) if describe(call.number).1 == Purpose::Futex => {
            Cause::Lock
        }
        Some(SyscallState::Waiting { .. }) => Cause::Syscall,
        Some(SyscallState::Running) => match share {
            Some(share) if share > COMPUTING_SHARE => Cause::Cpu,
            Some(_) => Cause::Starved,
            None => Cause::Unknown,
        },
        None if share.is_some_and(|share| share > COMPUTING_SHARE) => Cause::Cpu,
        None => Cause::Unknown,
    }
}

/// Returns the name and the purpose of a system call. The table has the calls that block in
/// practice; the others are `unknown`.
pub(crate) fn describe(number: i64) -> (&'static str, Purpose) {
    let name = name(number);
    (name, purpose(name))
}

/// Returns the purpose of a system call by its name.
fn purpose(name: &str) -> Purpose {
    match name {
        "pause" | "nanosleep" | "clock_nanosleep" => Purpose::Sleep,
        "read" | "write" | "readv" | "writev" | "pread64" | "pwrite64" | "preadv" | "pwritev" | "recvfrom"
        | "sendto" | "recvmsg" | "sendmsg" | "connect" | "accept" | "accept4" | "fsync" | "fdatasync" | "ftruncate"
        | "fallocate" | "getdents64" | "sendfile" | "copy_file_range" | "splice" => Purpose::Io,
        "open" | "openat" | "close" | "fstat" | "newfstatat" | "statx" | "unlinkat" | "renameat2" | "msync"
        | "sync" => Purpose::File,
        "poll" | "select" | "epoll_wait" | "ppoll" | "pselect6" | "epoll_pwait" => Purpose::Poll,
        "wait4" | "waitid" => Purpose::Process,
        "flock" | "fcntl" => Purpose::FileLock,
        "futex" | "futex_waitv" => Purpose::Futex,
        _ => Purpose::Other,
    }
}

/// Returns the name of a system call of this processor.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn name(_number: i64) -> &'static str {
    "unknown"
}

/// Returns the name of a system call of this processor.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn name(number: i64) -> &'static str {
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_poll => return "poll",
        libc::SYS_select => return "select",
        libc::SYS_epoll_wait => return "epoll_wait",
        libc::SYS_open => return "open",
        libc::SYS_pause => return "pause",
        _ => {}
    }
    match number {
        libc::SYS_nanosleep => "nanosleep",
        libc::SYS_clock_nanosleep => "clock_nanosleep",
        libc::SYS_read => "read",
        libc::SYS_write => "write",
        libc::SYS_readv => "readv",
        libc::SYS_writev => "writev",
        libc::SYS_pread64 => "pread64",
        libc::SYS_pwrite64 => "pwrite64",
        libc::SYS_preadv => "preadv",
        libc::SYS_pwritev => "pwritev",
        libc::SYS_recvfrom => "recvfrom",
        libc::SYS_sendto => "sendto",
        libc::SYS_recvmsg => "recvmsg",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_connect => "connect",
        libc::SYS_accept => "accept",
        libc::SYS_accept4 => "accept4",
        libc::SYS_fsync => "fsync",
        libc::SYS_fdatasync => "fdatasync",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_getdents64 => "getdents64",
        libc::SYS_sendfile => "sendfile",
        libc::SYS_copy_file_range => "copy_file_range",
        libc::SYS_splice => "splice",
        libc::SYS_ppoll => "ppoll",
        libc::SYS_pselect6 => "pselect6",
        libc::SYS_epoll_pwait => "epoll_pwait",
        libc::SYS_wait4 => "wait4",
        libc::SYS_waitid => "waitid",
        libc::SYS_flock => "flock",
        libc::SYS_fcntl => "fcntl",
        libc::SYS_futex => "futex",
        libc::SYS_futex_waitv => "futex_waitv",
        libc::SYS_openat => "openat",
        libc::SYS_close => "close",
        libc::SYS_fstat => "fstat",
        libc::SYS_newfstatat => "newfstatat",
        libc::SYS_statx => "statx",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_mmap => "mmap",
        libc::SYS_munmap => "munmap",
        libc::SYS_madvise => "madvise",
        libc::SYS_mprotect => "mprotect",
        libc::SYS_msync => "msync",
        libc::SYS_sync => "sync",
        libc::SYS_execve => "execve",
        libc::SYS_clone => "clone",
        libc::SYS_rt_sigtimedwait => "rt_sigtimedwait",
        libc::SYS_semtimedop => "semtimedop",
        libc::SYS_io_uring_enter => "io_uring_enter",
        _ => "unknown",
    }
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use super::*;
    use pollwatch_stack::Address;
    use pollwatch_stack::procfs::SyscallEntry;

    fn of(state: Option<SyscallState>, on_cpu: Option<f64>) -> Cause {
        classify(Evidence { state, on_cpu })
    }

    fn waiting(call: Option<i64>) -> Option<SyscallState> {
        let call = call.map(|number| SyscallEntry { number, first_argument: 3 });
        Some(SyscallState::Waiting { call, sp: Address::default(), ip: Address::default() })
    }

    #[test]
    fn causes() {
        assert_eq!(of(Some(SyscallState::Running), Some(0.98)), Cause::Cpu);
        assert_eq!(of(Some(SyscallState::Running), Some(0.1)), Cause::Starved);
        assert_eq!(of(waiting(Some(libc::SYS_futex)), Some(0.0)), Cause::Lock);
        assert_eq!(of(waiting(Some(libc::SYS_futex_waitv)), Some(0.0)), Cause::Lock);
        assert_eq!(of(waiting(Some(libc::SYS_read)), Some(0.6)), Cause::Syscall);
        assert_eq!(of(waiting(Some(libc::SYS_write)), Some(0.97)), Cause::Cpu, "it happened to print at that moment");
        assert_eq!(of(waiting(None), Some(0.0)), Cause::Syscall, "a page that has to be read");
        assert_eq!(of(None, Some(0.9)), Cause::Cpu);
        assert_eq!(of(None, Some(0.1)), Cause::Unknown, "asleep or starved: unknown");
        assert_eq!(of(Some(SyscallState::Running), None), Cause::Unknown);
    }

    #[test]
    fn calls() {
        assert_eq!(describe(libc::SYS_read), ("read", Purpose::Io));
        assert_eq!(describe(libc::SYS_clock_nanosleep), ("clock_nanosleep", Purpose::Sleep));
        assert_eq!(describe(libc::SYS_copy_file_range), ("copy_file_range", Purpose::Io));
        assert_eq!(describe(libc::SYS_splice), ("splice", Purpose::Io));
        assert_eq!(describe(libc::SYS_openat), ("openat", Purpose::File));
        assert_eq!(describe(libc::SYS_munmap), ("munmap", Purpose::Other));
        assert_eq!(describe(-5), ("unknown", Purpose::Other));
    }
}
