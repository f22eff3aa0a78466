//! Captures of waiting threads of which only the id is known.

use std::time::Duration;

use super::arch::{self, Regs};
use super::{ATTEMPTS, Capturer, RawStack, capability, memory, signal};
use crate::procfs::{ProcessFolder, SyscallState};
use crate::{Address, CaptureError, StackBounds, Tid};

/// The age up to which the mappings of the process are not read again. Many threads are captured
/// one after the other, and to read the mappings of 10,000 of them takes some 20 ms.
const MAX_AGE: Duration = Duration::from_secs(1);

impl Capturer {
    /// Captures the stack of a thread that waits in the kernel and was observed in `state`.
    ///
    /// No [`Target`](crate::Target) is needed: the stack is the memory mapping that contains the
    /// thread's stack pointer. The thread is not disturbed, and is never sent a signal.
    ///
    /// # Errors
    ///
    /// As [`capture`](Self::capture). It is [`CaptureError::Unavailable`] for a thread that runs.
    ///
    /// ```
    /// use pollwatch_stack::{Capturer, procfs};
    ///
    /// let mut capturer = Capturer::new();
    /// for tid in procfs::threads().unwrap_or_default() {
    ///     match capturer.capture_waiting(tid, procfs::syscall(tid)) {
    ///         Ok(raw) => println!("{tid}: {} calls", raw.addresses().len()),
    ///         Err(error) => println!("{tid}: {error}"),
    ///     }
    /// }
    /// ```
    pub fn capture_waiting(&mut self, tid: Tid, state: Option<SyscallState>) -> Result<RawStack, CaptureError> {
        if state.is_none() {
            capability::record_unread();
        }
        let Capturer { copy, mappings, .. } = self;
        let regs = copy_waiting(&mut WaitingThread {
            folder: ProcessFolder::OWN,
            tid,
            state,
            stack_at: &mut |sp| mappings.stack_at(sp, MAX_AGE),
            read_prefix: &memory::read_prefix,
            copy,
        })?;
        self.unwind(regs)
    }
}

/// A thread of this process or another one that waits in the kernel, and the ways to read it.
pub(crate) struct WaitingThread<'a> {
    pub(crate) folder: ProcessFolder,
    pub(crate) tid: Tid,
    /// The state in which the thread was observed.
    pub(crate) state: Option<SyscallState>,
    /// Finds the stack that contains an address.
    pub(crate) stack_at: &'a mut dyn FnMut(Address) -> Option<StackBounds>,
    pub(crate) read_prefix: &'a dyn Fn(u64, &mut [u8]) -> usize,
    /// The buffer for the copy of the stack.
    pub(crate) copy: &'a mut Vec<u8>,
}

/// Copies the stack of a waiting thread into its buffer, and returns the registers.
pub(crate) fn copy_waiting(thread: &mut WaitingThread<'_>) -> Result<Regs, CaptureError> {
    for _ in 0..ATTEMPTS {
        match thread.state {
            Some(SyscallState::Waiting { sp, .. }) => {
                let stack = (thread.stack_at)(sp).ok_or(CaptureError::Elsewhere)?;
                if let Some(regs) = copy_once(thread, stack)? {
                    return Ok(regs);
                }
                thread.state = thread.folder.syscall(thread.tid);
            }
            _ => return Err(CaptureError::Unavailable),
        }
    }
    Err(CaptureError::Moved)
}

/// Copies the stack of a thread that waits in the kernel; `None` when it moved meanwhile.
pub(super) fn copy_once(thread: &mut WaitingThread<'_>, stack: StackBounds) -> Result<Option<Regs>, CaptureError> {
    let (folder, tid, state) = (thread.folder, thread.tid, thread.state);
    let Some(SyscallState::Waiting { sp, ip, .. }) = state else { return Err(CaptureError::Unavailable) };
    let ran = folder.ran(tid).ok_or(CaptureError::Unavailable)?;
    if !stack.contains(sp) {
        return Err(CaptureError::Elsewhere);
    }
    let len = (stack.high().get() - sp.get()).min(signal::MAX_STACK as u64) as usize;
    thread.copy.resize(len, 0);
    // Bounds that are those of a mapping may contain the stacks above this one, with their guard
    // pages: glibc 2.42 marks those without dividing the mapping.
    let len = (thread.read_prefix)(sp.get(), thread.copy);
    thread.copy.truncate(len);
    if len == 0 {
        return Err(CaptureError::Unavailable);
    }
    let unmoved = folder.syscall(tid) == state && folder.ran(tid) == Some(ran);
    let mut regs = [arch::UNKNOWN; arch::REGS];
    regs[0] = ip.get();
    Ok(unmoved.then(|| Regs::new(sp.get(), regs)))
}

impl Capturer {
    /// Returns whether the latest copy has a word, such as the address of a value, in the memory
    /// beyond the stack's outermost call: where the thread was started, and, for a thread that is
    /// known by its id alone, its thread-local variables. `stack` is the stack of that copy.
    ///
    /// glibc keeps the thread-local variables of the program beside the stack of each thread but
    /// the main one. False for an incomplete stack, and for one of which only a part was copied.
    ///
    /// ```
    /// use pollwatch_stack::{Capturer, procfs};
    ///
    /// let (mut capturer, value) = (Capturer::new(), Box::new(7));
    /// for tid in procfs::threads().unwrap_or_default() {
    ///     let Ok(raw) = capturer.capture_waiting(tid, procfs::syscall(tid)) else { continue };
    ///     let address = std::ptr::from_ref(&*value) as u64;
    ///     println!("{tid}: {}", capturer.copy_contains_beyond(&raw, address));
    /// }
    /// ```
    pub fn copy_contains_beyond(&self, stack: &RawStack, word: u64) -> bool {
        let pointers = &stack.chain.stack_pointers;
        let (Some(&start), Some(&outermost)) = (pointers.first(), pointers.last()) else { return false };
        let beyond = outermost.checked_sub(start).and_then(|offset| self.copy.get(usize::try_from(offset).ok()?..));
        let mut words = beyond.unwrap_or_default().chunks_exact(size_of::<u64>());
        stack.is_complete() && words.any(|bytes| bytes == word.to_ne_bytes())
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::procfs;

    #[test]
    fn a_thread_that_is_known_by_its_id_alone() {
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(Tid::current().unwrap()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut capturer = Capturer::new();
        // The thread may wait for a moment before it parks.
        let is_parked = |raw: &RawStack| {
            let stack = crate::Symbolizer::shared().symbolize(raw);
            raw.is_complete() && stack.frames().iter().any(|frame| frame.name().contains("park"))
        };
        while !capturer.capture_waiting(tid, procfs::syscall(tid)).is_ok_and(|raw| is_parked(&raw)) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let own = Tid::current().unwrap();
        assert!(capturer.capture_waiting(own, procfs::syscall(own)).is_err(), "a thread cannot capture itself");
        let running = Some(SyscallState::Running);
        assert_eq!(capturer.capture_waiting(tid, running).unwrap_err(), CaptureError::Unavailable);
        thread.thread().unpark();
        thread.join().unwrap();
        assert!(capturer.capture_waiting(tid, procfs::syscall(tid)).is_err());
    }
}
