//! The API of `capture/` where the feature is off or the platform is not supported. Every capture
//! fails.

use std::ops::Range;

#[path = "capture/held_locks_off.rs"]
mod held_locks;

pub use held_locks::{LockSearch, ThreadLocks};

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::procfs::SyscallState;
use crate::{Activity, Address, Capability, CaptureError, Frame, Module, Stack, Target, Tid};

const REQUIREMENTS: &str = "only on Linux with glibc, on x86_64 and aarch64";

/// Returns which threads' stacks can be captured: none.
pub fn capability() -> Capability {
    Capability::Unavailable(REQUIREMENTS)
}

/// Returns `None`: no capture has failed for a further reason.
pub fn degradation() -> Option<Capability> {
    None
}

/// Does nothing.
pub fn preload() {}

/// Finds no function.
pub fn find_functions<K: Clone>(_part: &str, _kind: impl Fn(&str) -> Option<K>) -> Vec<(Range<Address>, K)> {
    Vec::new()
}

/// The functions of one module. None are searched for on this platform.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModuleFunctions<K> {
    /// The module.
    pub module: Arc<Module>,
    /// True for the executable.
    pub is_program: bool,
    /// False if nothing is found in the module.
    pub has_symbols: bool,
    /// The functions, with their addresses in memory.
    pub functions: Vec<(Range<Address>, K)>,
}

/// Returns false: there are no unwind tables to read.
pub fn is_preloaded() -> bool {
    false
}

#[doc(hidden)]
pub fn hold_unwind_tables() -> impl Sized {}

/// Takes no stacks on this platform.
#[derive(Debug, Default)]
pub struct Capturer {}

impl Capturer {
    /// Makes a capturer.
    pub fn new() -> Capturer {
        Capturer {}
    }

    /// Ignores the boundary.
    #[must_use]
    pub fn with_boundary(self, _is_boundary: fn(&Frame) -> bool) -> Capturer {
        self
    }

    /// Returns false: there is no copy.
    pub fn copy_contains(&self, _call: Address, _word: u64) -> bool {
        false
    }

    /// Takes no stack.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn capture(&mut self, _target: Target) -> Result<RawStack, CaptureError> {
        Err(CaptureError::Unavailable)
    }

    /// Returns false: there is no copy.
    pub fn copy_contains_beyond(&self, _stack: &RawStack, _word: u64) -> bool {
        false
    }

    /// Takes no stack.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn capture_waiting(&mut self, _tid: Tid, _state: Option<SyscallState>) -> Result<RawStack, CaptureError> {
        Err(CaptureError::Unavailable)
    }

    /// Takes no stack.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn capture_if_current(
        &mut self,
        _target: Target,
        _state: Option<SyscallState>,
        _is_current: impl Fn() -> bool,
    ) -> Result<RawStack, CaptureError> {
        Err(CaptureError::Unavailable)
    }

    /// Takes no stack.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn capture_or_wait(
        &mut self,
        _target: Target,
        _state: Option<SyscallState>,
        _activity: &Activity,
        _is_current: impl Fn() -> bool,
    ) -> Result<Capture, CaptureError> {
        Err(CaptureError::Unavailable)
    }

    /// Returns the stack of a pending capture, of which there are none on this platform.
    pub fn collect(
        &mut self,
        pending: PendingCapture,
        _is_current: impl FnOnce() -> bool,
    ) -> Result<RawStack, CaptureError> {
        match pending {}
    }
}

/// A capture that succeeded. There are none on this platform.
#[derive(Debug)]
pub enum Capture {
    /// The stack.
    Taken(RawStack),
    /// A stack that the thread still has to copy.
    Pending(PendingCapture),
}

/// A pending capture. There are none on this platform.
#[derive(Debug)]
pub enum PendingCapture {}

impl PendingCapture {
    /// Returns whether the thread has copied its stack.
    pub fn is_ready(&self) -> bool {
        match *self {}
    }
}

/// A stack as addresses. There are none on this platform.
#[derive(Clone, Debug)]
pub enum RawStack {}

impl RawStack {
    /// Returns the addresses, innermost first.
    pub fn addresses(&self) -> std::iter::Empty<Address> {
        match *self {}
    }

    /// Returns whether the stack reaches the thread's first function.
    pub fn is_complete(&self) -> bool {
        match *self {}
    }

    /// Returns the stack as modules and offsets.
    pub fn without_symbols(&self) -> Stack {
        match *self {}
    }
}

/// The symbolizer that all of this process share.
static SHARED: LazyLock<Mutex<Symbolizer>> = LazyLock::new(Mutex::default);

/// Turns raw stacks, of which there are none on this platform, into functions and lines.
#[derive(Debug, Default)]
pub struct Symbolizer {}

impl Symbolizer {
    /// Makes a symbolizer.
    pub fn new() -> Symbolizer {
        Symbolizer {}
    }

    /// Returns the symbolizer of the process, locked.
    pub fn shared() -> MutexGuard<'static, Symbolizer> {
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the shared symbolizer, if nobody uses it.
    pub fn try_shared() -> Option<MutexGuard<'static, Symbolizer>> {
        SHARED.try_lock().ok()
    }

    /// Returns a stack as functions and lines.
    pub fn symbolize(&mut self, raw: &RawStack) -> Stack {
        match *raw {}
    }

    /// Returns whether a stack can be symbolized without loading debug information first.
    pub fn is_loaded_for(&self, raw: &RawStack) -> bool {
        match *raw {}
    }

    /// Returns whether split debug information of a stack's functions is nowhere.
    pub fn lacks_split_units(&self, raw: &RawStack) -> bool {
        match *raw {}
    }

    /// Does nothing.
    pub fn release_unused(&mut self) {}

    /// Does nothing.
    pub fn release_all(&mut self) {}

    /// Returns 0: nothing is in memory.
    pub fn bytes_held(&self) -> u64 {
        0
    }

    /// Returns nothing: no file is read.
    pub fn take_problems(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Returns 0: no file is read.
    pub fn unusable_files(&self) -> u64 {
        0
    }

    /// Returns false: nothing is in memory.
    pub fn holds_tables(&self) -> bool {
        false
    }
}
