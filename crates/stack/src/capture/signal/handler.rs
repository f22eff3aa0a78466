//! The signal handler, and the requests that it answers.
//!
//! The handler checks who sent the signal, finds the request to its thread, claims it by one
//! compare-and-swap ([`Handshake`]), copies plain memory into a buffer that was allocated and
//! touched before, and answers. The kernel copies, by `process_vm_readv`, so that no address can be
//! wrong enough to fault; it waits while another thread changes the mappings. Only where that call
//! is filtered does the handler copy by itself. It takes no lock of the process, allocates nothing,
//! touches no thread-local variable but `errno` (which it restores), and unwinds nothing.

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::super::handshake::Handshake;
use super::super::{arch, memory};
use super::{MAX_REQUESTS, MAX_STACK, SIGNAL};
use crate::StackBounds;

/// A request. The requester writes it, the handler that has claimed it writes the answer, and
/// the requester reads the answer.
pub(super) struct Request {
    /// The state machine that orders these accesses.
    pub(super) handshake: Handshake<AtomicU64>,
    /// The bounds of the thread's stack. The handler copies nothing from outside. With
    /// [`StackBounds::UNKNOWN`] the copy ends where no memory is.
    pub(super) low: AtomicU64,
    pub(super) high: AtomicU64,
    pub(super) buffer: AtomicPtr<u8>,
    /// The word of the thread's [`Activity`](crate::Activity), or null.
    pub(super) activity: AtomicPtr<AtomicU64>,
    /// The value of that word at the copy.
    pub(super) value: AtomicU64,
    /// The number of bytes copied; 0 when the stack pointer was outside the bounds.
    pub(super) len: AtomicUsize,
    pub(super) sp: AtomicU64,
    pub(super) regs: [AtomicU64; arch::REGS],
}

impl Request {
    const fn new() -> Request {
        Request {
            handshake: Handshake::new(AtomicU64::new(0)),
            low: AtomicU64::new(0),
            high: AtomicU64::new(0),
            buffer: AtomicPtr::new(std::ptr::null_mut()),
            activity: AtomicPtr::new(std::ptr::null_mut()),
            value: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            sp: AtomicU64::new(0),
            regs: [const { AtomicU64::new(0) }; arch::REGS],
        }
    }
}

/// All requests. At most one at a time is open to a thread.
pub(super) static REQUESTS: [Request; MAX_REQUESTS] = [const { Request::new() }; MAX_REQUESTS];

/// The handler that was installed before this one.
///
/// It is called for every signal, since the kernel may merge two signals of different senders into
/// one. A superfluous call harms no user of `SIGURG`; a missing one may.
static EARLIER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// Installs the handler. Returns whether that succeeded.
pub(super) fn install() -> bool {
    // SAFETY: `action` and `earlier` are valid for the calls. The handler is an `extern "C"`
    // function with the three arguments that SA_SIGINFO asks for, and lives as long as the process.
    // The earlier handler is read by itself first, so that a signal in between finds it.
    unsafe {
        let mut earlier: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(SIGNAL, std::ptr::null(), &mut earlier) != 0 {
            return false;
        }
        remember(&earlier);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        if libc::sigaction(SIGNAL, &action, &mut earlier) != 0 {
            return false;
        }
        // Another handler may have been installed since the first call. Then that one is the
        // earlier.
        remember(&earlier);
        true
    }
}

/// Returns the handler that has replaced this one since, if any.
pub(super) fn later() -> Option<usize> {
    // SAFETY: `now` is valid for the write; nothing is installed.
    let now = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(SIGNAL, std::ptr::null(), &mut now) == 0).then_some(now.sa_sigaction)?
    };
    (now != handler as *const () as usize).then_some(now)
}

fn remember(earlier: &libc::sigaction) {
    EARLIER.store(earlier.sa_sigaction, Ordering::Release);
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of errno is valid on every thread, also in a handler.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes valid pointers to a handler with three arguments.
    unsafe { answer(info, context) };
    // SAFETY: as above; these are the arguments that this handler was called with.
    unsafe { chain(signal, info, context) };
    // SAFETY: as for the read.
    unsafe { *libc::__errno_location() = errno };
}

/// Copies registers and stack, if the signal was sent by this process and a request is for this
/// thread.
///
/// # Safety
///
/// The pointers are those that the kernel passed to the handler.
unsafe fn answer(info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `info` is valid; si_pid is set for a signal that tgkill sent. getpid and gettid are
    // async-signal-safe.
    let (sent_by_us, tid) = unsafe {
        let sent_by_us = (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        (sent_by_us, libc::syscall(libc::SYS_gettid) as u64)
    };
    if !sent_by_us {
        return;
    }
    let claim = |request: &'static Request| Some((request, request.handshake.claim(tid)?));
    let Some((request, ticket)) = REQUESTS.iter().find_map(claim) else { return };
    // SAFETY: the kernel passes a valid ucontext to a handler with three arguments.
    let (sp, regs) = unsafe { arch::from_context(context.cast()) };
    let (low, high) = (request.low.load(Ordering::Relaxed), request.high.load(Ordering::Relaxed));
    let are_bounds_known = high != StackBounds::UNKNOWN.high().get();
    let limit = match are_bounds_known {
        false => MAX_STACK,
        true if (low..high).contains(&sp) => ((high - sp) as usize).min(MAX_STACK),
        true => 0,
    };
    // SAFETY: the buffer has MAX_STACK bytes, which were written before, and belongs to the handler
    // while the request is claimed.
    let buffer = unsafe { std::slice::from_raw_parts_mut(request.buffer.load(Ordering::Relaxed), limit) };
    // The bounds may be those of an earlier thread with this id, whose stack was at the same
    // addresses. The kernel copies only what is mapped.
    let len = match memory::by_syscall(sp, buffer) {
        Some(len) => len,
        None if are_bounds_known => {
            // SAFETY: `sp..high` lies within this thread's own stack, which is mapped from its
            // stack pointer up. The bytes are copied by the machine, not by the language: other
            // threads may write to what they have borrowed of this stack meanwhile, and then either
            // value is copied.
            unsafe { arch::copy(sp as *const u8, buffer.as_mut_ptr(), limit) };
            limit
        }
        None => 0,
    };
    for (cell, reg) in request.regs.iter().zip(regs) {
        cell.store(reg, Ordering::Relaxed);
    }
    // SAFETY: the requester keeps the word in memory as long as the request may be claimed, and
    // until it has been answered.
    let value =
        unsafe { request.activity.load(Ordering::Relaxed).as_ref() }.map_or(0, |word| word.load(Ordering::Relaxed));
    request.value.store(value, Ordering::Relaxed);
    request.sp.store(sp, Ordering::Relaxed);
    request.len.store(len, Ordering::Relaxed);
    request.handshake.answer(ticket);
}

/// Calls the earlier handler.
///
/// # Safety
///
/// The arguments are those that the kernel passed to the handler.
unsafe fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let action = EARLIER.load(Ordering::Acquire);
    if action == libc::SIG_DFL || action == libc::SIG_IGN {
        return;
    }
    // SAFETY: `action` is the handler that was installed before. A handler with one argument
    // ignores the other two: on x86_64 and aarch64 they are in registers, and the kernel passes
    // them to every handler as well.
    unsafe {
        let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(action);
        call(signal, info, context);
    }
}
