//! The requests of `ptrace(2)` that are needed, each with its types.
//!
//! The kernel accepts them from the one thread that has attached, so the type is neither `Send` nor
//! `Sync`.

use std::io;
use std::marker::PhantomData;
use std::ptr;

use crate::Tid;

const PTRACE_SETREGSET: libc::c_uint = 0x4205;
/// The event of a stop that `PTRACE_INTERRUPT` or a stop of the whole process has caused.
const PTRACE_EVENT_STOP: libc::c_int = 128;
/// The set of general registers.
const NT_PRSTATUS: usize = 1;

/// A thread that this thread has attached to. The kernel detaches it when this thread ends.
pub(super) struct Attached {
    tid: Tid,
    _of_this_thread: PhantomData<*const ()>,
}

/// What an attached thread is found to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// It runs.
    Running,
    /// It has stopped because of `PTRACE_INTERRUPT`.
    Stopped,
    /// It has stopped with the whole process, as by SIGSTOP.
    GroupStopped,
    /// It has stopped to receive a signal.
    Signalled(libc::c_int),
    /// It has ended, or has become another thread by an `exec`.
    Gone,
}

impl Observed {
    /// Returns the signal that the thread has stopped to receive, or 0.
    pub(super) fn signal(self) -> libc::c_int {
        match self {
            Observed::Signalled(signal) => signal,
            _ => 0,
        }
    }
}

impl Attached {
    /// Attaches to a thread. That does not stop it.
    pub(super) fn seize(tid: Tid) -> io::Result<Attached> {
        // SAFETY: no option is set, so that the thread does not depend on this one. The kernel
        // checks the id.
        let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid.as_raw(), ptr::null_mut::<u8>(), 0usize) };
        check(result).map(|()| Attached { tid, _of_this_thread: PhantomData })
    }

    /// Asks the thread to stop. A call that it waits in may end with `EINTR`.
    pub(super) fn interrupt(&self) -> io::Result<()> {
        // SAFETY: no pointer is involved.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, self.tid.as_raw(), ptr::null_mut::<u8>(), 0usize) })
    }

    /// Returns what the thread has done. It does not wait.
    ///
    /// The kernel's report of the stop is not taken: with `waitid` the signal for which the thread
    /// has stopped would be lost if this process were killed before the detach. It also does not
    /// matter if another thread of this process takes the report, by waiting for any child.
    pub(super) fn observe(&self) -> Observed {
        // SAFETY: a `siginfo_t` of zeroes is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let (tid, nowhere) = (self.tid.as_raw(), ptr::null_mut::<u8>());
        // SAFETY: the kernel writes to `info`, which is valid for that.
        if unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, nowhere, &raw mut info) } == -1 {
            return if self.has_ended() { Observed::Gone } else { Observed::Running };
        }
        match (info.si_code >> 8, info.si_signo) {
            (PTRACE_EVENT_STOP, libc::SIGTRAP) => Observed::Stopped,
            (PTRACE_EVENT_STOP, _) => Observed::GroupStopped,
            // No other event was asked for.
            (_, signal) => Observed::Signalled(signal),
        }
    }

    /// Returns whether the thread has ended, or is attached no more. The exit status stays, since
    /// it belongs to the parent. The kernel reports a stop here as well, though it is not asked to.
    fn has_ended(&self) -> bool {
        // SAFETY: a `siginfo_t` of zeroes is valid, and says that there is nothing to report.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: `info` is valid for the write.
        let result = unsafe { libc::waitid(libc::P_PID, self.tid.as_raw() as libc::id_t, &mut info, flags) };
        let is_end = matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
        // SAFETY: waitid fills the field, or leaves the zero.
        result == -1 || unsafe { info.si_pid() } != 0 && is_end
    }

    /// Reads the general registers. `None` if the thread runs 32-bit code, which has others.
    pub(super) fn registers(&self) -> io::Result<Option<libc::user_regs_struct>> {
        // SAFETY: registers are integers, for which zero is valid.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: (&raw mut regs).cast(), iov_len: size_of_val(&regs) };
        // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, self.tid.as_raw(), NT_PRSTATUS, &raw mut part) })?;
        Ok((part.iov_len == size_of_val(&regs)).then_some(regs))
    }

    /// Writes the general registers.
    pub(super) fn set_registers(&self, regs: &libc::user_regs_struct) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: ptr::from_ref(regs).cast_mut().cast(), iov_len: size_of_val(regs) };
        // SAFETY: the kernel reads `iov_len` bytes from `iov_base`.
        check(unsafe { libc::ptrace(PTRACE_SETREGSET, self.tid.as_raw(), NT_PRSTATUS, &raw mut part) })
    }

    /// Lets the thread run again, and gives it a signal unless that is 0.
    pub(super) fn detach(self, signal: libc::c_int) -> io::Result<()> {
        let signal = signal as usize;
        // SAFETY: no pointer is involved.
        check(unsafe { libc::ptrace(libc::PTRACE_DETACH, self.tid.as_raw(), ptr::null_mut::<u8>(), signal) })
    }

    /// Detaches the thread if it has stopped by itself. Otherwise it is detached when this thread
    /// ends.
    pub(super) fn give_up(self) {
        match self.observe() {
            Observed::Running | Observed::Gone => {}
            // Where that fails, the thread was killed.
            stopped => drop(self.detach(stopped.signal())),
        }
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    /// It may stop between the two questions by which `observe` finds out what it does.
    #[test]
    fn a_thread_that_has_stopped_has_not_ended() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        match Attached::seize(Tid::from_raw(child.id() as i32)) {
            Ok(attached) => {
                attached.interrupt().unwrap();
                let start = Instant::now();
                while attached.observe() != Observed::Stopped {
                    assert!(start.elapsed() < Duration::from_secs(60));
                }
                assert!(!attached.has_ended());
            }
            Err(error) => println!("skipped: {error}"),
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_that_ends_while_it_is_attached_is_gone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let attached = match Attached::seize(Tid::from_raw(child.id() as i32)) {
            Ok(attached) => attached,
            Err(error) => {
                child.kill().unwrap();
                child.wait().unwrap();
                return println!("skipped: {error}");
            }
        };
        assert_eq!(attached.observe(), Observed::Running);
        child.kill().unwrap();
        let start = Instant::now();
        while attached.observe() != Observed::Gone {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL), "the status is left to the parent");
    }
}
