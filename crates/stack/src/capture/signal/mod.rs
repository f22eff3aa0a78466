//! Captures by a signal: the thread copies its own registers and stack, and does nothing else.
//!
//! [`handler`] runs on the interrupted thread and answers a request. [`delivery`] records which
//! threads the signal does not reach. [`slots`] owns the requests and their buffers. This file is
//! the requester's side.
//!
//! A thread that computes in a system call handles the signal when it returns to user mode. Its
//! request may stay [`Pending`] until then. A thread has at most one open request, and is not
//! signalled again as long as it has one.

mod delivery;
mod handler;
mod slots;

pub(super) use delivery::degradation;
#[cfg(target_arch = "x86_64")]
pub(super) use delivery::is_blocked;
#[cfg(all(test, not(pollwatch_loom)))]
pub(super) use delivery::{IS_BLOCKED, IS_REPLACED};

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::arch::Regs;
use super::guard::lock_within;
use super::handshake::Ticket;
use crate::{Activity, CaptureError, Target, Tid};
use delivery::{Delivery, SignalState};
use handler::{REQUESTS, Request};
use slots::Slots;

/// The signal whose handler copies the stack. It is ignored by default, so that a stray one does no
/// harm. Go's runtime uses it to preempt goroutines for the same reason.
const SIGNAL: libc::c_int = libc::SIGURG;

/// The most bytes that are copied of a stack.
pub(crate) const MAX_STACK: usize = 512 * 1024;

/// The number of requests that may stay pending at a time.
pub(super) const MAX_PENDING: usize = 8;
/// The number of requests. One is always left for a capture that is waited for.
const MAX_REQUESTS: usize = MAX_PENDING + 1;

/// The time for a thread to enter its handler, before the request is withdrawn.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// The time for a thread to answer, before the request stays pending.
const SHORT_PATIENCE: Duration = Duration::from_millis(1);
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
    slots: Slots,
    /// The number of the last request.
    sequence: u64,
    delivery: Delivery,
}

/// Locks the one requester, with its handler installed. `None` where installing fails, or where the
/// lock is not released in time.
fn requester() -> Option<MutexGuard<'static, Requester>> {
    requester_within(LOCK_PATIENCE)
}

fn requester_within(patience: Duration) -> Option<MutexGuard<'static, Requester>> {
    lock_within(installed()?, patience)
}

fn installed() -> Option<&'static Mutex<Requester>> {
    static REQUESTER: OnceLock<Option<Mutex<Requester>>> = OnceLock::new();
    REQUESTER
        .get_or_init(|| {
            let requester = Requester { slots: Slots::new(), sequence: 0, delivery: Delivery::default() };
            handler::install().then(|| Mutex::new(requester))
        })
        .as_ref()
}

/// Allocates the first buffer and installs the handler, ahead of the first copy.
pub(super) fn preload() {
    installed();
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

/// The answer to a request.
pub(super) struct Answer {
    pub(super) regs: Regs,
    /// The value of the thread's activity at the copy; 0 without one.
    pub(super) value: u64,
}

/// The result of a request that may stay pending.
pub(super) enum Requested {
    Answered(Answer),
    Pending(Pending),
}

/// A request whose thread has not answered yet. Dropping it withdraws the request.
pub(super) struct Pending {
    slot: usize,
    ticket: Ticket,
    /// The process that made the request.
    pid: u32,
}

/// Makes a thread of this process copy its stack into `stack`, from its stack pointer up. Where the
/// thread has an activity, a request that it does not answer at once stays pending.
pub(super) fn request(
    target: Target,
    activity: Option<&Activity>,
    stack: &mut Vec<u8>,
) -> Result<Requested, CaptureError> {
    let tid = target.tid;
    let mut requester = requester().ok_or(CaptureError::Unavailable)?;
    let later = handler::later();
    if requester.delivery.is_futile(tid, later, Instant::now()) {
        return Err(CaptureError::Unavailable);
    }
    requester.slots.reclaim();
    if requester.slots.has_open(tid) {
        return Err(CaptureError::Timeout);
    }
    let activity = activity.filter(|_| requester.slots.may_pend());
    requester.sequence = requester.sequence.wrapping_add(1);
    let ticket = Ticket::new(tid, requester.sequence);
    // Without a free request, threads are stopped in their handlers.
    let slot = requester.slots.occupy(tid, ticket, activity).ok_or(CaptureError::Unavailable)?;
    let request = &REQUESTS[slot];
    request.low.store(target.stack.low().get(), Ordering::Relaxed);
    request.high.store(target.stack.high().get(), Ordering::Relaxed);
    request.handshake.request(ticket);
    let withdraw = || request.handshake.withdraw(ticket);
    if !send(tid, SIGNAL) && withdraw() {
        requester.slots.free(slot);
        return Err(CaptureError::Unavailable);
    }
    if activity.is_some() && !is_answered_within(request, ticket, SHORT_PATIENCE) && delivery::is_pending(tid) {
        return Ok(Requested::Pending(Pending { slot, ticket, pid: std::process::id() }));
    }
    if !is_answered_within(request, ticket, PATIENCE) && withdraw() {
        requester.slots.free(slot);
        return Err(requester.delivery.record_unanswered(tid, later, SignalState::of(tid), Instant::now()));
    }
    if !is_answered_within(request, ticket, LONG_PATIENCE) {
        requester.slots.abandon(slot);
        return Err(CaptureError::Timeout);
    }
    requester.take(slot, ticket, tid, stack).map(Requested::Answered)
}

impl Requester {
    /// Takes the answer to a request, and frees the request.
    fn take(&mut self, slot: usize, ticket: Ticket, tid: Tid, stack: &mut Vec<u8>) -> Result<Answer, CaptureError> {
        let request = &REQUESTS[slot];
        debug_assert!(request.handshake.is_done(ticket), "only an answer is taken");
        let len = request.len.load(Ordering::Relaxed);
        let regs = std::array::from_fn(|i| request.regs[i].load(Ordering::Relaxed));
        let regs = Regs::new(request.sp.load(Ordering::Relaxed), regs);
        let value = request.value.load(Ordering::Relaxed);
        self.slots.copy_buffer(slot, len, stack);
        request.handshake.close();
        self.slots.free(slot);
        self.delivery.record_answered(tid);
        if len == 0 { Err(CaptureError::Elsewhere) } else { Ok(Answer { regs, value }) }
    }
}

impl Pending {
    /// Returns whether the thread has copied its stack.
    pub(super) fn is_answered(&self) -> bool {
        REQUESTS[self.slot].handshake.is_done(self.ticket)
    }

    /// Takes the answer. `stack` gets the copy of the stack.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Timeout`] when there is no answer yet. The request is withdrawn then.
    pub(super) fn take(self, stack: &mut Vec<u8>) -> Result<Answer, CaptureError> {
        let mut requester = requester().ok_or(CaptureError::Unavailable)?;
        match requester.slots.holder(self.slot, self.ticket) {
            Some(tid) if self.is_answered() => {
                let answer = requester.take(self.slot, self.ticket, tid, stack);
                // The request is free now, and may be in use by another thread soon.
                std::mem::forget(self);
                answer
            }
            _ => {
                // `self` takes the lock when it is dropped.
                drop(requester);
                Err(CaptureError::Timeout)
            }
        }
    }

    /// Withdraws the request. `patience` is the time for which another capture may hold the
    /// requester's lock: after that, the next request frees this one.
    fn withdraw_within(&self, patience: Duration) {
        // A forked child has a copy of its parent's requests, which it reclaims.
        if self.pid != std::process::id() {
            return;
        }
        match requester_within(patience) {
            Some(mut requester) => requester.slots.cancel(self.slot, self.ticket),
            None => slots::give_up(self.slot, self.ticket),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.withdraw_within(LOCK_PATIENCE);
    }
}

fn is_answered_within(request: &Request, ticket: Ticket, patience: Duration) -> bool {
    let start = Instant::now();
    let mut polls = 0u32;
    while !request.handshake.is_done(ticket) {
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

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Makes a request to this thread, for which no signal is sent.
    fn pending(number: u64) -> Pending {
        let tid = Tid::current().unwrap();
        let mut requester = requester().unwrap();
        let ticket = Ticket::new(tid, number);
        let slot = requester.slots.occupy(tid, ticket, None).unwrap();
        REQUESTS[slot].handshake.request(ticket);
        Pending { slot, ticket, pid: std::process::id() }
    }

    #[test]
    fn a_request_that_is_dropped_while_the_lock_is_held_is_freed() {
        let pending = pending(1 << 29);
        let (slot, ticket) = (pending.slot, pending.ticket);
        let mut requester = requester().unwrap();
        // A dropped request has more patience, and other tests would wait for the lock meanwhile.
        pending.withdraw_within(Duration::ZERO);
        std::mem::forget(pending);
        assert!(requester.slots.holder(slot, ticket).is_some(), "only the next request may free it");
        requester.slots.reclaim();
        assert_eq!(requester.slots.holder(slot, ticket), None);
    }

    #[test]
    fn a_request_of_the_parent_process_is_not_withdrawn_by_a_child() {
        let mut of_parent = pending(1 << 29 | 1);
        of_parent.pid += 1;
        let (slot, ticket) = (of_parent.slot, of_parent.ticket);
        drop(of_parent);
        let mut requester = requester().unwrap();
        assert!(requester.slots.holder(slot, ticket).is_some());
        requester.slots.cancel(slot, ticket);
        assert_eq!(requester.slots.holder(slot, ticket), None);
    }
}
