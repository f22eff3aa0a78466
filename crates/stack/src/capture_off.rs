//! The API of `capture/` where the feature is off or the platform is not supported. Every capture
//! fails.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::procfs::SyscallState;
use crate::{Address, Capability, CaptureError, Frame, Stack, Target};

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

    /// Takes no stack.
    ///
    /// # Errors
    ///
    /// Always [`CaptureError::Unavailable`].
    pub fn capture(&mut self, _target: Target) -> Result<RawStack, CaptureError> {
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
}

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
        static SHARED: LazyLock<Mutex<Symbolizer>> = LazyLock::new(Mutex::default);
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a stack as functions and lines.
    pub fn symbolize(&mut self, raw: &RawStack) -> Stack {
        match *raw {}
    }

    /// Returns whether a stack can be symbolized without loading debug information first.
    pub fn is_loaded_for(&self, raw: &RawStack) -> bool {
        match *raw {}
    }

    /// Does nothing.
    pub fn release_unused(&mut self) {}

    /// Returns false: nothing is in memory.
    pub fn holds_tables(&self) -> bool {
        false
    }
}
