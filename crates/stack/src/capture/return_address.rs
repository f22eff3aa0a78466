//! The return address of a function that has not saved it, where the link register is unknown: the
//! kernel reports only the stack pointer and the program counter of a thread in a system call.
//!
//! Such a function is called from few places of the code. Each of them is tried as the return
//! address. Most do not fit the stack: the caller's unwind table says where the caller's own return
//! address is, and a call has to precede that. The rest of the stack then has to reach the thread's
//! first function. Where calls of two functions fit, none is taken.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use framehop::{Error, FrameAddress, Unwinder};

use super::arch::a64::{self, Call};
use super::arch::{self, Regs};
use super::guard::lock_within;
use super::unwind::{Chain, Progress, Source, called, walk};

pub(super) use super::arch::is_unknown_return as is_unknown;

/// The most calls of one function that are tried.
const MAX_CALLS: usize = 4096;
/// The most calls that fit the stack, and whose stacks are unwound.
const MAX_FITTING: usize = 16;
/// The most functions whose calls are remembered.
const MAX_FUNCTIONS: usize = 64;
/// The most bytes of code in which calls are searched for.
const MAX_CODE: u64 = 256 << 20;
/// The bytes of code that are read at once.
const PART: usize = 256 << 10;
/// The bytes of an instruction, and those of a stub, which may be at the end of a part.
const WORD: u64 = 4;
const OVERLAP: u64 = WORD * a64::STUB as u64;
/// The time for which another thread may look up calls.
const PATIENCE: Duration = Duration::from_millis(100);

/// The calls of some functions.
#[derive(Debug, Default)]
pub(super) struct CallerIndex {
    known: Mutex<HashMap<u64, Arc<[CallInCode]>>>,
}

/// A call, and what is known of the function that contains it.
#[derive(Clone, Copy, Debug)]
struct CallInCode {
    return_address: u64,
    /// The start of the function that contains the call.
    caller: u64,
    /// How far the caller's frame pointer is above its stack pointer.
    frame_size: Option<u64>,
}

impl CallerIndex {
    /// Returns the calls of a function, which are searched for in the code of all modules at first.
    fn calls_of(&self, source: &Source<'_>, function: &Range<u64>) -> Arc<[CallInCode]> {
        // A fork may have left the lock locked, hence the limit.
        let lock = || lock_within(&self.known, PATIENCE);
        if let Some(calls) = lock().and_then(|known| known.get(&function.start).cloned()) {
            return calls;
        }
        let calls = find_calls(source, function).into_iter();
        let calls: Arc<[_]> = calls.filter_map(|call| CallInCode::find(source, call)).collect();
        if let Some(mut known) = lock() {
            if known.len() >= MAX_FUNCTIONS {
                known.clear();
            }
            known.insert(function.start, calls.clone());
        }
        calls
    }
}

impl CallInCode {
    /// Finds what is known of the function that contains a call; `None` if no table describes it.
    fn find(source: &Source<'_>, return_address: u64) -> Option<CallInCode> {
        let at = return_address.checked_sub(1)?;
        let caller = source.modules.find(at)?.function(at)?.start;
        let mut code = [0; arch::PROLOGUE];
        let frame_size = (source.code)(caller, &mut code).then(|| arch::frame_size(&code)).flatten();
        Some(CallInCode { return_address, caller, frame_size })
    }
}

/// How well a call fits the stack; better ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// The caller was called directly, by the call that precedes its return address.
    Direct,
    /// It was called by an address in a register.
    Indirect,
    /// The call that precedes its return address calls another function, which may have jumped to
    /// the caller.
    Jump,
    /// The place of its return address is unknown: its frame pointer is searched for.
    Searched,
}

/// A call that fits the stack.
struct FittingCall {
    fit: Fit,
    call: CallInCode,
    /// The registers after the call.
    regs: Regs,
}

/// Continues from the innermost frame, at `address`, whose return address is unknown.
pub(super) fn recover(
    source: &Source<'_>,
    regs: Regs,
    address: FrameAddress,
    progress: &mut Progress,
    chain: &mut Chain,
) {
    let at = address.address_for_lookup();
    let Some(function) = source.modules.find(at).and_then(|module| module.function(at)) else { return };
    let calls = source.modules.callers.calls_of(source, &function);
    let mut fits: Vec<_> = calls.iter().filter_map(|&call| fitting(source, regs.sp, call, progress)).collect();
    fits.sort_by_key(|fitting| fitting.fit);
    for same_fit in fits.chunk_by(|a, b| a.fit == b.fit) {
        // Of too many, it would not be known whether one alone is possible.
        if same_fit.len() > MAX_FITTING {
            return;
        }
        let complete = same_fit.iter().filter_map(|fitting| complete_chain(source, fitting, progress));
        let complete: Vec<_> = complete.collect();
        let Some((first, _)) = complete.first() else { continue };
        if let Some(found) = complete.iter().all(|(caller, _)| caller == first).then(|| only_chain(complete)).flatten()
        {
            chain.replace_from(chain.addresses.len(), found);
        }
        return;
    }
}

/// Returns the stack of a call, with the start of the function that contains it; `None` if it does
/// not reach the thread's first function.
fn complete_chain(source: &Source<'_>, fitting: &FittingCall, progress: &mut Progress) -> Option<(u64, Chain)> {
    let address = FrameAddress::from_return_address(fitting.call.return_address)?;
    let mut chain = Chain::default();
    walk(source, fitting.regs, address, progress, &mut chain, true);
    chain.complete.then_some((fitting.call.caller, chain))
}

/// Returns the stack that several calls in one function have in common. Which of the calls it is
/// remains unknown, so the function's first instruction represents them.
fn only_chain(complete: Vec<(u64, Chain)>) -> Option<Chain> {
    let mut rest = complete.into_iter();
    let (caller, mut chain) = rest.next()?;
    for (_, other) in rest {
        if other.addresses.get(1..) != chain.addresses.get(1..) {
            return None;
        }
        *chain.addresses.first_mut()? = caller;
    }
    Some(chain)
}

/// Returns a call if it fits the stack.
fn fitting(source: &Source<'_>, sp: u64, call: CallInCode, progress: &mut Progress) -> Option<FittingCall> {
    let CallInCode { return_address, caller, frame_size } = call;
    let address = FrameAddress::from_return_address(return_address)?;
    let at = address.address_for_lookup();
    if source.modules.is_foreign {
        progress.work.take_frame().ok()?;
        progress.work.admit(source.modules.find(at)?, at).ok()?;
    }
    let mut next = |fp| {
        let mut regs = Regs::new(sp, [return_address, arch::UNKNOWN, fp]).unwinder();
        let mut read = |at| source.stack.word(at);
        source.modules.unwinder.unwind_frame(address, &mut regs, &mut progress.cache, &mut read)
    };
    let fits = |fit, fp| {
        let regs = Regs::new(sp, [return_address, arch::UNKNOWN, fp]);
        Some(FittingCall { fit, call, regs })
    };
    let (fp, outer) = match next(arch::UNKNOWN) {
        Ok(outer) => (arch::UNKNOWN, outer?),
        Err(Error::CouldNotReadStack(at)) if at.abs_diff(arch::UNKNOWN) < super::unwind::SEARCH => {
            let Some(fp) = frame_size.and_then(|size| sp.checked_add(size)) else {
                return fits(Fit::Searched, arch::UNKNOWN);
            };
            (fp, next(fp).ok()??)
        }
        Err(_) => return None,
    };
    let fit = match called(source, outer)? {
        Some(target) if target == caller || stub_target(source, target) == Some(caller) => Fit::Direct,
        Some(_) => Fit::Jump,
        None => Fit::Indirect,
    };
    fits(fit, fp)
}

/// Returns the function that a stub calls; `None` if no stub is at an address.
fn stub_target(source: &Source<'_>, stub: u64) -> Option<u64> {
    let mut code = [0; 4 * a64::STUB];
    let words: Vec<u32> = (source.code)(stub, &mut code).then(|| a64::words(&code).collect())?;
    slot(source, a64::stub_slot(&words, stub)?)
}

/// Returns the address of a function in a table of such.
fn slot(source: &Source<'_>, at: u64) -> Option<u64> {
    let mut word = [0; 8];
    (source.code)(at, &mut word).then(|| u64::from_le_bytes(word))
}

/// Finds the return addresses of all calls of a function: those of its own address, of a stub of
/// it, and of a function that jumps to it at its end.
fn find_calls(source: &Source<'_>, function: &Range<u64>) -> Vec<u64> {
    let mut targets = vec![function.start];
    each_part(source, |words, at| {
        for (index, &word) in words.iter().enumerate() {
            let at = at + WORD * index as u64;
            if targets.len() >= MAX_CALLS {
                return;
            }
            if a64::jump(word, at) == Some(function.start) && !function.contains(&at) {
                targets.extend(source.modules.find(at).and_then(|module| Some(module.function(at)?.start)));
            }
            // Stubs with a hint before them are called by the address of the hint.
            let is_stub = |from: usize, start: u64| {
                let slot_at = words.get(from..).and_then(|words| a64::stub_slot(words, start));
                slot_at.and_then(|at| slot(source, at)) == Some(function.start)
            };
            if is_stub(index, at) {
                targets.push(at);
            }
        }
    });
    targets.sort_unstable();
    targets.dedup();
    let mut calls = Vec::new();
    each_part(source, |words, at| {
        for (index, &word) in words.iter().enumerate() {
            let at = at + WORD * index as u64;
            let is_call = |target| targets.binary_search(&target).is_ok();
            if matches!(a64::call(word, at), Some(Call::Direct(target)) if is_call(target)) && calls.len() < MAX_CALLS {
                calls.push(at + WORD);
            }
        }
    });
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// Calls a function with the instructions of each part of the code, and the address of the first.
/// Parts overlap.
fn each_part(source: &Source<'_>, mut each: impl FnMut(&[u32], u64)) {
    let mut left = MAX_CODE;
    let mut bytes = vec![0; PART];
    for range in source.modules.list.iter().flat_map(|module| module.code()) {
        let mut at = range.start.next_multiple_of(WORD);
        while at < range.end && left > 0 {
            let len = (range.end - at).min(PART as u64);
            let part = &mut bytes[..len as usize];
            if (source.code)(at, part) {
                let words: Vec<u32> = a64::words(part).collect();
                each(&words, at);
            }
            left = left.saturating_sub(len);
            at += if at + len < range.end { len - OVERLAP } else { len };
        }
    }
}
