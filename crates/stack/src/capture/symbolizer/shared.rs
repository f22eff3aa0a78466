//! The symbolizer that all users in a process share.

use std::sync::{LazyLock, Mutex, MutexGuard, TryLockError};

use super::Symbolizer;
use crate::capture::guard::lock;

static SHARED: LazyLock<Mutex<Symbolizer>> = LazyLock::new(Mutex::default);

impl Symbolizer {
    /// Returns the symbolizer of the process, locked. All users share its tables.
    ///
    /// ```
    /// use pollwatch_stack::{RawStack, Symbolizer};
    ///
    /// fn print(raw: &RawStack) {
    ///     println!("{}", Symbolizer::shared().symbolize(raw));
    /// }
    /// ```
    pub fn shared() -> MutexGuard<'static, Symbolizer> {
        lock(&SHARED)
    }

    /// Returns the [`shared`](Self::shared) symbolizer, if nobody uses it. Whoever loads symbols
    /// holds it for up to seconds.
    ///
    /// ```
    /// use pollwatch_stack::Symbolizer;
    ///
    /// assert!(Symbolizer::try_shared().is_some());
    /// let _used = Symbolizer::shared();
    /// assert!(Symbolizer::try_shared().is_none());
    /// ```
    pub fn try_shared() -> Option<MutexGuard<'static, Symbolizer>> {
        match SHARED.try_lock() {
            Ok(symbolizer) => Some(symbolizer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
