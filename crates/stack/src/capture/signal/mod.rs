//! Captures by a signal: the thread copies its own registers and stack, and does nothing else.
//!
//! One request is made at a time in the process. [`handler`] runs on the interrupted thread and
//! answers it. [`delivery`] records which threads the signal does not reach. This file is the
//! requester's side.

mod delivery;
mod handler;

pub(super) use delivery::degradation;
#[cfg(all(test, not(pollwatch_loom)))]
pub(super) use delivery::{IS_BLOCKED, IS_REPLACED};

use std::cell::UnsafeCell;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::arch::Regs;
use super::guard::lock_within;
use super::handshake::Ticket;
use crate::{CaptureError, Target, Tid};
use delivery::Delivery;
use handler::REQUEST;

/// The signal whose handler copies the stack. It is ignored by default, so that a stray one does no
/// harm. Go's runtime uses it to preempt goroutines for the same reason.
const SIGNAL: libc::c_int = libc::SIGURG;

/// The most bytes that are copied of a stack.
pub(super) const MAX_STACK: usize = 512 * 1024;

/// The time for a thread to enter its handler, before the request is withdrawn.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// The time for a handler that has started. It copies 512 KiB at most, but may be preempted.
const LONG_PATIENCE: Duration = Duration::from_millis(500);
/// The time for which another capture may hold the requester's lock: twice what it takes at most.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The number of polls of the answer without a pause.
const SPINS: u32 = 200;
/// The pause between two polls of the answer after that.
const PAUSE: Duration = Duration::from_micros(20);

/// The requester's side. The thread that holds its lock may make a request.
struct Requester {
    /// The copy. It is never freed, because a handler may be late.
    buffer: &'static [UnsafeCell<u8>],
    /// The number of the last request.
    sequence: u64,
    delivery: Delivery,
}

// SAFETY: handler and requester access the cells in turns, which `REQUEST.handshake` orders.
unsafe impl Send for Requester {}

/// Returns the one requester, with its handler installed; `None` where installing fails.
fn requester() -> Option<&'static Mutex<Requester>> {
    static REQUESTER: OnceLock<Option<Mutex<Requester>>> = OnceLock::new();
    REQUESTER
        .get_or_init(|| {
            // The bytes are not zero, so that every page is mapped before a handler writes to it.
            let buffer: Box<[UnsafeCell<u8>]> = (0..MAX_STACK).map(|_| UnsafeCell::new(1)).collect();
            let buffer: &'static [UnsafeCell<u8>] = Box::leak(buffer);
            REQUEST.buffer.store(UnsafeCell::raw_get(buffer.as_ptr()), Ordering::Release);
            let requester = Requester { buffer, sequence: 0, delivery: Delivery::default() };
            handler::install().then(|| Mutex::new(requester))
        })
        .as_ref()
}

/// Allocates the buffer and installs the handler, ahead of the first copy.
pub(super) fn preload() {
    requester();
}

/// Returns whether this process may send signals to its threads. It sends none (signal 0).
pub(super) fn may_be_sent() -> bool {
    let Some(own) = Tid::current() else { return false };
    send(own, 0)
}

/// Sends a signal to a thread of this process. Returns false when the thread has ended.
fn send(tid: Tid, signal: libc::c_int) -> bool {
    // SAFETY: tgkill takes three integers, which the kernel checks.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid.as_raw(), signal) == 0 }
}

/// Makes a thread of this process copy its stack into `stack`, from its stack pointer up.
pub(super) fn copy(target: Target, stack: &mut Vec<u8>) -> Result<Regs, CaptureError> {
    let requester = requester().ok_or(CaptureError::Unavailable)?;
    let mut requester = lock_within(requester, LOCK_PATIENCE).ok_or(CaptureError::Unavailable)?;
    if REQUEST.handshake.is_busy() {
        // The last thread was stopped in its handler, which owns the buffer until it ends.
        return Err(CaptureError::Unavailable);
    }
    let later = handler::later();
    if requester.delivery.is_futile(target.tid, later) {
        return Err(CaptureError::Unavailable);
    }
    requester.sequence = requester.sequence.wrapping_add(1);
    let ticket = Ticket::new(target.tid, requester.sequence);
    REQUEST.low.store(target.stack.low().get(), Ordering::Relaxed);
    REQUEST.high.store(target.stack.high().get(), Ordering::Relaxed);
    REQUEST.handshake.request(ticket);
    let withdraw = || REQUEST.handshake.withdraw(ticket);
    if !send(target.tid, SIGNAL) && withdraw() {
        return Err(CaptureError::Unavailable);
    }
    if !is_answered_within(PATIENCE) && withdraw() {
        return Err(requester.delivery.record_unanswered(target.tid, later));
    }
    if !is_answered_within(LONG_PATIENCE) {
        return Err(CaptureError::Timeout);
    }
    let len = REQUEST.len.load(Ordering::Relaxed);
    let regs = std::array::from_fn(|i| REQUEST.regs[i].load(Ordering::Relaxed));
    let regs = Regs::new(REQUEST.sp.load(Ordering::Relaxed), regs);
    stack.clear();
    // SAFETY: the request is answered, so the handler no longer uses the buffer. No handler can
    // claim it again before the next request, which needs the lock that is held here.
    stack.extend(requester.buffer[..len].iter().map(|byte| unsafe { *byte.get() }));
    REQUEST.handshake.close();
    requester.delivery.record_answered(target.tid);
    if len == 0 { Err(CaptureError::Elsewhere) } else { Ok(regs) }
}

fn is_answered_within(patience: Duration) -> bool {
    let start = Instant::now();
    let mut polls = 0u32;
    while !REQUEST.handshake.is_done() {
        if start.elapsed() >= patience {
            return false;
        }
        polls += 1;
        // A running thread handles the signal at once. Spinning does not help one that waits for a
        // CPU.
        if polls < SPINS { std::hint::spin_loop() } else { std::thread::sleep(PAUSE) }
    }
    true
}
