//! The way in by a signal: the blocked thread copies its own registers and stack, and does nothing else.
//!
//! One request at a time in the process. The handler runs on the interrupted thread: it checks who sent the signal and whom it is
//! for, claims the request by one compare-and-swap, copies plain memory into a buffer that was made and touched before, and says
//! so (`handshake`). It takes no lock, allocates nothing, touches no thread-local but `errno` (which it puts back), and unwinds nothing.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::arch::{self, Regs};
use super::handshake::{Handshake, Ticket};
use crate::detect::procfs;
use crate::util::lock;

/// Ignored by default, and what others use for such purposes (Go's runtime preempts by it): a stray one does no harm.
const SIGNAL: libc::c_int = libc::SIGURG;

/// The most that is copied of a stack.
pub(super) const MAX_STACK: usize = 512 * 1024;

/// How long a thread may take to get to its handler, before the request is withdrawn.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// How long a handler that has begun may take: it copies half a megabyte at most, but may lose its CPU meanwhile.
const LONG_PATIENCE: Duration = Duration::from_millis(500);

/// The one request. Written by the requester before it is made, by the handler that has claimed it, read by the requester when it is
/// answered.
struct Request {
    turn: Handshake<AtomicU64>,
    /// The stack's bounds: the handler copies nothing from elsewhere.
    low: AtomicUsize,
    high: AtomicUsize,
    buffer: AtomicPtr<u8>,
    len: AtomicUsize,
    sp: AtomicU64,
    regs: [AtomicU64; arch::REGS],
}

static REQUEST: Request = Request {
    turn: Handshake::new(AtomicU64::new(0)),
    low: AtomicUsize::new(0),
    high: AtomicUsize::new(0),
    buffer: AtomicPtr::new(std::ptr::null_mut()),
    len: AtomicUsize::new(0),
    sp: AtomicU64::new(0),
    regs: [const { AtomicU64::new(0) }; arch::REGS],
};

/// The handler that was installed before ours. It is called for every signal: theirs and ours may arrive as one, and one too many
/// harms nobody who uses this signal, while one too few may.
static EARLIER: Earlier = Earlier { action: AtomicUsize::new(libc::SIG_DFL), takes_info: AtomicU32::new(0) };

struct Earlier {
    action: AtomicUsize,
    takes_info: AtomicU32,
}

/// The requester's side: whoever holds it may make a request.
struct Requester {
    /// Never freed: a handler may come late.
    buffer: &'static [UnsafeCell<u8>],
    /// Counts the requests.
    sequence: u64,
    /// The handler in ours' place that left the last requests unanswered, and how many.
    silent: (usize, u32),
    /// Threads that were found to block the signal, and how often in a row.
    deaf: HashMap<i32, u32>,
}

/// A handler that was installed after ours may hand on to it: after so many requests in a row without an answer it does not.
const SILENT: u32 = 3;
/// A thread may block the signal for a moment (in another handler, while it starts a thread): so often in a row it does for good.
const DEAF: u32 = 2;
/// Threads remembered as deaf.
const MAX_DEAF: usize = 4096;

/// Whether a handler that ends with the signal is in ours' place now, and whether a thread was ever found to block it.
static REPLACED: AtomicBool = AtomicBool::new(false);
static BLOCKED: AtomicBool = AtomicBool::new(false);

pub(super) const IS_REPLACED: &str =
    "a handler of SIGURG, by which a running thread is asked, was installed later and does not hand on to ours";
pub(super) const IS_BLOCKED: &str = "some threads block SIGURG, by which a running thread is asked";

/// Why the signal does not arrive, at some threads at least; `None` as long as it does.
pub(super) fn hindrance() -> Option<&'static str> {
    if REPLACED.load(Ordering::Relaxed) {
        return Some(IS_REPLACED);
    }
    BLOCKED.load(Ordering::Relaxed).then_some(IS_BLOCKED)
}

impl Requester {
    /// Whether a request to a thread would be in vain. `later` is the handler in ours' place.
    fn is_vain(&mut self, tid: i32, later: Option<usize>) -> bool {
        let ends_with_it = |later| later == libc::SIG_DFL || later == libc::SIG_IGN || self.silent == (later, SILENT);
        if later.is_some_and(ends_with_it) {
            REPLACED.store(true, Ordering::Relaxed);
            return true;
        }
        if self.deaf.get(&tid).is_none_or(|&times| times < DEAF) {
            return false;
        }
        let deaf = procfs::keeps_waiting(tid, SIGNAL);
        if !deaf {
            self.deaf.remove(&tid);
        }
        deaf
    }

    /// A request was not answered in time: why?
    fn unanswered(&mut self, tid: i32, later: Option<usize>) -> Failure {
        if procfs::keeps_waiting(tid, SIGNAL) {
            if self.deaf.len() >= MAX_DEAF {
                self.deaf.clear();
            }
            let times = self.deaf.entry(tid).or_default();
            *times = (*times + 1).min(DEAF);
            if *times == DEAF {
                BLOCKED.store(true, Ordering::Relaxed);
                return Failure::Unavailable;
            }
            return Failure::Timeout;
        }
        let Some(later) = later else { return Failure::Timeout };
        let before = if self.silent.0 == later { self.silent.1 } else { 0 };
        self.silent = (later, (before + 1).min(SILENT));
        Failure::Timeout
    }

    fn answered(&mut self, tid: i32) {
        self.silent = (0, 0);
        self.deaf.remove(&tid);
        REPLACED.store(false, Ordering::Relaxed);
    }
}

/// Why there is no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The thread did not get to its handler in time.
    Timeout,
    /// The thread runs on a stack that is not its own (a coroutine's, a grown one).
    Elsewhere,
    /// No handler could be installed, the signal does not arrive at it, or the thread is gone.
    Unavailable,
}

/// The one requester, with its handler installed; `None` where that cannot be done.
fn requester() -> Option<&'static Mutex<Requester>> {
    static REQUESTER: OnceLock<Option<Mutex<Requester>>> = OnceLock::new();
    REQUESTER
        .get_or_init(|| {
            // Filled, so that every page is there before a handler writes to it.
            let buffer: Box<[UnsafeCell<u8>]> = (0..MAX_STACK).map(|_| UnsafeCell::new(1)).collect();
            let buffer: &'static [UnsafeCell<u8>] = Box::leak(buffer);
            REQUEST.buffer.store(UnsafeCell::raw_get(buffer.as_ptr()), Ordering::Release);
            install().then(|| Mutex::new(Requester { buffer, sequence: 0, silent: (0, 0), deaf: HashMap::new() }))
        })
        .as_ref()
}

fn install() -> bool {
    // SAFETY: `action` and `earlier` are valid for the calls; the handler is an `extern "C"` function of the three-argument kind
    // that SA_SIGINFO asks for, and lives as long as the process. The earlier handler is kept before ours can run: it is read
    // first by itself, so that a signal in between finds it.
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
        // Should somebody have installed another in between, it is that one.
        remember(&earlier);
        true
    }
}

/// The handler in ours' place, should another have been installed since.
fn later() -> Option<usize> {
    // SAFETY: `now` is a valid place to write to; nothing is installed.
    let now = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(SIGNAL, std::ptr::null(), &mut now) == 0).then_some(now.sa_sigaction)?
    };
    (now != handler as *const () as usize).then_some(now)
}

fn remember(earlier: &libc::sigaction) {
    EARLIER.takes_info.store(u32::from(earlier.sa_flags & libc::SA_SIGINFO != 0), Ordering::Relaxed);
    EARLIER.action.store(earlier.sa_sigaction, Ordering::Release);
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno's place is valid on every thread, also in a handler.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel hands valid pointers to a three-argument handler.
    unsafe { answer(info, context) };
    // SAFETY: as above, and these are the arguments that we were called with.
    unsafe { chain(signal, info, context) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Copies, if this signal is a request of ours to this thread.
unsafe fn answer(info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `info` is valid; for a signal sent by tgkill, si_pid is there. getpid and gettid are async-signal-safe.
    let (ours, tid) = unsafe {
        let sent_by_us = (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        (sent_by_us, libc::syscall(libc::SYS_gettid) as u64)
    };
    if !ours {
        return;
    }
    let Some(ticket) = REQUEST.turn.claim(tid) else { return };
    // SAFETY: the kernel hands a valid ucontext to a three-argument handler.
    let (sp, regs) = unsafe { arch::from_context(context.cast()) };
    let (low, high) = (REQUEST.low.load(Ordering::Relaxed), REQUEST.high.load(Ordering::Relaxed));
    let mut len = 0;
    if (low..high).contains(&(sp as usize)) {
        len = (high - sp as usize).min(MAX_STACK);
        // SAFETY: `sp..high` lies within this thread's own stack, which is mapped from its stack pointer up. The buffer has
        // MAX_STACK bytes and belongs to the handler while the request is claimed. The bytes are copied by the machine, not by the
        // language: other threads may write what they have borrowed of this stack meanwhile, and then either value is copied.
        unsafe { arch::copy(sp as *const u8, REQUEST.buffer.load(Ordering::Relaxed), len) };
    }
    for (place, reg) in REQUEST.regs.iter().zip(regs) {
        place.store(reg, Ordering::Relaxed);
    }
    REQUEST.sp.store(sp, Ordering::Relaxed);
    REQUEST.len.store(len, Ordering::Relaxed);
    REQUEST.turn.answer(ticket);
}

unsafe fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let action = EARLIER.action.load(Ordering::Acquire);
    if action == libc::SIG_DFL || action == libc::SIG_IGN {
        return;
    }
    // SAFETY: `action` is the handler that was installed before ours, with the flag that says how it wants to be called.
    unsafe {
        if EARLIER.takes_info.load(Ordering::Relaxed) != 0 {
            let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(action);
            call(signal, info, context);
        } else {
            let call: extern "C" fn(libc::c_int) = std::mem::transmute(action);
            call(signal);
        }
    }
}

/// Whether this process may send itself signals, as far as that can be told without one.
pub(super) fn may_be_sent() -> bool {
    // SAFETY: integers; 0 is no signal, all else is checked.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), 0) == 0 }
}

/// Makes the buffer and installs the handler, so that the first copy does not wait for it.
pub(super) fn warm() {
    requester();
}

/// Has thread `tid` of this process copy its stack, from its stack pointer up to `high`. On the watchdog only.
pub(super) fn copy(tid: i32, low: usize, high: usize, stack: &mut Vec<u8>) -> Result<Regs, Failure> {
    let requester = requester().ok_or(Failure::Unavailable)?;
    let mut requester = lock(requester);
    if REQUEST.turn.is_busy() {
        // The thread was stopped in its handler. The buffer is its until then.
        return Err(Failure::Unavailable);
    }
    let later = later();
    if requester.is_vain(tid, later) {
        return Err(Failure::Unavailable);
    }
    requester.sequence = requester.sequence.wrapping_add(1);
    let ticket = Ticket::new(tid, requester.sequence);
    REQUEST.low.store(low, Ordering::Relaxed);
    REQUEST.high.store(high, Ordering::Relaxed);
    REQUEST.turn.request(ticket);
    // SAFETY: tgkill takes three integers; a thread that is gone makes it fail.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, SIGNAL) } == 0;
    let withdraw = || REQUEST.turn.withdraw(ticket);
    if !sent && withdraw() {
        return Err(Failure::Unavailable);
    }
    if !wait(PATIENCE) && withdraw() {
        return Err(requester.unanswered(tid, later));
    }
    if !wait(LONG_PATIENCE) {
        return Err(Failure::Timeout);
    }
    let len = REQUEST.len.load(Ordering::Relaxed);
    let regs =
        Regs::new(REQUEST.sp.load(Ordering::Relaxed), std::array::from_fn(|i| REQUEST.regs[i].load(Ordering::Relaxed)));
    stack.clear();
    // SAFETY: the request is answered (`wait`): the handler is through with the buffer, and no other can begin
    // before the next request, which needs the lock that is held here.
    stack.extend(requester.buffer[..len].iter().map(|byte| unsafe { *byte.get() }));
    REQUEST.turn.close();
    requester.answered(tid);
    if len == 0 { Err(Failure::Elsewhere) } else { Ok(regs) }
}

fn wait(patience: Duration) -> bool {
    let begin = Instant::now();
    let mut turns = 0u32;
    while !REQUEST.turn.is_done() {
        if begin.elapsed() >= patience {
            return false;
        }
        turns += 1;
        // A running thread takes the signal at once; one that has to be given a CPU first does not hurry for a busy waiter.
        if turns < 200 { std::hint::spin_loop() } else { std::thread::sleep(Duration::from_micros(20)) }
    }
    true
}

// SAFETY: the cells are written by the handler and read by the requester in turns, ordered by `REQUEST.turn`.
unsafe impl Send for Requester {}
