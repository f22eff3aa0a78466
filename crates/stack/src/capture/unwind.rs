//! Unwinding: from registers and a copied stack to return addresses.
//!
//! The functions here are pure. Memory, registers and modules are arguments, and no thread is
//! involved.
//! [`framehop`] interprets the call frame information. On top of it this module finds frame
//! pointers that are unknown (the kernel reports none for a thread in a system call) or overwritten
//! (while a panic unwinds), return addresses that are unknown ([`return_address`]), and decides
//! whether a stack is complete.

use framehop::{CacheNative, Error, FrameAddress, MayAllocateDuringUnwind, Unwinder};

use super::arch::{self, Regs};
use super::modules::{Modules, UnwindWork};
use super::return_address;

/// The most frames of one stack.
pub(crate) const MAX_FRAMES: usize = 16_384;
/// The number of bytes of the stack in which a frame pointer is searched for.
pub(super) const SEARCH: u64 = 64 * 1024;
/// The most candidates of each kind that are tried for one frame pointer.
const MAX_CANDIDATES: usize = 32;
/// The most bytes by which a table's entry starts before the code to which signal handlers return:
/// an instruction. Some have no entry.
const MAX_BEFORE_SIGNAL_RETURN: u64 = 8;

/// A copied part of a stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackCopy<'a> {
    pub(crate) start: u64,
    pub(crate) bytes: &'a [u8],
}

impl StackCopy<'_> {
    pub(super) fn word(&self, address: u64) -> Result<u64, ()> {
        let offset = usize::try_from(address.checked_sub(self.start).ok_or(())?).map_err(|_| ())?;
        let end = offset.checked_add(8).ok_or(())?;
        let bytes = self.bytes.get(offset..end).ok_or(())?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| ())?))
    }
}

/// A stack as addresses to look up: the instruction pointer, then the last byte of each call. The
/// address of an interrupted frame is an instruction pointer, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) addresses: Vec<u64>,
    /// The stack pointer in the frame of each address.
    pub(crate) stack_pointers: Vec<u64>,
    /// The frames that a signal has interrupted, the innermost first. Their addresses are those of
    /// the instructions that run next.
    pub(crate) interrupted: Vec<InterruptedFrame>,
    /// True if the stack reaches the thread's first function.
    pub(crate) complete: bool,
}

/// A frame that is not the innermost, and not in a call: a signal has interrupted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterruptedFrame {
    /// The index of its address in the chain.
    pub(crate) frame: usize,
    pub(crate) regs: Regs,
}

/// A function that fills a buffer with the code at an address, and returns whether it could.
pub(crate) type ReadCode<'a> = &'a dyn Fn(u64, &mut [u8]) -> bool;

/// The input of unwinding.
pub(crate) struct Source<'a> {
    pub(crate) modules: &'a Modules,
    pub(crate) stack: StackCopy<'a>,
    pub(crate) code: ReadCode<'a>,
}

/// The state of unwinding one stack that all attempts share.
pub(super) struct Progress {
    pub(super) cache: CacheNative<MayAllocateDuringUnwind>,
    pub(super) work: UnwindWork,
}

impl Chain {
    /// Replaces the frames from the one at `depth` on by those of a chain that is complete.
    pub(super) fn replace_from(&mut self, depth: usize, found: Chain) {
        self.addresses.truncate(depth);
        self.addresses.extend(found.addresses);
        self.stack_pointers.truncate(depth);
        self.stack_pointers.extend(found.stack_pointers);
        let interrupted = found.interrupted.into_iter();
        self.interrupted.extend(interrupted.map(|frame| InterruptedFrame { frame: frame.frame + depth, ..frame }));
        self.complete = true;
    }
}

/// Unwinds from `regs` to the thread's first function. A frame pointer or link register of
/// [`arch::UNKNOWN`] is recovered where a function needs it.
pub(crate) fn unwind(source: &Source<'_>, regs: Regs) -> Chain {
    let mut progress = Progress { cache: CacheNative::new(), work: UnwindWork::LIMIT };
    let mut chain = Chain::default();
    walk(source, regs, FrameAddress::from_instruction_pointer(regs.ip), &mut progress, &mut chain, true);
    chain
}

/// Unwinds from one frame. The result is added to `chain`.
pub(super) fn walk(
    source: &Source<'_>,
    regs: Regs,
    first: FrameAddress,
    progress: &mut Progress,
    chain: &mut Chain,
    recover: bool,
) {
    let (mut address, mut regs) = (first, regs.unwinder());
    let mut read = |at| source.stack.word(at);
    let (mut panicking, mut doubtful) = (false, false);
    loop {
        let lookup = address.address_for_lookup();
        let is_leaf = matches!(address, FrameAddress::InstructionPointer(_));
        chain.addresses.push(lookup);
        chain.stack_pointers.push(Regs::from_unwinder(address.address(), &regs).sp);
        let module = source.modules.find(lookup).filter(|_| source.modules.is_code(lookup));
        let Some(module) = module.filter(|_| chain.addresses.len() < MAX_FRAMES) else { return };
        if source.modules.is_foreign && progress.work.take_frame().is_err() {
            return;
        }
        let function = module.function(lookup);
        let offset = function.as_ref().map_or(0, |function| lookup - function.start);
        if offset < MAX_BEFORE_SIGNAL_RETURN
            && let Some(regs_before) = interrupted(source, Regs::from_unwinder(address.address(), &regs))
        {
            chain.interrupted.push(InterruptedFrame { frame: chain.addresses.len(), regs: regs_before });
            (address, regs) = (FrameAddress::from_instruction_pointer(regs_before.ip), regs_before.unwinder());
            continue;
        }
        if function.is_none() {
            // No table describes this code. If it is the innermost frame, it is a few instructions
            // around a system call, and has nothing on the stack.
            let known = Regs::from_unwinder(address.address(), &regs);
            if is_leaf
                && arch::CALL_PUSHES
                && caller(source, known.sp.wrapping_sub(8)).is_some()
                && let Some(next) = source.stack.word(known.sp).ok().and_then(FrameAddress::from_return_address)
            {
                (address, regs) = (next, Regs { sp: known.sp + 8, ..known }.unwinder());
                continue;
            }
            // Otherwise framehop follows the frame pointer, which may not be valid here. Functions
            // may be missing.
            doubtful = true;
        }
        panicking |= arch::CHECKS_UNWINDER && module.is_unwinder();
        if panicking {
            // libgcc's unwinder overwrites the registers that its functions have saved with those
            // of the frame where it will land.
            let known = Regs::from_unwinder(address.address(), &regs);
            match frame_pointer(source, known.sp, address) {
                Some(fp) if fp == known.fp => {}
                Some(_) if is_leaf => doubtful = true,
                Some(fp) if caller(source, fp).is_some() => regs = Regs { fp, ..known }.unwinder(),
                _ => {}
            }
        }
        if source.modules.is_foreign && progress.work.admit(module, lookup).is_err() {
            return;
        }
        let before = Regs::from_unwinder(address.address(), &regs);
        let next = match source.modules.unwinder.unwind_frame(address, &mut regs, &mut progress.cache, &mut read) {
            Err(Error::CouldNotReadStack(at)) if recover && at.abs_diff(arch::UNKNOWN) < SEARCH => {
                return recover_frame_pointer(source, before, address, progress, chain);
            }
            next => next,
        };
        match next {
            Ok(Some(found)) if recover && is_leaf && return_address::is_unknown(found) => {
                return return_address::recover(source, before, address, progress, chain);
            }
            Ok(Some(return_address)) => match FrameAddress::from_return_address(return_address) {
                Some(next) => address = next,
                None => return,
            },
            Ok(None) if is_root(source, before, address, progress) => {
                chain.complete = !doubtful;
                return;
            }
            Ok(None) => {
                let next = arch::STARTS_AT_ZERO.then(|| past_zero(source, before, address, progress)).flatten();
                let Some((next, regs_before)) = next else { return };
                (address, regs) = (next, regs_before.unwinder());
            }
            Err(_) => return,
        }
    }
}

/// Returns the registers of the function that a signal has interrupted, for the frame of the code
/// to which the signal's handler returns. The kernel has saved them; `framehop` cannot evaluate how
/// tables describe that.
fn interrupted(source: &Source<'_>, returns: Regs) -> Option<Regs> {
    let mut code = [0; arch::SIGNAL_RETURN];
    let is_signal_return = (source.code)(returns.ip, &mut code) && arch::is_signal_return(&code);
    is_signal_return.then(|| arch::interrupted(returns.sp, |at| source.stack.word(at).ok()))?
}

/// Returns whether a frame is the thread's first by its unwind table (no return address).
///
/// The check uses neither memory nor a frame pointer. A return address or a frame pointer that
/// happens to be 0 ends unwinding as well, and proves nothing.
fn is_root(source: &Source<'_>, regs: Regs, address: FrameAddress, progress: &mut Progress) -> bool {
    let mut regs = Regs { fp: arch::UNKNOWN, ..regs }.unwinder();
    matches!(source.modules.unwinder.unwind_frame(address, &mut regs, &mut progress.cache, &mut |_| Err(())), Ok(None))
}

/// Returns the return address of a frame that has saved a frame pointer of 0, and its caller's
/// registers. `framehop` takes that frame for the end of the stack, but the code that started the
/// thread called it. The caller's frame pointer is unknown then.
fn past_zero(
    source: &Source<'_>,
    regs: Regs,
    address: FrameAddress,
    progress: &mut Progress,
) -> Option<(FrameAddress, Regs)> {
    let mut regs = regs.unwinder();
    let mut read = |at| source.stack.word(at).map(|word| if word == 0 { arch::UNKNOWN } else { word });
    let found = source.modules.unwinder.unwind_frame(address, &mut regs, &mut progress.cache, &mut read).ok()??;
    let next = FrameAddress::from_return_address(found).filter(|_| called(source, found).is_some())?;
    Some((next, Regs::from_unwinder(found, &regs)))
}

/// Continues from a frame whose function needs a frame pointer that is unknown.
///
/// The frame pointer is computed from the function's first instructions where they can be read, and
/// searched for on the stack otherwise. A result counts only if its chain reaches the thread's
/// first function.
fn recover_frame_pointer(
    source: &Source<'_>,
    regs: Regs,
    address: FrameAddress,
    progress: &mut Progress,
    chain: &mut Chain,
) {
    let Some(module) = source.modules.find(address.address_for_lookup()) else { return };
    let Some(start) = module.function(address.address_for_lookup()).map(|function| function.start) else { return };
    let depth = chain.addresses.len() - 1;
    let mut attempt = |fp: u64, chain: &mut Chain| {
        let mut tried = Chain::default();
        walk(source, Regs { fp, ..regs }, address, progress, &mut tried, false);
        let is_complete = tried.complete;
        if is_complete {
            chain.replace_from(depth, tried);
        }
        is_complete
    };
    let computed = frame_pointer(source, regs.sp, address).filter(|&fp| caller(source, fp).is_some());
    if computed.is_some_and(|fp| attempt(fp, chain)) {
        return;
    }
    // A direct call contains its target, so calls to this function are tried first. An indirect
    // call may have any target, and a direct one to another address may reach this function by a
    // stub.
    let candidates = || (regs.sp..regs.sp.saturating_add(SEARCH)).step_by(8);
    let direct =
        candidates().filter(|&fp| caller(source, fp) == Some(Some(start))).take(MAX_CANDIDATES).collect::<Vec<_>>();
    let indirect = candidates().filter(|&fp| caller(source, fp) == Some(None)).take(MAX_CANDIDATES).collect::<Vec<_>>();
    let elsewhere = candidates().filter(|&fp| matches!(caller(source, fp), Some(Some(to)) if to != start));
    let elsewhere = elsewhere.take(MAX_CANDIDATES).collect::<Vec<_>>();
    direct.into_iter().chain(indirect).chain(elsewhere).any(|fp| attempt(fp, chain));
}

/// Computes the frame pointer of a function from its first instructions and the stack pointer.
fn frame_pointer(source: &Source<'_>, sp: u64, address: FrameAddress) -> Option<u64> {
    let function = source.modules.find(address.address_for_lookup())?.function(address.address_for_lookup())?;
    let mut code = [0; arch::PROLOGUE];
    let size = (source.code)(function.start, &mut code).then(|| arch::frame_size(&code))??;
    sp.checked_add(size)
}

/// Checks that a frame pointer of `fp` has a return address above it, and that a call precedes that
/// address. Returns the call's target, which is `None` for an indirect call.
fn caller(source: &Source<'_>, fp: u64) -> Option<Option<u64>> {
    called(source, source.stack.word(fp.wrapping_add(8)).ok()?)
}

/// Checks that a word of the stack is a return address, and returns what its call calls.
pub(super) fn called(source: &Source<'_>, word: u64) -> Option<Option<u64>> {
    let return_address = arch::return_address(word);
    if !source.modules.is_code(return_address) {
        return None;
    }
    let mut before = [0; 8];
    let is_read = (source.code)(return_address.checked_sub(8)?, &mut before);
    is_read.then(|| arch::called(&before, return_address))?
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_read_outside_the_copy() {
        let bytes = [1u8; 24];
        let stack = StackCopy { start: u64::MAX - 30, bytes: &bytes };
        assert_eq!(stack.word(u64::MAX - 30), Ok(0x0101_0101_0101_0101));
        assert_eq!(stack.word(u64::MAX - 14), Ok(0x0101_0101_0101_0101));
        for outside in [0, u64::MAX - 31, u64::MAX - 13, u64::MAX] {
            assert_eq!(stack.word(outside), Err(()), "{outside}");
        }
    }

    #[test]
    fn garbage_ends_early_and_never_panics() {
        let modules = Modules::current();
        let code = |from: u64, to: &mut [u8]| super::super::memory::read(from, to);
        let here = garbage_ends_early_and_never_panics as *const () as u64;
        let mut seed = 7u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..500 {
            // Some words are addresses of code or of the stack, others are not.
            let words: Vec<u64> = (0..256)
                .map(|_| match random() % 4 {
                    0 => here.wrapping_add(random() % 4096),
                    1 => 0x7000_0000 + random() % 2048,
                    2 => arch::UNKNOWN,
                    _ => random(),
                })
                .collect();
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let source =
                Source { modules: &modules, stack: StackCopy { start: 0x7000_0000, bytes: &bytes }, code: &code };
            let fp = if round % 2 == 0 { arch::UNKNOWN } else { random() };
            let mut regs = [0; arch::REGS];
            regs[0] = here + random() % 64;
            *regs.last_mut().unwrap() = fp;
            let chain = unwind(&source, Regs::new(0x7000_0000 + random() % 64, regs));
            assert!(chain.addresses.len() <= MAX_FRAMES);
        }
    }
}
