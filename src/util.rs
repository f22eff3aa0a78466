//! Helpers of several layers: locks that outlive a panic, calls into user code that cannot unwind into pollwatch, rate limits,
//! short paths.

pub(crate) mod backoff;
pub(crate) mod token_bucket;

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

/// Runs `f` in a forked child of this process, which has only the calling thread; `None` if it did not return in half a minute.
#[cfg(all(test, unix, not(pollwatch_loom)))]
pub(crate) fn in_a_fork(f: impl FnOnce() -> bool) -> Option<bool> {
    // SAFETY: the child runs nothing but `f`, whose callers take no lock that another thread may have held, and leaves.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let mut good = false;
        call_user(|| good = f());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let (begin, mut status) = (std::time::Instant::now(), 0);
    // SAFETY: `status` is a valid place to write to; the child is ours, and has not been waited for.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        if begin.elapsed() > std::time::Duration::from_secs(30) {
            // SAFETY: as above.
            unsafe { (libc::kill(child, libc::SIGKILL), libc::waitpid(child, &mut status, 0)) };
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Some(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
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

/// A path as short as it still says where, for reading: below the workspace that the program was built in, as the compiler says it.
#[cfg(feature = "capture")]
pub(crate) fn short_path(path: &str) -> &str {
    static WORKSPACE: std::sync::LazyLock<Option<String>> = std::sync::LazyLock::new(|| {
        let program = std::env::current_exe().ok()?;
        let (root, _) = program.to_str()?.split_once("/target/")?;
        std::path::Path::new(root).join("Cargo.toml").is_file().then(|| root.to_owned())
    });
    below(WORKSPACE.as_deref(), path)
}

/// Away from where it was built nobody knows the workspace: then from the last `src` or the like on, with the package's folder if it
/// is one of several.
#[cfg(feature = "capture")]
fn below<'a>(workspace: Option<&str>, path: &'a str) -> &'a str {
    const MANY: [&str; 6] = ["crates", "packages", "libs", "services", "apps", "bins"];
    let portable = portable_path(path);
    if !portable.starts_with('/') {
        return portable;
    }
    if let Some(rest) = workspace.and_then(|root| path.strip_prefix(root)?.strip_prefix('/')) {
        return rest;
    }
    let folders = ["/src/", "/examples/", "/tests/", "/benches/"].iter().filter_map(|folder| path.rfind(folder));
    let Some(at) = folders.max() else { return path };
    let of_many = path[..at].rsplit_once('/').and_then(|(parent, _)| {
        let begin = parent.rfind('/')? + 1;
        MANY.contains(&&parent[begin..]).then_some(begin)
    });
    &path[of_many.unwrap_or(at + 1)..]
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
            ("/home/me/app/crates/api/src/main.rs", "crates/api/src/main.rs"),
            ("/crates/src/main.rs", "src/main.rs"),
            ("src/main.rs", "src/main.rs"),
            ("/odd/place.rs", "/odd/place.rs"),
        ] {
            assert_eq!(below(None, long), short);
            assert_eq!(below(Some("/home/you"), long), short);
        }
    }

    #[test]
    #[cfg(feature = "capture")]
    fn paths_below_the_workspace() {
        for (long, short) in [
            ("/home/me/app/src/report.rs", "src/report.rs"),
            ("/home/me/app/api/src/main.rs", "api/src/main.rs"),
            ("/home/me/app/generated/tables.rs", "generated/tables.rs"),
            ("/home/me/app2/src/main.rs", "src/main.rs"),
            ("/home/me/app/vendor/registry/src/index-1/ureq-3.0.0/src/lib.rs", "ureq-3.0.0/src/lib.rs"),
        ] {
            assert_eq!(below(Some("/home/me/app"), long), short);
        }
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/", file!());
        assert_eq!(short_path(here), file!(), "as sites are told");
    }
}
