//! The guards that a call's cleanup drops: the locks that its function holds during the call.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use super::LockKind;
use super::functions::{Layout, LockFunctions, Role};
use super::instruction::Register;
use super::references::{self, PanicReader};
use super::walk::{Call, Value, calls};
use crate::capture::modules::{Cleanup, Modules};
use crate::capture::unwind::ReadCode;

/// The most calls whose cleanup is remembered.
const MAX_REMEMBERED: usize = 8_192;
/// The most pieces of code that are followed for one thread, which bounds the time of a search.
const MAX_PIECES: usize = 2_000;
/// The deepest nesting of values that are searched for guards. A guard is hardly ever deeper, and a
/// runtime or a server has thousands of values in it.
pub(super) const MAX_DEPTH: usize = 4;
/// The most guards of one call.
const MAX_RELEASES: usize = 64;

/// A lock that is released by cleanup code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) kind: LockKind,
    /// The guard, or a pointer to it, or the lock itself.
    pub(super) guard: Value,
    /// The second argument of the function that drops the guard, which may be passed in parts.
    pub(super) rest: Value,
    pub(super) layout: Layout,
    /// False if the code may release the lock or not, or if the call may be at another location.
    pub(super) is_certain: bool,
}

/// The locks that a function holds during a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Releases {
    pub(super) list: Vec<Release>,
    /// False if there may be others.
    pub(super) is_complete: bool,
    /// True if values were not followed because they are nested too deeply.
    is_cut: bool,
}

impl Releases {
    fn none() -> Releases {
        Releases { list: Vec::new(), is_complete: true, is_cut: false }
    }

    fn unknown() -> Releases {
        Releases::default()
    }

    fn uncertain(mut self) -> Releases {
        self.list.iter_mut().for_each(|release| release.is_certain = false);
        self
    }
}

/// The guards that a function releases which drops a value.
#[derive(Clone)]
struct DroppedValue {
    releases: Arc<Releases>,
    /// The depth at which the function was followed.
    depth: usize,
}

/// What a function is doing at an address in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    /// It calls the function that contains the address `callee`; `None` if it is in a call of the
    /// kernel.
    Call { callee: Option<u64> },
    /// It was interrupted, by a signal or a page fault. The address is that of the instruction that
    /// runs next, which may be any.
    Interrupted,
}

/// Finds the guards that are dropped by cleanup code, and remembers them.
#[derive(Default)]
pub(super) struct ReleaseReader {
    /// The modules whose code is remembered. Others may have other code at the same addresses.
    modules: Weak<Modules>,
    /// By the address in a function's frame, and what the function is doing there.
    calls: HashMap<(u64, Doing), Arc<Releases>>,
    /// By the start of a function that drops a value.
    values: HashMap<u64, DroppedValue>,
    panics: PanicReader,
    /// The number of pieces of code that may still be followed for the current thread.
    left: usize,
}

impl ReleaseReader {
    /// Starts with the stack of another thread. What was read of other modules is forgotten: a
    /// library may have been unloaded, and another one loaded at its address.
    pub(super) fn start(&mut self, modules: &Arc<Modules>) {
        self.left = MAX_PIECES;
        if !std::ptr::eq(self.modules.as_ptr(), Arc::as_ptr(modules)) {
            self.calls.clear();
            self.values.clear();
            self.panics.clear();
            self.modules = Arc::downgrade(modules);
        }
    }

    /// Returns the locks that the function at `address`, as in a stack, holds.
    pub(super) fn at(&mut self, modules: &Modules, read: ReadCode<'_>, address: u64, doing: Doing) -> Arc<Releases> {
        if let Some(known) = self.calls.get(&(address, doing)) {
            return known.clone();
        }
        let releases = Arc::new(self.read(modules, read, address, doing));
        if self.left == 0 {
            return releases;
        }
        if self.calls.len() >= MAX_REMEMBERED {
            self.calls.clear();
        }
        self.calls.insert((address, doing), releases.clone());
        releases
    }

    fn read(&mut self, modules: &Modules, read: ReadCode<'_>, address: u64, doing: Doing) -> Releases {
        let Some(module) = modules.find(address) else { return Releases::unknown() };
        // Code without an entry is assembly.
        let Some(entry) = module.frame_entry(address) else { return Releases::none() };
        let Ok(sites) = entry.call_sites(read) else { return Releases::unknown() };
        let function = entry.function();
        let cleanup = sites.as_ref().map_or(Cleanup::Nothing, |sites| sites.at(address));
        let mut releases = match (doing, cleanup) {
            (Doing::Call { .. }, Cleanup::At(pad)) => return self.of_code(modules, read, &function, pad, 0),
            // A panic of the call would not drop anything, and it may panic.
            (Doing::Call { callee: Some(callee) }, Cleanup::Nothing)
                if self.panics.may_panic(modules, read, callee, &mut self.left) =>
            {
                return Releases::none();
            }
            (Doing::Call { .. }, Cleanup::Nothing) => Releases::none(),
            // An instruction that cannot panic has no cleanup. What the function holds there may be
            // among what it drops elsewhere.
            _ => {
                let pads = sites.iter().flat_map(|sites| sites.landing_pads());
                self.of_pads(modules, read, &function, pads.collect())
            }
        };
        self.add_lock_use(modules, read, &function, &mut releases);
        releases
    }

    /// Returns the locks that a function releases at any of its landing pads.
    fn of_pads(
        &mut self,
        modules: &Modules,
        read: ReadCode<'_>,
        function: &Range<u64>,
        mut pads: Vec<u64>,
    ) -> Releases {
        let mut all = Releases::none();
        pads.sort_unstable();
        pads.dedup();
        for pad in pads {
            let of_pad = self.of_code(modules, read, function, pad, 0).uncertain();
            all.is_complete &= of_pad.is_complete;
            let new: Vec<_> = of_pad.list.into_iter().filter(|release| !all.list.contains(release)).collect();
            all.list.extend(new);
        }
        all
    }

    /// Adds a lock of each kind that a function acquires or releases anywhere. It may hold one
    /// while it does what cannot panic, and which one is unknown then.
    fn add_lock_use(&mut self, modules: &Modules, read: ReadCode<'_>, function: &Range<u64>, to: &mut Releases) {
        // Functions that wait for a lock have none of their own. One that waits for a condition has
        // released its mutex.
        let role = LockFunctions::get().role(function.start);
        if matches!(role, Some(Role::Waits(_) | Role::Wakes(_) | Role::WaitsForCondition)) {
            return;
        }
        let Some(left) = self.left.checked_sub(1) else {
            to.is_complete = false;
            return;
        };
        self.left = left;
        let mut found = references::lock_use(read, function);
        for drops in found.drops {
            let value = self.of_value(modules, read, drops, 1);
            found.is_complete &= value.is_complete;
            found.kinds.extend(value.list.iter().map(|release| release.kind));
        }
        to.is_complete &= found.is_complete;
        for kind in found.kinds {
            let unknown =
                Release { kind, guard: Value::Unknown, rest: Value::Unknown, layout: Layout::First, is_certain: false };
            if !to.list.contains(&unknown) {
                to.list.push(unknown);
            }
        }
    }

    /// Returns the locks that the code at `start` within `function` releases.
    fn of_code(
        &mut self,
        modules: &Modules,
        read: ReadCode<'_>,
        function: &Range<u64>,
        start: u64,
        depth: usize,
    ) -> Releases {
        let Some(left) = self.left.checked_sub(1) else { return Releases::unknown() };
        self.left = left;
        let functions = LockFunctions::get();
        let resume = resume_address();
        let is_endless = |target| resolve(modules, read, target) == resume;
        let found = calls(read, function, start, &is_endless);
        let mut releases = Releases { is_complete: found.is_complete, ..Releases::none() };
        let mut waits = Vec::new();
        for call in &found.list {
            match functions.role(resolve(modules, read, call.target)) {
                Some(Role::DropsGuard { kind, layout }) => releases.list.push(release(kind, call, layout)),
                Some(Role::Wakes(kind)) => releases.list.push(release(kind, call, Layout::First)),
                Some(Role::Waits(kind)) => waits.push(kind),
                Some(Role::DropsValue) if depth < MAX_DEPTH => {
                    let value = self.of_value(modules, read, call.target, depth + 1);
                    releases.is_complete &= value.is_complete;
                    releases.is_cut |= value.is_cut;
                    releases.list.extend(value.list.iter().map(|inner| Release {
                        guard: inner.guard.in_caller(call),
                        rest: inner.rest.in_caller(call),
                        ..*inner
                    }));
                }
                Some(Role::DropsValue) => releases.is_cut = true,
                Some(Role::WaitsForCondition | Role::Panics) | None => {}
            }
        }
        if releases.list.len() > MAX_RELEASES {
            releases.list.truncate(MAX_RELEASES);
            releases.is_complete = false;
        }
        // Code that also waits for a lock of the kind may release what it has taken itself. It has
        // done so where the lock is none of the function's variables.
        let waits_for = |release: &Release| waits.contains(&release.kind);
        releases.list.retain(|release| !(waits_for(release) && release.guard == Value::Unknown));
        releases.list.iter_mut().for_each(|release| release.is_certain &= !waits_for(release));
        releases
    }

    /// Returns the locks that a function which drops a value releases.
    pub(super) fn of_value(
        &mut self,
        modules: &Modules,
        read: ReadCode<'_>,
        start: u64,
        depth: usize,
    ) -> Arc<Releases> {
        // What was cut off at a smaller depth would be cut off here, too.
        let is_enough = |known: &&DroppedValue| !known.releases.is_cut || known.depth <= depth;
        if let Some(known) = self.values.get(&start).filter(is_enough) {
            return known.releases.clone();
        }
        // A type that contains itself ends at the greatest depth as well.
        let function = modules.find(start).and_then(|module| module.function(start));
        let releases = match function {
            Some(function) => Arc::new(self.of_code(modules, read, &function, start, depth)),
            None => Arc::new(Releases::none()),
        };
        if self.left == 0 {
            self.values.remove(&start);
            return releases;
        }
        if self.values.len() >= MAX_REMEMBERED {
            self.values.clear();
        }
        self.values.insert(start, DroppedValue { releases: releases.clone(), depth });
        releases
    }
}

fn release(kind: LockKind, call: &Call, layout: Layout) -> Release {
    Release { kind, guard: call.first, rest: call.second, layout, is_certain: true }
}

/// Returns the function that a call reaches, also by a stub of the linker.
pub(super) fn resolve(modules: &Modules, read: ReadCode<'_>, target: u64) -> u64 {
    let mut code = [0; 16];
    let is_stub = modules.is_code(target) && read(target, &mut code);
    // An optional `endbr64`, then a jump to an address that is stored.
    let rest = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&code);
    let Some(&[0xff, 0x25, a, b, c, d]) = rest.get(..6).filter(|_| is_stub) else { return target };
    let end = target + (code.len() - rest.len()) as u64 + 6;
    let stored = end.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
    let mut word = [0; 8];
    if read(stored, &mut word) { u64::from_le_bytes(word) } else { target }
}

/// Returns the address of the function that ends cleanup code: it continues to unwind.
pub(super) fn resume_address() -> u64 {
    unsafe extern "C-unwind" {
        fn _Unwind_Resume() -> !;
    }
    _Unwind_Resume as *const () as u64
}

/// The registers that matter to a guard's location, for the frames of a stack.
pub(super) const TRACKED: [Register; 6] = {
    let [r12, r13, r14, r15] = Register::R12_TO_R15;
    [Register::RBX, Register::RBP, r12, r13, r14, r15]
};

/// The numbers of [`TRACKED`] in the platform's ABI.
pub(super) const TRACKED_DWARF: [u16; 6] = [3, 6, 12, 13, 14, 15];
