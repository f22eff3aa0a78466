//! What several rooms need: locks that outlive a panic, calls into user code that cannot unwind into ours, short paths.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not: the data behind our locks is only counters and lists that are whole at every step.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls user code; tells whether it panicked. The payload is dropped behind the same guard, since its drop may panic too.
pub(crate) fn call_user(f: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => false,
        Err(payload) => {
            if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
                std::mem::forget(second);
            }
            true
        }
    }
}

/// A path without what is only of the machine that built it, and still unlike any other: below a registry's crate, below the
/// compiler's sources.
pub(crate) fn portable_path(path: &str) -> &str {
    if let Some(rest) = path.strip_prefix("/rust/deps/") {
        return rest;
    }
    let below = match path.strip_prefix("/rustc/") {
        Some(rest) => rest.split_once('/'),
        None => path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')),
    };
    below.map_or(path, |(_, rest)| rest)
}

/// A path as short as it still says where, for reading: from the last `src` or the like on.
#[cfg(feature = "capture")]
pub(crate) fn short_path(path: &str) -> &str {
    let portable = portable_path(path);
    if !portable.starts_with('/') {
        return portable;
    }
    let folders = ["/src/", "/examples/", "/tests/", "/benches/"].iter().filter_map(|folder| path.rfind(folder));
    folders.max().map_or(path, |at| &path[at + 1..])
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_unlike() {
        let path = "/home/me/.cargo/registry/src/index-1/axum-0.8.9/src/serve/mod.rs";
        assert_eq!(portable_path(path), "axum-0.8.9/src/serve/mod.rs");
        assert_ne!(portable_path("/a/one/src/lib.rs"), portable_path("/a/two/src/lib.rs"));
        assert_eq!(portable_path("src/main.rs"), "src/main.rs");
    }

    #[test]
    #[cfg(feature = "capture")]
    fn paths() {
        for (long, short) in [
            ("/home/me/app/src/report.rs", "src/report.rs"),
            ("/home/me/src/app/examples/a/main.rs", "examples/a/main.rs"),
            ("/home/me/.cargo/registry/src/index-1/ureq-3.0.0/src/lib.rs", "ureq-3.0.0/src/lib.rs"),
            ("/rustc/abcdef/library/std/src/thread.rs", "library/std/src/thread.rs"),
            ("/rust/deps/hashbrown-0.16.1/src/map.rs", "hashbrown-0.16.1/src/map.rs"),
            ("src/main.rs", "src/main.rs"),
            ("/odd/place.rs", "/odd/place.rs"),
        ] {
            assert_eq!(short_path(long), short);
        }
    }
}
