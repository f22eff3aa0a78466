//! The functions that a function's code refers to, and what follows from them. The code is scanned
//! byte by byte rather than decoded, so a reference may be found that is none.
//!
//! The tables for unwinding have no cleanup for a call of which the compiler knows that it never
//! panics: there is no proof that the caller has no guard. Two questions remain. May the call panic
//! all the same, in which case the tables are right about it? And does the caller release or
//! acquire locks at all?

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use super::LockKind;
use super::functions::{LockFunctions, Role};
use super::releases::{self, resolve, resume_address};
use crate::capture::memory;
use crate::capture::modules::{Cleanup, FrameEntry, LoadedModule, Modules};
use crate::capture::unwind::ReadCode;

/// The most bytes of one function that are scanned.
const MAX_FUNCTION: u64 = 256 << 10;
/// The most calls from one function to another that are followed to one that panics.
const MAX_CALLS_DEEP: usize = 5;
/// The most functions of which it is remembered whether they may panic.
const MAX_REMEMBERED: usize = 8_192;
/// The most bytes of the executable that are scanned for calls of functions that wait.
const MAX_EXECUTABLE: u64 = 64 << 20;
/// The number of bytes of the executable that are read at once.
const PIECE: usize = 64 << 10;
/// The size of a distance in code.
const DISTANCE: usize = 4;

/// An address that code refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reference {
    /// The last byte of the instruction.
    at: u64,
    target: u64,
    is_call: bool,
}

/// The functions to which the code of a function refers.
struct FunctionCode {
    bytes: Vec<u8>,
    start: u64,
}

impl FunctionCode {
    /// Reads the code of a function; `None` where it cannot be read, or is too long.
    fn read(read: ReadCode<'_>, function: &Range<u64>) -> Option<FunctionCode> {
        let len = function.end.checked_sub(function.start).filter(|&len| len <= MAX_FUNCTION)?;
        let mut bytes = vec![0; len as usize];
        read(function.start, &mut bytes).then_some(FunctionCode { bytes, start: function.start })
    }

    /// Returns the addresses at each distance in the code, and the words of tables that it loads or
    /// calls.
    fn references(&self, read: ReadCode<'_>) -> impl Iterator<Item = Reference> {
        self.bytes.windows(DISTANCE).enumerate().map(move |(offset, distance)| {
            let next = self.start + (offset + DISTANCE) as u64;
            let near = next.wrapping_add_signed(distance_of(distance));
            let before = |n: usize| offset.checked_sub(n).map_or(0, |at| self.bytes[at]);
            // A jump to another function is a call in the last position.
            let is_direct = matches!(before(1), 0xe8 | 0xe9) || (before(2) == 0x0f && before(1) & 0xf0 == 0x80);
            let is_called_word = before(2) == 0xff && matches!(before(1), 0x15 | 0x25);
            let is_loaded_word = before(2) == 0x8b && before(1) & 0xc7 == 0x05;
            let at = next - 1;
            let word = if is_called_word || is_loaded_word { word_at(read, near) } else { None };
            Reference { at, target: word.unwrap_or(near), is_call: is_direct || is_called_word }
        })
    }
}

fn distance_of(bytes: &[u8]) -> i64 {
    i64::from(i32::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

/// What the code of a function does with locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LockUse {
    /// The locks that it acquires or releases.
    pub(super) kinds: Vec<LockKind>,
    /// The functions that it uses to drop values, which may have guards.
    pub(super) drops: Vec<u64>,
    /// False if the code could not be read.
    pub(super) is_complete: bool,
}

/// Returns the locks that the code of a function acquires or releases. A function that has a guard
/// does one of both: even where locking is inlined, waiting for a lock and waking those that wait
/// are functions of their own.
pub(super) fn lock_use(read: ReadCode<'_>, function: &Range<u64>) -> LockUse {
    let Some(code) = FunctionCode::read(read, function) else { return LockUse::default() };
    let mut found = LockUse { is_complete: true, ..LockUse::default() };
    let functions = LockFunctions::get();
    for Reference { target, .. } in code.references(read) {
        match functions.role(target) {
            Some(Role::DropsGuard { kind, .. } | Role::Wakes(kind) | Role::Waits(kind)) => {
                if !found.kinds.contains(&kind) {
                    found.kinds.push(kind);
                }
            }
            Some(Role::DropsValue) if !found.drops.contains(&target) => found.drops.push(target),
            Some(Role::DropsValue | Role::WaitsForCondition | Role::Panics) | None => {}
        }
    }
    found
}

/// Finds the functions of which the compiler cannot have known that they never panic.
#[derive(Default)]
pub(super) struct PanicReader {
    /// By the start of a function.
    known: HashMap<u64, bool>,
}

impl PanicReader {
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Returns whether it is certain that callers expect the function at `address` to panic. `left`
    /// is the number of functions that may be scanned.
    pub(super) fn may_panic(&mut self, modules: &Modules, read: ReadCode<'_>, address: u64, left: &mut usize) -> bool {
        let mut search = PanicSearch { reader: self, modules, read, left };
        search.may_panic(address, 0)
    }
}

struct PanicSearch<'a> {
    reader: &'a mut PanicReader,
    modules: &'a Modules,
    read: ReadCode<'a>,
    left: &'a mut usize,
}

impl PanicSearch<'_> {
    fn may_panic(&mut self, address: u64, depth: usize) -> bool {
        let Some(entry) = self.modules.find(address).and_then(|module| module.frame_entry(address)) else {
            return false;
        };
        let function = entry.function();
        match LockFunctions::get().role(function.start) {
            Some(Role::Panics) => return true,
            Some(Role::Waits(_)) if expected_to_panic(self.modules).contains(&function.start) => return true,
            _ => {}
        }
        if let Some(&known) = self.reader.known.get(&function.start) {
            return known;
        }
        let Some(left) = self.left.checked_sub(1).filter(|_| depth < MAX_CALLS_DEEP) else { return false };
        *self.left = left;
        // A function that calls itself is decided by its other calls.
        self.remember(function.start, false);
        let may_panic = self.code_may_panic(&entry, &function, depth);
        if may_panic {
            self.remember(function.start, true);
        } else if *self.left == 0 || depth > 0 {
            // The answer may only be missing.
            self.reader.known.remove(&function.start);
        }
        may_panic
    }

    fn remember(&mut self, start: u64, may_panic: bool) {
        if self.reader.known.len() >= MAX_REMEMBERED {
            self.reader.known.clear();
        }
        self.reader.known.insert(start, may_panic);
    }

    fn code_may_panic(&mut self, entry: &FrameEntry<'_>, function: &Range<u64>, depth: usize) -> bool {
        let Ok(sites) = entry.call_sites(self.read) else { return false };
        // Code of other languages is called as if it never panicked.
        if sites.is_some() && entry.personality() != own_personality(self.modules) {
            return false;
        }
        let Some(code) = FunctionCode::read(self.read, function) else { return false };
        let (modules, read) = (self.modules, self.read);
        let calls = || {
            let calls = code.references(read).filter(|reference| reference.is_call);
            calls.filter(|call| !function.contains(&call.target) && modules.is_code(call.target))
        };
        // A panic that leaves the function after its cleanup, or without one.
        let leaves = |call: &Reference| sites.as_ref().is_none_or(|sites| sites.at(call.at) == Cleanup::Nothing);
        let functions = LockFunctions::get();
        let panics = |call: Reference| {
            (leaves(&call) && functions.role(call.target) == Some(Role::Panics))
                || (sites.is_some() && resolve(modules, read, call.target) == resume_address())
        };
        if calls().any(panics) {
            return true;
        }
        let mut targets: Vec<u64> = calls().filter(leaves).map(|call| call.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let is_start = |target: u64| {
            let function = modules.find(target).and_then(|module| module.function(target));
            function.is_some_and(|function| function.start == target)
        };
        targets.into_iter().any(|target| is_start(target) && self.may_panic(target, depth + 1))
    }
}

/// Returns the address of the function that unwinds Rust's frames, as tables refer to it.
fn own_personality(modules: &Modules) -> Option<u64> {
    let here = releases::ReleaseReader::at as *const () as u64;
    modules.find(here)?.frame_entry(here)?.personality()
}

/// Returns the functions that wait for a lock and are expected to panic: somewhere in the
/// executable, a caller cleans up after a panic of theirs. They do not panic, which only link-time
/// optimisation finds out, and then for all callers.
fn expected_to_panic(modules: &Modules) -> &'static [u64] {
    static FOUND: OnceLock<Vec<u64>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let waits: Vec<u64> = LockFunctions::get().starts(|role| matches!(role, Role::Waits(_))).collect();
        let module = waits.first().and_then(|&start| modules.find(start));
        module.map_or_else(Vec::new, |module| cleaned_up_after(module, &waits))
    })
}

/// Scans the executable, so that no search has to.
pub(super) fn preload(modules: &Modules) {
    expected_to_panic(modules);
}

/// The length of a call by a word of a table. A direct call is shorter.
const CALL: usize = 2 + DISTANCE;

/// Returns the functions of `wanted` that have a caller with cleanup for the call.
fn cleaned_up_after(module: &LoadedModule, wanted: &[u64]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut left = MAX_EXECUTABLE;
    let mut bytes = vec![0; PIECE];
    let mut words = HashMap::new();
    for code in module.code() {
        let mut at = code.start;
        while at < code.end && left > 0 && found.len() < wanted.len() {
            let len = (code.end - at).min(PIECE as u64) as usize;
            if !memory::read(at, &mut bytes[..len]) {
                break;
            }
            for (offset, call) in bytes[..len].windows(CALL).enumerate() {
                let next = at + (offset + CALL) as u64;
                let is_direct = call[1] == 0xe8;
                if !is_direct && call[..2] != [0xff, 0x15] {
                    continue;
                }
                let mut target = next.wrapping_add_signed(distance_of(&call[2..]));
                if !is_direct {
                    target = *words.entry(target).or_insert_with(|| word_at(&memory::read, target).unwrap_or(0));
                }
                if wanted.contains(&target) && !found.contains(&target) && has_cleanup(module, next - 1) {
                    found.push(target);
                }
            }
            // A call across the end of the piece is in the next one.
            let scanned = if (len as u64) < code.end - at { len - CALL } else { len };
            at += scanned as u64;
            left = left.saturating_sub(scanned as u64);
        }
    }
    found
}

fn word_at(read: ReadCode<'_>, at: u64) -> Option<u64> {
    let mut word = [0; 8];
    read(at, &mut word).then_some(u64::from_le_bytes(word))
}

fn has_cleanup(module: &LoadedModule, call: u64) -> bool {
    let sites = module.frame_entry(call).and_then(|entry| entry.call_sites(&memory::read).ok().flatten());
    sites.is_some_and(|sites| matches!(sites.at(call), Cleanup::At(_)))
}
