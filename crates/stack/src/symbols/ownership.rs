//! Ownership of functions: the program, a dependency, or a library. The functions here are pure.

/// The crates that count as libraries: those of the language, tokio with its I/O driver, and locks
/// of the same kind as the language's. The standard library contains the last three for its
/// backtraces, without the paths of their files.
const LIBRARIES: [&str; 11] = [
    "std",
    "core",
    "alloc",
    "tokio",
    "mio",
    "parking_lot",
    "parking_lot_core",
    "lock_api",
    "rustc_demangle",
    "addr2line",
    "gimli",
];

/// Crates that the standard library contains as well, to read compressed debug information. It has
/// no paths of their files, unlike a program that uses them.
const BUNDLED: [&str; 2] = ["miniz_oxide", "adler2"];

/// Prefixes of symbols of the C library and of Rust's start code.
const SYSTEM_SYMBOLS: [&str; 3] = ["__", "_start", "rust_"];

/// Returns whether a function belongs to the language, the C library, the runtime, or another
/// module than the program. Such code is not the cause of a stall.
///
/// The crate decides. A symbol starts with its name. An inlined function may have only the last
/// part of its path as its name; then the path of its file names the package.
pub(super) fn is_library(name: &str, file: Option<&str>, in_program: bool) -> bool {
    let by_file = |file: &str| is_of_toolchain(file) || package(file).is_some_and(|name| LIBRARIES.contains(&name));
    let root = name.split("::").next().unwrap_or(name);
    let by_name = LIBRARIES.contains(&root) || SYSTEM_SYMBOLS.iter().any(|prefix| name.starts_with(prefix));
    let is_bundled = file.is_none() && BUNDLED.contains(&root);
    !in_program || by_name || is_bundled || file.is_some_and(by_file)
}

/// Returns whether a file belongs to the standard library, built by the Rust project or from
/// `rust-src`, or to one of its dependencies.
fn is_of_toolchain(file: &str) -> bool {
    file.starts_with("/rustc/") || file.contains("/rustlib/src/rust/library/") || file.starts_with("/rust/deps/")
}

/// Returns whether a file's path is one of a dependency.
pub(super) fn is_dependency(file: &str) -> bool {
    DEPENDENCY_FOLDERS.iter().any(|folder| file.contains(folder))
}

/// The folders in which cargo keeps the sources of dependencies.
const DEPENDENCY_FOLDERS: [&str; 3] = ["/registry/src/", "/git/checkouts/", "/vendor/"];

/// Returns the name of the dependency's package that a file belongs to, without its version; `None`
/// for the program's own files.
///
/// A registry keeps `<index>/<name>-<version>/`, `cargo vendor` `<name>/` or `<name>-<version>/`,
/// and a checkout of a repository `<repository>/<revision>/`, with the package anywhere below.
pub(super) fn package(file: &str) -> Option<&str> {
    let below = DEPENDENCY_FOLDERS.iter().find_map(|folder| file.split_once(folder))?.1;
    let folder = below.split_once("/src/").map_or(below, |(before, _)| before).rsplit('/').next()?;
    match folder.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => Some(name),
        _ => Some(folder),
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn functions_of_libraries() {
        assert!(is_library("std::thread::sleep", None, true));
        let file = Some("/home/me/.cargo/registry/src/i/miniz_oxide-0.8.9/src/inflate/core.rs");
        let of_inflate = [None, file].map(|file| is_library("miniz_oxide::inflate::core::decompress", file, true));
        assert_eq!(of_inflate, [true, false]);
        assert!(is_library("nanosleep", None, false));
        for file in [
            "/rustc/abc/library/core/src/slice.rs",
            "/home/me/.rustup/toolchains/stable/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs",
            "/rust/deps/hashbrown-0.16.1/src/map.rs",
            "/home/me/.cargo/registry/src/index-1/tokio-1.54.1/src/runtime/park.rs",
            "/home/me/.cargo/registry/src/index-1/parking_lot-0.12.5/src/condvar.rs",
            "/home/me/.cargo/git/checkouts/tokio-0123abcd/89ab012/tokio/src/runtime/park.rs",
            "/app/vendor/tokio/src/runtime/park.rs",
        ] {
            assert!(is_library("inlined", Some(file), true), "{file}");
        }
        for file in ["src/library/core/mod.rs", "/r/registry/src/i/tokio-util-0.7.1/src/lib.rs", "/w/mio/src/lib.rs"] {
            assert!(!is_library("inlined", Some(file), true), "{file}");
        }
        assert!(!is_library("standard::thing", Some("src/standard.rs"), true));
    }

    #[test]
    fn packages() {
        for (file, name) in [
            ("/home/me/.cargo/registry/src/index-1/tokio-util-0.7.1/src/lib.rs", Some("tokio-util")),
            ("/home/me/.cargo/registry/src/index-1/tokio-1.54.1/src/src/lib.rs", Some("tokio")),
            ("/home/me/.cargo/git/checkouts/tokio-0123abcd/89ab012/tokio/src/lib.rs", Some("tokio")),
            ("/app/vendor/mio/src/lib.rs", Some("mio")),
            ("/app/src/main.rs", None),
            ("src/main.rs", None),
        ] {
            assert_eq!(package(file), name, "{file}");
            assert_eq!(is_dependency(file), name.is_some(), "{file}");
        }
    }
}
