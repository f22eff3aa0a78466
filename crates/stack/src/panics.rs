//! Guards against panics of readers of malformed tables.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f` and returns whether it panicked. A payload whose own drop panics is leaked.
pub(crate) fn catches_panic(f: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else { return false };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    true
}
