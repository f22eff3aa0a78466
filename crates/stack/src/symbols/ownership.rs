//! Ownership of functions: the program, a dependency, or a library. The functions here are pure.

use crate::paths;

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

/// The crates of the standard library, as its folder names them.
const STANDARD: [&str; 8] = ["std", "core", "alloc", "proc_macro", "test", "panic_unwind", "panic_abort", "unwind"];

/// Returns whether a function belongs to the language, the C library, the runtime, or another
/// module than the program. Such code is not the cause of a stall.
///
/// The crate decides. A symbol starts with its name. An inlined function may have only the last
/// part of its path as its name; then the path of its file names the package.
pub(super) fn is_library(name: &str, file: Option<&str>, in_program: bool) -> bool {
    let root = name.split("::").next().unwrap_or(name);
    let by_file = |file: &str| {
        paths::below_toolchain(file).is_some()
            || package(file).is_some_and(|name| LIBRARIES.contains(&name))
            || has_no_crate(name) && is_in_standard_folder(file)
    };
    let by_name = LIBRARIES.contains(&root) || SYSTEM_SYMBOLS.iter().any(|prefix| name.starts_with(prefix));
    let is_bundled = file.is_none() && BUNDLED.contains(&root);
    !in_program || by_name || is_bundled || file.is_some_and(by_file)
}

/// Returns whether a function's name does not start with that of a crate.
fn has_no_crate(name: &str) -> bool {
    !name.contains("::") || name.starts_with('<')
}

/// Returns whether a file is in a folder like `library/core/src`, which is that of the standard
/// library in its repository. A program may have such a folder as well.
fn is_in_standard_folder(file: &str) -> bool {
    let is_standard = |rest: &str| {
        let mut names = rest.split('/').skip(1);
        names.next().is_some_and(|name| STANDARD.contains(&name)) && names.next() == Some("src")
    };
    paths::folders(file).any(|(_, folder, rest)| folder == "library" && is_standard(rest))
}

/// Returns whether a file's path is one of a dependency.
pub(super) fn is_dependency(file: &str) -> bool {
    package(file).is_some()
}

/// The folders in which cargo keeps the sources of dependencies, and Debian those of its packages.
const DEPENDENCY_FOLDERS: [&str; 4] = ["registry/src/", "git/checkouts/", "vendor/", "cargo/registry/"];

/// Returns the name of the dependency's package that a file belongs to, without its version; `None`
/// for the program's own files.
///
/// A registry keeps `<index>/<name>-<version>/`, `cargo vendor` `<name>/` or `<name>-<version>/`,
/// and a checkout of a repository `<repository>/<revision>/`, with the package anywhere below. The
/// folders before that may be remapped. A crate that counts as a library is recognised below any
/// folder with its name and version.
pub(super) fn package(file: &str) -> Option<&str> {
    let Some(below) = DEPENDENCY_FOLDERS.iter().find_map(|folder| below(file, folder)) else {
        let folder = paths::below_package_folder(file).and_then(|rest| rest.split('/').next());
        return folder.and_then(paths::without_version).or_else(|| versioned_library(file));
    };
    let folder = below.split_once("/src/").map_or(below, |(before, _)| before).rsplit('/').next()?;
    match folder.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => Some(name),
        _ => Some(folder),
    }
}

/// Returns the part of a path below a folder, which may be at its start.
fn below<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    file.match_indices(folder).find_map(|(at, _)| {
        let is_whole = at == 0 || file.as_bytes()[at - 1] == b'/';
        is_whole.then(|| &file[at + folder.len()..])
    })
}

/// Returns the package in whose folder with its version a file is, if it counts as a library.
fn versioned_library(file: &str) -> Option<&str> {
    let mut packages = paths::folders(file).filter_map(|(_, folder, _)| paths::without_version(folder));
    packages.find(|name| LIBRARIES.contains(name))
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
            "/usr/src/rustc-1.85.0/library/core/src/slice.rs",
            "/build/rustc-1.86.0-src/library/stdarch/crates/core_arch/src/x86/sse2.rs",
            "/usr/src/rustc-1.85.0/vendor/hashbrown-0.16.1/src/map.rs",
            "/remapped/library/core/src/slice.rs",
            "library/std/src/io/mod.rs",
            "tokio-1.54.1/src/runtime/park.rs",
            "/deps/parking_lot-0.12.5/src/condvar.rs",
            "registry/src/index-1/mio-1.0.3/src/poll.rs",
            "/usr/share/cargo/registry/mio-1.0.3/src/poll.rs",
        ] {
            assert!(is_library("inlined", Some(file), true), "{file}");
        }
        for file in [
            "src/library/core/mod.rs",
            "/r/registry/src/i/tokio-util-0.7.1/src/lib.rs",
            "/w/mio/src/lib.rs",
            "/w/library/api/src/lib.rs",
            "tokio-util-0.7.1/src/lib.rs",
        ] {
            assert!(!is_library("inlined", Some(file), true), "{file}");
        }
        let own = Some("/w/library/core/src/lib.rs");
        assert!(!is_library("app_core::inlined", own, true), "a folder of the program");
        assert!(is_library("<T as Into<U>>::into", own, true));
        assert!(!is_library("standard::thing", Some("src/standard.rs"), true));
    }

    #[test]
    fn packages() {
        for (file, name) in [
            ("/home/me/.cargo/registry/src/index-1/tokio-util-0.7.1/src/lib.rs", Some("tokio-util")),
            ("/home/me/.cargo/registry/src/index-1/tokio-1.54.1/src/src/lib.rs", Some("tokio")),
            ("/home/me/.cargo/git/checkouts/tokio-0123abcd/89ab012/tokio/src/lib.rs", Some("tokio")),
            ("/app/vendor/mio/src/lib.rs", Some("mio")),
            ("ureq-3.0.0/src/lib.rs", Some("ureq")),
            ("/r/index.crates.io-1949cf8c6b5b557f/a-b-1.0.0-rc.1/src/lib.rs", Some("a-b")),
            ("/usr/share/cargo/registry/ureq-3.0.0/src/lib.rs", Some("ureq")),
            ("/build/app-1.2.3/src/main.rs", None),
            ("/app/my_vendor/src/main.rs", None),
            ("/app/src/main.rs", None),
            ("src/main.rs", None),
        ] {
            assert_eq!(package(file), name, "{file}");
            assert_eq!(is_dependency(file), name.is_some(), "{file}");
        }
    }
}
