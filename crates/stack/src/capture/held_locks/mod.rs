//! The locks that a thread holds, by the guards on its stack.
//!
//! No lock of Rust's standard library records its owner. But a function that holds a guard has to
//! drop it when a call panics, and the tables that unwinding uses say where the code for that is.
//! So for each call on a stack, that code is found ([`releases`]), followed ([`walk`]), and what it
//! passes to the functions that drop guards ([`functions`]) is looked up in the frame: the guard's
//! location, which contains the address of its lock. A reference to a lock, or a guard that was
//! dropped before, has no such code and is not mistaken for a guard. While a function does what
//! cannot panic, it has no such code either. If its code acquires or releases locks, it is unknown
//! then whether it holds one ([`references`]).
//!
//! What cannot be found that way: guards on the heap, such as those in futures, guards nested more
//! than four values deep in a variable, and those of code compiled without unwinding.

mod functions;
mod instruction;
mod references;
mod releases;
mod waited;
mod walk;

use functions::{Layout, LockFunctions};
use instruction::Register;
use releases::{Doing, Release, ReleaseReader, TRACKED, TRACKED_DWARF};
use walk::Value;

use super::arch::{self, Regs, SavedRegs};
use super::guard::catches_panic;
use super::mappings::MAX_AGE;
use super::modules::{Modules, SavedRegister};
use super::unwind::StackCopy;
use super::{Capturer, Copied, RawStack, memory, signal};
use crate::procfs::SyscallState;
use crate::{Address, CaptureError, Frame, Holding, LockKind, LockRef, Stack, StackBounds, Target, Tid, procfs};

/// The most frames of one stack that are searched for guards.
const MAX_FRAMES: usize = 256;
/// The most words that one guard may be.
const MAX_WORDS: usize = 4;

/// Finds the locks that threads hold.
///
/// ```
/// use pollwatch_stack::{Holding, LockKind, LockRef, LockSearch, Target};
/// use std::sync::{Mutex, mpsc};
///
/// static MUTEX: Mutex<u8> = Mutex::new(0);
///
/// let (send, receive) = mpsc::channel();
/// std::thread::spawn(move || {
///     let guard = MUTEX.lock().unwrap();
///     send.send(Target::current()).unwrap();
///     std::thread::sleep(std::time::Duration::from_secs(60));
///     drop(guard);
/// });
/// if let Some(target) = receive.recv()? {
///     let address = pollwatch_stack::Address::of(&MUTEX);
///     let lock = LockRef { kind: LockKind::StdMutex, address };
///     match LockSearch::new().thread(target.tid, Some(target.stack)) {
///         Ok(thread) => println!("{:?}", thread.holds(lock)),
///         Err(error) => println!("unknown: {error}"),
///     }
/// }
/// # Ok::<(), mpsc::RecvError>(())
/// ```
#[derive(Default)]
pub struct LockSearch {
    capturer: Capturer,
    releases: ReleaseReader,
}

impl std::fmt::Debug for LockSearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockSearch").finish_non_exhaustive()
    }
}

/// A guard on the stack of a thread.
#[derive(Clone, Debug)]
struct HeldGuard {
    kind: LockKind,
    frame: usize,
    /// The words of which one is the address of the lock; `None` if they could not be read.
    words: Option<Vec<u64>>,
    is_certain: bool,
}

/// A thread, and the locks that it holds.
#[derive(Clone, Debug)]
pub struct ThreadLocks {
    state: Option<SyscallState>,
    stack: RawStack,
    guards: Vec<HeldGuard>,
    /// False if the thread may hold locks that were not found.
    is_complete: bool,
}

impl LockSearch {
    /// Makes a search that remembers no code yet.
    pub fn new() -> LockSearch {
        LockSearch::default()
    }

    /// Reads the symbols and the unwind tables that a search needs. Calls after the first only
    /// notice what was loaded since. Without it, the first search takes the time: some 50 ms for
    /// 100,000 symbols.
    ///
    /// ```
    /// // A search is expected soon, and its time is limited.
    /// pollwatch_stack::LockSearch::preload();
    /// ```
    pub fn preload() {
        catches_panic(|| {
            LockFunctions::get();
            references::preload(&Modules::current());
        });
    }

    /// Makes a search whose stacks have a boundary, as those of
    /// [`Capturer::with_boundary`].
    #[must_use]
    pub fn with_boundary(mut self, is_boundary: fn(&Frame) -> bool) -> LockSearch {
        self.capturer = self.capturer.with_boundary(is_boundary);
        self
    }

    /// Returns the lock that a thread with this stack waits for, in a futex at this address. `None`
    /// if it waits for anything else, or if the lock is not known.
    ///
    /// ```
    /// use pollwatch_stack::{Address, LockSearch, Stack};
    ///
    /// let stack = Stack::new(Vec::new(), true, |_| false);
    /// assert_eq!(LockSearch::waited_for(&stack, Address::new(4096)), None);
    /// ```
    pub fn waited_for(stack: &Stack, futex: Address) -> Option<LockRef> {
        waited::lock(stack, futex)
    }

    /// Returns whether a lock is held; `None` where its memory cannot be read.
    pub fn is_held(lock: LockRef) -> Option<bool> {
        waited::is_held(lock)
    }

    /// Returns the thread that holds a lock, where the lock itself records it: a
    /// [`Pthread`](LockKind::Pthread) mutex does.
    pub fn owner(lock: LockRef) -> Option<Tid> {
        waited::owner(lock)
    }

    /// Returns why no search can find anything in this process; `None` if searches work, as far as
    /// that is known. An executable without symbols is noticed by the first search, which reads
    /// them: some 50 ms for 100,000 symbols.
    ///
    /// ```
    /// if let Some(reason) = pollwatch_stack::LockSearch::unavailable() {
    ///     println!("holders of locks are unknown: {reason}");
    /// }
    /// ```
    pub fn unavailable() -> Option<&'static str> {
        if cfg!(panic = "abort") {
            return Some("panic = \"abort\" leaves no code that drops guards on a panic, by which they are found");
        }
        LockFunctions::is_known_to_be_empty().then_some("the executable has no symbols")
    }

    /// Captures the stack of a thread and finds the locks that it holds.
    ///
    /// A thread that waits in the kernel is read without being disturbed. One that runs gets a
    /// signal, as for a [capture](Capturer::capture), and only if its `stack` is known.
    ///
    /// # Errors
    ///
    /// As [`Capturer::capture`]. [`CaptureError::Unavailable`] also for a running thread whose
    /// stack is not known.
    ///
    /// The [type](LockSearch) has an example.
    pub fn thread(&mut self, tid: Tid, stack: Option<StackBounds>) -> Result<ThreadLocks, CaptureError> {
        let state = procfs::syscall(tid);
        let bounds = match (stack, state) {
            (Some(bounds), _) => bounds,
            (None, Some(SyscallState::Waiting { sp, .. })) => {
                self.capturer.mappings.stack_at(sp, MAX_AGE).ok_or(CaptureError::Elsewhere)?
            }
            (None, _) => return Err(CaptureError::Unavailable),
        };
        let target = Target { tid, stack: bounds };
        let regs = match state {
            // A thread that waits is read without a signal. If it runs by now, it may be anywhere:
            // the state above would no longer be that of the copy.
            Some(SyscallState::Waiting { .. }) => {
                self.capturer.read_waiting(target, state)?.ok_or(CaptureError::Moved)?
            }
            _ => match self.capturer.copy(target, state, None)? {
                Copied::Now(regs) => regs,
                Copied::Pending(_) => return Err(CaptureError::Timeout),
            },
        };
        let stack = self.capturer.unwind(regs)?;
        let mut thread = ThreadLocks { state, is_complete: stack.is_complete(), stack, guards: Vec::new() };
        let copy = std::mem::take(&mut self.capturer.copy);
        let has_panicked = catches_panic(|| self.find_guards(&mut thread, regs, &copy));
        self.capturer.copy = copy;
        thread.is_complete &= !has_panicked;
        Ok(thread)
    }

    /// Captures the stack of a thread of which nothing but the id is known.
    ///
    /// A thread that waits in the kernel is read without being disturbed. One that runs gets a
    /// signal, and has the kernel copy its stack.
    ///
    /// # Errors
    ///
    /// As [`Capturer::capture`]. [`CaptureError::Unavailable`] also for a running thread that
    /// blocks the signal, and where `process_vm_readv` is not permitted.
    ///
    /// ```
    /// use pollwatch_stack::{LockSearch, Symbolizer, procfs};
    ///
    /// let mut search = LockSearch::new();
    /// for tid in procfs::threads().unwrap_or_default() {
    ///     if let Ok(stack) = search.stack(tid) {
    ///         println!("{tid}: {}", Symbolizer::shared().symbolize(&stack));
    ///     }
    /// }
    /// ```
    pub fn stack(&mut self, tid: Tid) -> Result<RawStack, CaptureError> {
        // A thread cannot read its own stack. The handler must not make a call that is filtered.
        if Tid::current() == Some(tid) || !memory::is_read_by_syscall() {
            return Err(CaptureError::Unavailable);
        }
        let state = procfs::syscall(tid);
        // The thread may be one of another runtime, which never lets the signal through.
        if state == Some(SyscallState::Running) && signal::is_blocked(tid) {
            return Err(CaptureError::Unavailable);
        }
        let target = Target { tid, stack: StackBounds::UNKNOWN };
        match self.capturer.copy(target, state, None)? {
            Copied::Now(regs) => self.capturer.unwind(regs),
            Copied::Pending(_) => Err(CaptureError::Timeout),
        }
    }

    fn find_guards(&mut self, thread: &mut ThreadLocks, regs: Regs, copy: &[u8]) {
        let functions = LockFunctions::get();
        let modules = thread.stack.modules.clone();
        self.releases.start(&modules);
        let chain = &thread.stack.chain;
        let memory = FrameMemory { stack: StackCopy { start: regs.sp, bytes: copy } };
        let mut saved = tracked(regs);
        thread.is_complete &= chain.addresses.len() <= MAX_FRAMES && Self::unavailable().is_none();
        let mut is_waiting = false;
        for (frame, &address) in chain.addresses.iter().take(MAX_FRAMES).enumerate() {
            let sp = chain.stack_pointers[frame];
            let interrupted = |frame: usize| chain.interrupted.iter().find(|interrupted| interrupted.frame == frame);
            // A page fault interrupts any instruction.
            let is_in_call = frame > 0 || matches!(thread.state, Some(SyscallState::Waiting { call: Some(_), .. }));
            let callee = frame.checked_sub(1).map(|callee| chain.addresses[callee]);
            let is_interrupted = !is_in_call || interrupted(frame).is_some();
            let doing = if is_interrupted { Doing::Interrupted } else { Doing::Call { callee } };
            let releases = self.releases.at(&modules, &memory::read, address, doing);
            thread.is_complete &= releases.is_complete;
            let registers = FrameRegisters { sp, saved };
            is_waiting |= functions.is_condition(address);
            for release in &releases.list {
                // While a thread waits for a condition, it does not hold the mutex of that
                // condition. Which mutex it is is not known.
                let may_be_released = is_waiting && matches!(release.kind, LockKind::StdMutex | LockKind::LockApiMutex);
                thread.guards.push(HeldGuard {
                    kind: release.kind,
                    frame,
                    words: memory.words_of(release, &registers),
                    is_certain: release.is_certain && !may_be_released,
                });
            }
            let Some(&caller_sp) = chain.stack_pointers.get(frame + 1) else { break };
            saved = match interrupted(frame + 1) {
                Some(interrupted) => tracked(interrupted.regs),
                None => registers.of_caller(&modules, address, caller_sp, &memory),
            };
        }
    }
}

impl ThreadLocks {
    /// Returns the state of the thread before its stack was read.
    pub fn state(&self) -> Option<SyscallState> {
        self.state
    }

    /// Returns the stack of the thread.
    pub fn stack(&self) -> &RawStack {
        &self.stack
    }

    /// Returns whether the thread holds a lock.
    ///
    /// [`LockSearch`] has an example.
    pub fn holds(&self, lock: LockRef) -> Holding {
        let guards = || self.guards.iter().filter(|guard| guard.kind == lock.kind);
        let is_it = |guard: &&HeldGuard| guard.words.as_ref().is_some_and(|words| words.contains(&lock.address.get()));
        if let Some(guard) = guards().find(|guard| guard.is_certain && is_it(guard)) {
            return Holding::Yes { frame: guard.frame };
        }
        let may_be = |guard: &HeldGuard| guard.words.is_none() || is_it(&guard);
        let is_complete = self.is_complete && LockFunctions::get().shows_releases_of(lock.kind);
        if !is_complete || guards().any(may_be) { Holding::Unknown } else { Holding::No }
    }
}

/// Returns the registers of [`TRACKED`], where they are known.
fn tracked(regs: Regs) -> [Option<u64>; TRACKED.len()] {
    let SavedRegs { rbx, r12, r13, r14, r15 } = regs.saved;
    [rbx, regs.fp, r12, r13, r14, r15].map(|value| (value != arch::UNKNOWN).then_some(value))
}

/// The registers in one frame.
struct FrameRegisters {
    sp: u64,
    /// Those of [`TRACKED`], where they are known.
    saved: [Option<u64>; TRACKED.len()],
}

impl FrameRegisters {
    fn get(&self, register: Register) -> Option<u64> {
        if register == Register::RSP {
            return Some(self.sp);
        }
        let index = TRACKED.iter().position(|tracked| *tracked == register)?;
        self.saved[index]
    }

    /// Returns the registers of the calling function, which the function at `address` has kept.
    fn of_caller(
        &self,
        modules: &Modules,
        address: u64,
        caller_sp: u64,
        memory: &FrameMemory<'_>,
    ) -> [Option<u64>; TRACKED.len()] {
        let Some(entry) = modules.find(address).and_then(|module| module.frame_entry(address)) else {
            return self.saved;
        };
        let rules = entry.saved_registers(address, TRACKED_DWARF);
        std::array::from_fn(|i| match rules[i] {
            SavedRegister::Unchanged => self.saved[i],
            SavedRegister::At(offset) => memory.word(caller_sp.wrapping_add_signed(offset)),
            SavedRegister::Unknown => None,
        })
    }
}

/// The memory of the process, in which the stack is the copy.
struct FrameMemory<'a> {
    stack: StackCopy<'a>,
}

impl FrameMemory<'_> {
    fn word(&self, at: u64) -> Option<u64> {
        if let Ok(word) = self.stack.word(at) {
            return Some(word);
        }
        let mut bytes = [0; 8];
        memory::read(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Returns a value in a frame.
    fn value(&self, value: Value, registers: &FrameRegisters) -> Option<u64> {
        match value {
            Value::Near(register, offset) => Some(registers.get(register)?.wrapping_add_signed(offset)),
            Value::Loaded(register, offset) => self.word(registers.get(register)?.wrapping_add_signed(offset)),
            Value::Fixed(address) => Some(address),
            Value::Stored(address) => self.word(address),
            Value::Unknown => None,
        }
    }

    /// Returns the words of which one is the address of a guard's lock.
    fn words_of(&self, release: &Release, registers: &FrameRegisters) -> Option<Vec<u64>> {
        let guard = self.value(release.guard, registers)?;
        let mut words = Vec::with_capacity(MAX_WORDS);
        // The lock itself or a guard of one word, which was passed by value.
        words.push(guard);
        let word = |offset| self.word(guard.wrapping_add(offset));
        let second = match release.layout {
            Layout::First => word(0),
            Layout::FirstOrSecond => {
                words.extend(word(0));
                words.extend(self.value(release.rest, registers));
                word(8)
            }
        };
        words.extend(second);
        Some(words)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
