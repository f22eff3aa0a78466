//! Captures: a thread's stack is copied at no risk to the thread, and unwound by the caller.
//!
//! The stack of a waiting thread is read through the kernel ([`memory`]). A running thread copies
//! its stack itself, in a signal handler that does nothing else ([`signal`]). A thread that
//! computes in the kernel does so when it returns to user mode ([`pending`]). Unwinding
//! ([`unwind`]) and symbolization ([`symbolizer`]) happen on the calling thread.

mod arch;
mod capability;
mod functions;
mod guard;
mod handshake;
#[cfg(target_arch = "x86_64")]
mod held_locks;
#[cfg(not(target_arch = "x86_64"))]
#[path = "held_locks_off.rs"]
mod held_locks;
pub(crate) mod little_endian;
mod mappings;
mod memory;
mod memory_files;
mod memory_work;
mod module_file;
mod modules;
mod other_memory;
mod pending;
mod raw;
#[cfg(target_arch = "aarch64")]
mod return_address;
#[cfg(not(target_arch = "aarch64"))]
#[path = "return_address_off.rs"]
mod return_address;
mod signal;
mod symbolizer;
mod unwind;
pub(crate) mod waiting;

pub use capability::{capability, degradation};
pub(crate) use functions::search_all;
pub use functions::{ModuleFunctions, find_functions};
pub use held_locks::{LockSearch, ThreadLocks};
pub use modules::hold_unwind_tables;
pub use pending::{Capture, PendingCapture};
pub use raw::RawStack;
pub use symbolizer::Symbolizer;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use arch::{Regs, SyscallReturn};
use guard::catches_panic;
use mappings::Mappings;
pub(crate) use modules::{LoadedObject, Modules, ObjectFiles, ObjectOwner, OtherOwner, ProgramHeader};
pub(crate) use other_memory::{OtherMemory, StoppedMemory};
pub(crate) use signal::MAX_STACK;
pub(crate) use unwind::ReadCode;
use unwind::{Chain, Source, StackCopy};
use waiting::WaitingThread;

use crate::procfs::{self, ProcessFolder, SyscallState};
use crate::{Activity, Address, CaptureError, Frame, Target, Tid};

/// The number of attempts to read a waiting thread that moves. Then the capture fails.
const ATTEMPTS: usize = 3;
/// The CPU time within which a thread that was woken has returned from its system call.
const RETURN_FROM_SYSCALL: Duration = Duration::from_micros(10);
/// The time for which a thread's CPU time is polled without a pause, and the length of each pause
/// after that.
const SPIN: Duration = Duration::from_micros(30);

/// Reads the unwind tables of all loaded modules and installs the signal handler.
///
/// Without it the first capture does both, which takes some milliseconds, or more for large
/// binaries. A capture on another thread waits for the tables meanwhile, after it has its copy.
///
/// ```
/// // Captures come soon: a thread reads the tables now.
/// std::thread::spawn(pollwatch_stack::preload);
/// ```
pub fn preload() {
    catches_panic(|| {
        signal::preload();
        drop(Modules::current());
    });
}

/// Returns whether the unwind tables have been read. It does not block while another thread reads
/// them, and returns false then.
///
/// ```
/// pollwatch_stack::preload();
/// assert!(pollwatch_stack::is_preloaded());
/// ```
pub fn is_preloaded() -> bool {
    modules::are_read()
}

/// Captures stacks. It keeps the buffer of the last copy, of 512 KiB at most.
///
/// Several may exist. Running threads are captured one at a time in the whole process.
#[derive(Default)]
pub struct Capturer {
    copy: Vec<u8>,
    boundary: Option<fn(&Frame) -> bool>,
    mappings: Mappings,
}

impl std::fmt::Debug for Capturer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capturer").field("has_boundary", &self.boundary.is_some()).finish_non_exhaustive()
    }
}

impl Capturer {
    /// Makes a capturer. The first capture installs the handler and reads the tables.
    pub fn new() -> Capturer {
        Capturer::default()
    }

    /// Sets the function that recognises the boundary between a runtime and the user's code, for
    /// all stacks of this capturer; see [`Stack::new`](crate::Stack::new). By default there is
    /// none.
    ///
    /// ```
    /// use pollwatch_stack::{Capturer, Frame};
    ///
    /// fn is_poll(frame: &Frame) -> bool {
    ///     frame.function.as_deref() == Some("executor::poll")
    /// }
    ///
    /// let capturer = Capturer::new().with_boundary(is_poll);
    /// # drop(capturer);
    /// ```
    #[must_use]
    pub fn with_boundary(mut self, is_boundary: fn(&Frame) -> bool) -> Capturer {
        self.boundary = Some(is_boundary);
        self
    }

    /// Captures the stack of a thread that runs or waits.
    ///
    /// The calling thread cannot capture itself, because its stack changes while it is read; use
    /// `std::backtrace` there.
    ///
    /// # Errors
    ///
    /// Every [`CaptureError`] may occur. After [`Moved`](CaptureError::Moved) and
    /// [`Timeout`](CaptureError::Timeout) another attempt may succeed.
    ///
    /// # Cost
    ///
    /// A waiting thread is not disturbed. A running one handles a signal and copies its stack, 512
    /// KiB of it at most. A system call that it enters at this very moment may fail with `EINTR` or
    /// transfer less. The caller waits up to 5 ms for a thread without a CPU, and up to 500 ms for
    /// a handler that was preempted.
    ///
    /// # Examples
    ///
    /// See the [crate](crate).
    pub fn capture(&mut self, target: Target) -> Result<RawStack, CaptureError> {
        self.capture_if_current(target, procfs::syscall(target.tid), || true)
    }

    /// Captures the stack of a thread that was observed in `state`, while `is_current` holds.
    ///
    /// `is_current` is called once, after the copy was made. It returns whether the thread is still
    /// doing what the caller wants to know about. If not, the copy is dropped. So every stack that
    /// is returned belongs to that activity.
    ///
    /// ```
    /// use pollwatch_stack::{Capturer, CaptureError, Target, procfs};
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::sync::mpsc;
    ///
    /// static JOB: AtomicU64 = AtomicU64::new(0); // the number of the thread's current job
    ///
    /// let (send, receive) = mpsc::channel();
    /// std::thread::spawn(move || {
    ///     send.send(Target::current()).unwrap();
    ///     std::thread::sleep(std::time::Duration::from_secs(60));
    /// });
    /// if let Some(target) = receive.recv()? {
    ///     let job = JOB.load(Ordering::Relaxed);
    ///     let state = procfs::syscall(target.tid);
    ///     let is_current = || JOB.load(Ordering::Relaxed) == job;
    ///     match Capturer::new().capture_if_current(target, state, is_current) {
    ///         Ok(raw) => println!("job {job} is {} calls deep", raw.addresses().len()),
    ///         Err(CaptureError::Moved) => println!("job {job} has ended"),
    ///         Err(error) => println!("no stack: {error}"),
    ///     }
    /// }
    /// # Ok::<(), mpsc::RecvError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`capture`](Self::capture). Without a `state` it is [`CaptureError::Unavailable`], since
    /// a signal might interrupt a system call.
    pub fn capture_if_current(
        &mut self,
        target: Target,
        state: Option<SyscallState>,
        is_current: impl Fn() -> bool,
    ) -> Result<RawStack, CaptureError> {
        match self.copy(target, state, None)? {
            Copied::Now(regs) if is_current() => self.unwind(regs),
            Copied::Now(_) => Err(CaptureError::Moved),
            Copied::Pending(_) => Err(CaptureError::Timeout),
        }
    }

    /// Unwinds the copy in the buffer.
    fn unwind(&self, regs: Regs) -> Result<RawStack, CaptureError> {
        // The tables belong to modules of any origin. A malformed one may make the reader panic,
        // which must not reach the caller.
        let mut modules = None;
        catches_panic(|| modules = Some(Modules::current()));
        let modules = modules.ok_or(CaptureError::Unavailable)?;
        unwind_copy(modules, &self.copy, regs, &memory::read, self.boundary)
    }

    /// Returns whether the latest copy of a stack has a word, such as the address of a value that
    /// is in use, within a call. `call` is the call's address, as [`RawStack::addresses`] returns
    /// it: the last byte of the call instruction. False before the first capture.
    ///
    /// The call's part of the stack ends with its return address. If that is found more than once,
    /// the smaller part is searched. A function that a signal has interrupted is in no call and has
    /// no such part, so the result is false for its address.
    ///
    /// ```
    /// use pollwatch_stack::{Address, Capturer};
    ///
    /// assert!(!Capturer::new().copy_contains(Address::new(4096), 7));
    /// ```
    pub fn copy_contains(&self, call: Address, word: u64) -> bool {
        let words = self.copy.chunks_exact(size_of::<u64>());
        let mut words = words.map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
        let return_address = call.get() + 1;
        let mut is_found = false;
        // Where the return address is not on the stack, the part is unknown.
        words.any(|found| {
            is_found |= found == word;
            found == return_address
        }) && is_found
    }

    /// Copies the stack into the buffer and returns the registers. With an activity, the copy may
    /// stay pending.
    fn copy(
        &mut self,
        target: Target,
        mut state: Option<SyscallState>,
        activity: Option<&Activity>,
    ) -> Result<Copied, CaptureError> {
        for _ in 0..ATTEMPTS {
            match state {
                // The thread may be in a system call, which a signal would interrupt.
                None => {
                    capability::record_unread();
                    return Err(CaptureError::Unavailable);
                }
                Some(SyscallState::Waiting { .. }) => {
                    if let Some(regs) = self.read_waiting(target, state)? {
                        return Ok(Copied::Now(regs));
                    }
                    state = procfs::syscall(target.tid);
                }
                // A thread that was woken and has no CPU yet counts as running, and is still in its
                // system call.
                Some(SyscallState::Running) => {
                    if !uses_cpu(target.tid) {
                        return Err(CaptureError::Timeout);
                    }
                    state = procfs::syscall(target.tid);
                    if state == Some(SyscallState::Running) {
                        return self.copy_by_signal(target, activity);
                    }
                }
            }
        }
        Err(CaptureError::Moved)
    }

    /// Reads the stack of a thread that waits in the kernel; `None` when it moved meanwhile.
    fn read_waiting(&mut self, target: Target, state: Option<SyscallState>) -> Result<Option<Regs>, CaptureError> {
        let mut thread = WaitingThread {
            folder: ProcessFolder::OWN,
            tid: target.tid,
            state,
            stack_at: &mut |_| Some(target.stack),
            read_prefix: &memory::read_prefix,
            copy: &mut self.copy,
        };
        waiting::copy_once(&mut thread, target.stack)
    }

    /// Makes a running thread copy its stack itself.
    fn copy_by_signal(&mut self, target: Target, activity: Option<&Activity>) -> Result<Copied, CaptureError> {
        Ok(match signal::request(target, activity, &mut self.copy)? {
            signal::Requested::Answered(answer) => Copied::Now(answer.regs),
            signal::Requested::Pending(pending) => Copied::Pending(pending),
        })
    }
}

/// Unwinds the copy of a stack, with the modules and the code of its process.
pub(crate) fn unwind_copy(
    modules: Arc<Modules>,
    copy: &[u8],
    regs: Regs,
    code: ReadCode<'_>,
    boundary: Option<fn(&Frame) -> bool>,
) -> Result<RawStack, CaptureError> {
    let source = Source { modules: &modules, stack: StackCopy { start: regs.sp, bytes: copy }, code };
    let mut chain = Chain::default();
    if catches_panic(|| chain = unwind::unwind(&source, regs)) {
        return Err(CaptureError::Unavailable);
    }
    Ok(RawStack { chain, modules, boundary })
}

/// A copy of a stack, or the request for one.
enum Copied {
    /// The copy is in the buffer. These are the registers.
    Now(Regs),
    Pending(signal::Pending),
}

/// Waits until a thread has run for long enough to have left a system call that it was woken in.
/// Returns whether it was given a CPU in time.
fn uses_cpu(tid: Tid) -> bool {
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
