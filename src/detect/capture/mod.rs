//! Stacks of blocked threads, taken at no risk to them: by reading them while they wait in the kernel, or by a signal whose handler
//! only copies. All else (unwinding, symbols) happens here, on pollwatch's own threads.

mod arch;
mod handshake;
mod memory;
mod modules;
mod names;
mod signal;
mod symbols;
mod unwind;

pub(crate) use symbols::symbols;

#[cfg(all(test, not(pollwatch_loom)))]
pub(crate) use modules::pretend_to_read;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arch::Regs;
use modules::Modules;
use unwind::{Chain, Source, StackCopy};

use super::outcome::Outcome;
use super::procfs::{self, Syscall};
use crate::model::coverage::StackCoverage;
use crate::util::call_user;

/// Times that a waiting thread is read before it is taken for a running one.
const TRIES: usize = 3;

/// Nanoseconds on a CPU that bring a thread back from a system call.
const WARM: u64 = 10_000;
/// How long it is looked at without a pause.
const SPIN: Duration = Duration::from_micros(30);

const NO_SIGNAL: &str = "tgkill, by which a running thread is asked, is refused";

/// The thread to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) tid: i32,
    /// Its stack's bounds.
    pub(crate) stack: (usize, usize),
}

/// A stack as addresses, with the modules that they lie in.
#[derive(Clone)]
pub(crate) struct RawStack {
    chain: Chain,
    modules: Arc<Modules>,
}

impl RawStack {
    /// The addresses, outermost first; `None` where the outer part is missing.
    pub(crate) fn addresses(&self) -> Option<Vec<u64>> {
        self.chain.complete.then(|| self.chain.addresses.iter().rev().copied().collect())
    }
}

/// Which stacks can be taken here.
pub(crate) fn coverage() -> StackCoverage {
    let here = [1u8; 8];
    if crate::sys::thread_id().and_then(procfs::syscall).is_none() {
        StackCoverage::Unavailable("/proc/self/task/*/syscall cannot be read")
    } else if !memory::read(here.as_ptr() as u64, &mut [0; 8]) {
        StackCoverage::Unavailable("neither process_vm_readv nor /proc/self/mem gives this process' memory")
    } else if signal::may_be_sent() {
        StackCoverage::Taken
    } else if arch::FROM_SYSCALL {
        StackCoverage::WaitingThreadsOnly(NO_SIGNAL)
    } else {
        StackCoverage::Unavailable(NO_SIGNAL)
    }
}

/// Which can be taken, by what was found out while they were taken; `None` as long as all is as [`coverage`] said.
pub(crate) fn hindered() -> Option<StackCoverage> {
    let why = signal::hindrance()?;
    Some(if arch::FROM_SYSCALL { StackCoverage::WaitingThreadsOnly(why) } else { StackCoverage::Unavailable(why) })
}

/// Reads the unwind tables of what is loaded; else the first capture does. One that comes meanwhile waits for what is left of it, after
/// it has its copy. Not for the watchdog: it would find no stall until then.
pub(crate) fn warm() {
    call_user(|| {
        signal::warm();
        drop(Modules::of_now());
    });
}

/// Whether the unwind tables have been read; without waiting for that.
pub(crate) fn is_warm() -> bool {
    modules::are_read()
}

/// Takes stacks. One a watchdog.
#[derive(Default)]
pub(crate) struct Capturer {
    stack: Vec<u8>,
}

impl Capturer {
    /// Takes the stack of a thread that was seen `at` a place; `still` tells, after it was copied, whether it is in the same poll.
    pub(crate) fn capture(
        &mut self,
        target: Target,
        at: Option<Syscall>,
        still: impl Fn() -> bool,
    ) -> (Outcome, Option<RawStack>) {
        let regs = match self.copy(target, at) {
            Ok(regs) => regs,
            Err(outcome) => return (outcome, None),
        };
        if !still() {
            return (Outcome::Moved, None);
        }
        // The tables are whatever is loaded; should they make a reader of theirs panic, that must not end detection.
        let mut modules = None;
        call_user(|| modules = Some(Modules::of_now()));
        let Some(modules) = modules else { return (Outcome::Unavailable, None) };
        let stack = StackCopy { start: regs.sp, bytes: &self.stack };
        let source = Source { modules: &modules, stack, code: &memory::read };
        // As above.
        let mut chain = Chain::default();
        if call_user(|| chain = unwind::unwind(&source, regs)) {
            return (Outcome::Unavailable, None);
        }
        let outcome = if chain.complete { Outcome::Ok } else { Outcome::Incomplete };
        (outcome, Some(RawStack { chain, modules }))
    }

    fn copy(&mut self, target: Target, mut at: Option<Syscall>) -> Result<Regs, Outcome> {
        for _ in 0..TRIES {
            match at {
                // Without it nobody knows whether a signal would cut a system call short.
                None => return Err(Outcome::Unavailable),
                Some(_) if !arch::FROM_SYSCALL => return self.ask(target),
                Some(Syscall::Waiting { sp, ip, .. }) => {
                    if let Some(regs) = self.read_waiting(target, at, sp, ip)? {
                        return Ok(regs);
                    }
                    at = procfs::syscall(target.tid);
                }
                // One that was woken, but has no CPU yet, counts as running, and is still in its system call.
                Some(Syscall::Running) => {
                    if !runs(target.tid) {
                        return Err(Outcome::Timeout);
                    }
                    at = procfs::syscall(target.tid);
                    if at == Some(Syscall::Running) {
                        return self.ask(target);
                    }
                }
            }
        }
        Err(Outcome::Moved)
    }

    /// Has a running thread copy its stack itself.
    fn ask(&mut self, target: Target) -> Result<Regs, Outcome> {
        let (low, high) = target.stack;
        match signal::copy(target.tid, low, high, &mut self.stack) {
            Ok(regs) => Ok(regs),
            Err(signal::Failure::Timeout) => Err(Outcome::Timeout),
            Err(signal::Failure::Elsewhere) => Err(Outcome::Elsewhere),
            Err(signal::Failure::Unavailable) => Err(Outcome::Unavailable),
        }
    }

    /// Reads the stack of a thread that waits in the kernel; `None` when it moved meanwhile.
    fn read_waiting(&mut self, target: Target, at: Option<Syscall>, sp: u64, ip: u64) -> Result<Option<Regs>, Outcome> {
        let ran = procfs::ran(target.tid).ok_or(Outcome::Unavailable)?;
        let (low, high) = target.stack;
        if !(low as u64..high as u64).contains(&sp) {
            return Err(Outcome::Elsewhere);
        }
        let len = (high as u64 - sp).min(signal::MAX_STACK as u64) as usize;
        self.stack.resize(len, 0);
        if !memory::read(sp, &mut self.stack) {
            return Err(Outcome::Unavailable);
        }
        let unmoved = procfs::syscall(target.tid) == at && procfs::ran(target.tid) == Some(ran);
        let mut regs = [0; arch::REGS];
        regs[0] = ip;
        regs[arch::REGS - 1] = arch::UNKNOWN;
        Ok(unmoved.then(|| Regs::new(sp, regs)))
    }
}

/// Waits until a thread is on a CPU, for long enough to be out of a system call that it was woken in; whether it was given one.
fn runs(tid: i32) -> bool {
    let used = || crate::sys::thread_cpu_nanos(tid);
    let (Some(before), begin) = (used(), Instant::now()) else { return false };
    while begin.elapsed() < signal::PATIENCE {
        if used().is_some_and(|now| now >= before + WARM) {
            return true;
        }
        if begin.elapsed() > SPIN {
            std::thread::sleep(SPIN);
        }
    }
    false
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
