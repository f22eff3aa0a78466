//! Classification of a blocked thread, by the position that the kernel reports and by its share of
//! CPU time. Pure.

use super::procfs::SyscallState as Syscall;
use crate::model::cause::{Cause, Purpose};

/// A runnable thread with more than this share of a CPU computes; with less, it was given none.
const COMPUTING: f64 = 0.5;
/// A thread with more than this share of a CPU computes, even if it happens to wait at this moment.
const NEARLY_ALL: f64 = 0.9;

/// The observations of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// The position of the thread, as the kernel reports it.
    pub(crate) at: Option<Syscall>,
    /// The share of the sampled window that the thread was on a CPU.
    pub(crate) on_cpu: Option<f64>,
}

/// Returns the cause that the evidence shows.
pub(crate) fn classify(evidence: Evidence) -> Cause {
    let share = evidence.on_cpu;
    match evidence.at {
        Some(Syscall::Waiting { .. }) if share.is_some_and(|share| share > NEARLY_ALL) => Cause::Cpu,
        Some(Syscall::Waiting { call: Some(call), .. }) if describe(call.number).1 == Purpose::Futex => Cause::Lock,
        Some(Syscall::Waiting { .. }) => Cause::Syscall,
        Some(Syscall::Running) => match share {
            Some(share) if share > COMPUTING => Cause::Cpu,
            Some(_) => Cause::Starved,
            None => Cause::Unknown,
        },
        None if share.is_some_and(|share| share > COMPUTING) => Cause::Cpu,
        None => Cause::Unknown,
    }
}

/// The name and the purpose of a system call of this processor; those that block, as far as
/// programs make them.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) fn describe(_number: i64) -> (&'static str, Purpose) {
    ("another", Purpose::Other)
}

/// The name and the purpose of a system call of this processor; those that block, as far as
/// programs make them.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn describe(number: i64) -> (&'static str, Purpose) {
    use Purpose::*;
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_poll => return ("poll", Poll),
        libc::SYS_select => return ("select", Poll),
        libc::SYS_epoll_wait => return ("epoll_wait", Poll),
        libc::SYS_open => return ("open", Other),
        libc::SYS_pause => return ("pause", Sleep),
        _ => {}
    }
    match number {
        libc::SYS_nanosleep => ("nanosleep", Sleep),
        libc::SYS_clock_nanosleep => ("clock_nanosleep", Sleep),
        libc::SYS_read => ("read", Io),
        libc::SYS_write => ("write", Io),
        libc::SYS_readv => ("readv", Io),
        libc::SYS_writev => ("writev", Io),
        libc::SYS_pread64 => ("pread64", Io),
        libc::SYS_pwrite64 => ("pwrite64", Io),
        libc::SYS_preadv => ("preadv", Io),
        libc::SYS_pwritev => ("pwritev", Io),
        libc::SYS_recvfrom => ("recvfrom", Io),
        libc::SYS_sendto => ("sendto", Io),
        libc::SYS_recvmsg => ("recvmsg", Io),
        libc::SYS_sendmsg => ("sendmsg", Io),
        libc::SYS_connect => ("connect", Io),
        libc::SYS_accept => ("accept", Io),
        libc::SYS_accept4 => ("accept4", Io),
        libc::SYS_fsync => ("fsync", Io),
        libc::SYS_fdatasync => ("fdatasync", Io),
        libc::SYS_ftruncate => ("ftruncate", Io),
        libc::SYS_fallocate => ("fallocate", Io),
        libc::SYS_getdents64 => ("getdents64", Io),
        libc::SYS_sendfile => ("sendfile", Io),
        libc::SYS_ppoll => ("ppoll", Poll),
        libc::SYS_pselect6 => ("pselect6", Poll),
        libc::SYS_epoll_pwait => ("epoll_pwait", Poll),
        libc::SYS_wait4 => ("wait4", Process),
        libc::SYS_waitid => ("waitid", Process),
        libc::SYS_flock => ("flock", FileLock),
        libc::SYS_fcntl => ("fcntl", FileLock),
        libc::SYS_futex => ("futex", Futex),
        libc::SYS_openat => ("openat", Other),
        libc::SYS_close => ("close", Other),
        libc::SYS_fstat => ("fstat", Other),
        libc::SYS_newfstatat => ("newfstatat", Other),
        libc::SYS_statx => ("statx", Other),
        libc::SYS_unlinkat => ("unlinkat", Other),
        libc::SYS_renameat2 => ("renameat2", Other),
        libc::SYS_mmap => ("mmap", Other),
        libc::SYS_munmap => ("munmap", Other),
        libc::SYS_madvise => ("madvise", Other),
        libc::SYS_mprotect => ("mprotect", Other),
        libc::SYS_msync => ("msync", Other),
        libc::SYS_sync => ("sync", Other),
        libc::SYS_execve => ("execve", Other),
        libc::SYS_clone => ("clone", Other),
        libc::SYS_rt_sigtimedwait => ("rt_sigtimedwait", Other),
        libc::SYS_semtimedop => ("semtimedop", Other),
        libc::SYS_io_uring_enter => ("io_uring_enter", Other),
        _ => ("another", Other),
    }
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use super::*;
    use pollwatch_stack::Address;
    use pollwatch_stack::procfs::SyscallEntry;

    fn of(at: Option<Syscall>, on_cpu: Option<f64>) -> Cause {
        classify(Evidence { at, on_cpu })
    }

    fn waiting(call: Option<i64>) -> Option<Syscall> {
        let call = call.map(|number| SyscallEntry { number, first_argument: 3 });
        Some(Syscall::Waiting { call, sp: Address::default(), ip: Address::default() })
    }

    #[test]
    fn causes() {
        assert_eq!(of(Some(Syscall::Running), Some(0.98)), Cause::Cpu);
        assert_eq!(of(Some(Syscall::Running), Some(0.1)), Cause::Starved);
        assert_eq!(of(waiting(Some(libc::SYS_futex)), Some(0.0)), Cause::Lock);
        assert_eq!(of(waiting(Some(libc::SYS_read)), Some(0.6)), Cause::Syscall);
        assert_eq!(of(waiting(Some(libc::SYS_write)), Some(0.97)), Cause::Cpu, "it happened to print at that moment");
        assert_eq!(of(waiting(None), Some(0.0)), Cause::Syscall, "a page that has to be read");
        assert_eq!(of(None, Some(0.9)), Cause::Cpu);
        assert_eq!(of(None, Some(0.1)), Cause::Unknown, "asleep or starved: unknown");
        assert_eq!(of(Some(Syscall::Running), None), Cause::Unknown);
    }

    #[test]
    fn calls() {
        assert_eq!(describe(libc::SYS_read), ("read", Purpose::Io));
        assert_eq!(describe(libc::SYS_clock_nanosleep), ("clock_nanosleep", Purpose::Sleep));
        assert_eq!(describe(-5), ("another", Purpose::Other));
    }
}
