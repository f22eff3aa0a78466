//! Captures: the stack of a thread is copied at no risk to it, and unwound by the caller.
//!
//! A waiting thread is read through the kernel ([`memory`]). A running one copies its stack itself,
//! in a signal handler that does nothing else ([`signal`]). All else ([`unwind`], [`symbols`])
//! happens on the calling thread.

mod arch;
mod capability;
mod guard;
mod handshake;
mod memory;
mod modules;
mod names;
mod ownership;
mod raw;
mod signal;
mod symbols;
mod unwind;

pub use capability::{capability, degradation};
pub use modules::hold_unwind_tables;
pub use raw::RawStack;
pub use symbols::Symbolizer;

use std::time::{Duration, Instant};

use arch::Regs;
use guard::catches_panic;
use modules::Modules;
use unwind::{Chain, Source, StackCopy};

use crate::procfs::{self, SyscallState};
use crate::{Address, CaptureError, Frame, Target, Tid};

/// How often a waiting thread is read before it is taken for a running one.
const ATTEMPTS: usize = 3;
/// The CPU time within which a woken thread has returned from its system call.
const RETURN_FROM_SYSCALL: Duration = Duration::from_micros(10);
/// How long the CPU time of a thread is polled without a pause, and then how long each pause is.
const SPIN: Duration = Duration::from_micros(30);

/// Reads the unwind tables of all loaded modules and installs the signal handler.
///
/// Without it the first capture does both, which takes some milliseconds, or more for large
/// binaries. A capture on another thread waits for the tables meanwhile, after it has its copy.
pub fn preload() {
    catches_panic(|| {
        signal::preload();
        drop(Modules::current());
    });
}

/// Returns whether the unwind tables have been read, without waiting for whoever is reading them.
pub fn is_preloaded() -> bool {
    modules::are_read()
}

/// Takes stacks. It keeps the buffer of the last copy, of 512 KiB at most.
///
/// Several may exist. In the whole process one running thread is asked at a time; the others wait.
#[derive(Default)]
pub struct Capturer {
    copy: Vec<u8>,
    boundary: Option<fn(&Frame) -> bool>,
}

impl std::fmt::Debug for Capturer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capturer").field("has_boundary", &self.boundary.is_some()).finish_non_exhaustive()
    }
}

impl Capturer {
    /// Makes a capturer. Neither handler nor tables are touched before the first capture.
    pub fn new() -> Capturer {
        Capturer::default()
    }

    /// Sets what recognises the functions by which a runtime calls the user's code, for all stacks
    /// that this capturer takes; see [`Stack::new`](crate::Stack::new). The default: none.
    #[must_use]
    pub fn with_boundary(mut self, is_boundary: fn(&Frame) -> bool) -> Capturer {
        self.boundary = Some(is_boundary);
        self
    }

    /// Takes the stack of a thread, whatever it does.
    ///
    /// The calling thread itself is the exception: its stack changes while it is read. For that one
    /// there is `std::backtrace`.
    ///
    /// # Errors
    ///
    /// Every [`CaptureError`] may occur. After [`Moved`](CaptureError::Moved) and
    /// [`Timeout`](CaptureError::Timeout) another attempt may succeed.
    ///
    /// # Cost
    ///
    /// A waiting thread is not disturbed. A running one handles a signal and copies its stack, 512
    /// KiB of it at most; a system call that it enters at this very moment may fail with `EINTR` or
    /// transfer less. The caller waits 5 ms for a thread without a CPU, and for a handler that lost
    /// its CPU half a second at most.
    ///
    /// # Examples
    ///
    /// See the [crate](crate).
    pub fn capture(&mut self, target: Target) -> Result<RawStack, CaptureError> {
        self.capture_if_current(target, procfs::syscall(target.tid), || true)
    }

    /// Takes the stack of a thread that was observed in `state`, if it is still wanted.
    ///
    /// `is_current` is called once, after the copy was made: whether the thread still does what the
    /// caller wants to know about. If not, the copy is dropped. Then every stack that is returned
    /// belongs to that time.
    ///
    /// # Errors
    ///
    /// As [`capture`](Self::capture). Without a `state` it is [`CaptureError::Unavailable`], since
    /// a signal might cut a system call short.
    pub fn capture_if_current(
        &mut self,
        target: Target,
        state: Option<SyscallState>,
        is_current: impl Fn() -> bool,
    ) -> Result<RawStack, CaptureError> {
        let regs = self.copy(target, state)?;
        if !is_current() {
            return Err(CaptureError::Moved);
        }
        // The tables are whatever is loaded. They may make their reader panic, which must not reach
        // the caller.
        let mut modules = None;
        catches_panic(|| modules = Some(Modules::current()));
        let modules = modules.ok_or(CaptureError::Unavailable)?;
        let stack = StackCopy { start: regs.sp, bytes: &self.copy };
        let source = Source { modules: &modules, stack, code: &memory::read };
        let mut chain = Chain::default();
        if catches_panic(|| chain = unwind::unwind(&source, regs)) {
            return Err(CaptureError::Unavailable);
        }
        Ok(RawStack { chain, modules, boundary: self.boundary })
    }

    /// Copies the stack into the buffer and returns the registers.
    fn copy(&mut self, target: Target, mut state: Option<SyscallState>) -> Result<Regs, CaptureError> {
        for _ in 0..ATTEMPTS {
            match state {
                // Nobody knows whether a signal would cut a system call short.
                None => return Err(CaptureError::Unavailable),
                Some(_) if !arch::FROM_SYSCALL => return self.ask(target),
                Some(SyscallState::Waiting { sp, ip, .. }) => {
                    if let Some(regs) = self.read_waiting(target, state, sp, ip)? {
                        return Ok(regs);
                    }
                    state = procfs::syscall(target.tid);
                }
                // A thread that was woken and has no CPU yet counts as running, and is still in its
                // system call.
                Some(SyscallState::Running) => {
                    if !runs(target.tid) {
                        return Err(CaptureError::Timeout);
                    }
                    state = procfs::syscall(target.tid);
                    if state == Some(SyscallState::Running) {
                        return self.ask(target);
                    }
                }
            }
        }
        Err(CaptureError::Moved)
    }

    /// Has a running thread copy its stack itself.
    fn ask(&mut self, target: Target) -> Result<Regs, CaptureError> {
        signal::copy(target, &mut self.copy)
    }

    /// Reads the stack of a thread that waits in the kernel; `None` when it moved meanwhile.
    fn read_waiting(
        &mut self,
        target: Target,
        state: Option<SyscallState>,
        sp: Address,
        ip: Address,
    ) -> Result<Option<Regs>, CaptureError> {
        let ran = procfs::ran(target.tid).ok_or(CaptureError::Unavailable)?;
        if !target.stack.contains(sp) {
            return Err(CaptureError::Elsewhere);
        }
        let len = (target.stack.high().get() - sp.get()).min(signal::MAX_STACK as u64) as usize;
        self.copy.resize(len, 0);
        if !memory::read(sp.get(), &mut self.copy) {
            return Err(CaptureError::Unavailable);
        }
        let unmoved = procfs::syscall(target.tid) == state && procfs::ran(target.tid) == Some(ran);
        let mut regs = [0; arch::REGS];
        regs[0] = ip.get();
        regs[arch::REGS - 1] = arch::UNKNOWN;
        Ok(unmoved.then(|| Regs::new(sp.get(), regs)))
    }
}

/// Waits until a thread is on a CPU, for long enough to be out of a system call that it was woken
/// in. Returns whether it was given a CPU in time.
fn runs(tid: Tid) -> bool {
    let (Some(before), start) = (tid.cpu_time(), Instant::now()) else { return false };
    while start.elapsed() < signal::PATIENCE {
        if tid.cpu_time().is_some_and(|now| now >= before + RETURN_FROM_SYSCALL) {
            return true;
        }
        if start.elapsed() > SPIN {
            std::thread::sleep(SPIN);
        }
    }
    false
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
