//! Paths of source files without the part that depends on the machine that built the program.

use std::sync::LazyLock;

/// Returns a path without the part that differs between machines: relative to the folder of a
/// registry, or to the compiler's sources. Other paths are returned unchanged. Distinct files keep
/// distinct paths.
///
/// Where the compiler's sources were does not matter: distributions build it elsewhere, and paths
/// may be remapped (`--remap-path-prefix`).
///
/// ```
/// use pollwatch_stack::paths::portable_path;
///
/// let path = "/home/me/.cargo/registry/src/index-1/axum-0.8.9/src/serve/mod.rs";
/// assert_eq!(portable_path(path), "axum-0.8.9/src/serve/mod.rs");
/// assert_eq!(portable_path("/usr/src/rustc-1.85.0/library/std/a.rs"), "library/std/a.rs");
/// assert_eq!(portable_path("/app/src/main.rs"), "/app/src/main.rs");
/// ```
pub fn portable_path(path: &str) -> &str {
    if let Some(rest) = below_toolchain(path) {
        return rest;
    }
    let of_registry = path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    of_registry.map(|(_, rest)| rest).or_else(|| below_package_folder(path)).unwrap_or(path)
}

/// Returns the part of a path below the compiler's sources: `library/core/src/..`, or a dependency
/// of the standard library with its version. `None` for other files.
///
/// The Rust project builds in `/rustc/<hash>` and `/rust/deps`, a distribution in
/// `../rustc-<version>` or `../rustc-<version>-src`, and `rust-src` is in `../rustlib/src/rust`.
pub(crate) fn below_toolchain(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("/rust/deps/") {
        return Some(rest);
    }
    if let Some((_, rest)) = path.strip_prefix("/rustc/").and_then(|rest| rest.split_once('/')) {
        return Some(rest);
    }
    folders(path).find_map(|(parent, folder, rest)| {
        let is_toolchain = parent.starts_with("rustc-") || parent == "rustc";
        match folder {
            "library" if is_toolchain || path.contains("/rustlib/src/rust/library/") => Some(rest),
            "vendor" if is_toolchain => rest.split_once('/').map(|(_, below)| below),
            _ => None,
        }
    })
}

/// Returns the part of a path from a package's folder with its version on, where the folders before
/// it prove that it is a dependency: there are none, or the last is that of a registry's index
/// (`index.crates.io-1949cf8c6b5b557f`).
pub(crate) fn below_package_folder(path: &str) -> Option<&str> {
    let is_index = |folder: &str| {
        folder.rsplit_once('-').is_some_and(|(_, hash)| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let is_dependency = |parent: &str| parent.is_empty() || parent == "." || is_index(parent);
    let found = folders(path).find(|&(parent, folder, _)| is_dependency(parent) && without_version(folder).is_some());
    found.map(|(_, _, rest)| rest)
}

/// Returns a package's name, given that of a folder with its name and version (`mio-1.0.3`).
pub(crate) fn without_version(folder: &str) -> Option<&str> {
    let is_version = |version: &str| {
        let core = version.split(['-', '+']).next().unwrap_or_default();
        core.split('.').count() == 3 && core.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut dashes = folder.match_indices('-').map(|(at, _)| at);
    dashes.find(|&at| is_version(&folder[at + 1..])).map(|at| &folder[..at])
}

/// Returns each folder of a path with the name of its parent, which may be empty, and the path from
/// that folder on.
pub(crate) fn folders(path: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    let mut parent = "";
    std::iter::from_fn(move || {
        let (folder, below) = rest.split_once('/')?;
        let found = (parent, folder, rest);
        (parent, rest) = (folder, below);
        Some(found)
    })
}

/// Returns the shortest form of a path that still names the file.
///
/// It is relative to the workspace that the program was built in, as in the compiler's messages.
/// Where the workspace is unknown, it starts with the last `src`, `examples`, `tests` or `benches`.
///
/// ```
/// use pollwatch_stack::paths::short_path;
///
/// let path = "/home/me/.cargo/registry/src/index-1/ureq-3.0.0/src/lib.rs";
/// assert_eq!(short_path(path), "ureq-3.0.0/src/lib.rs");
/// assert_eq!(short_path("/build/app/src/report.rs"), "src/report.rs");
/// ```
pub fn short_path(path: &str) -> &str {
    static WORKSPACE: LazyLock<Option<String>> = LazyLock::new(|| {
        let program = std::env::current_exe().ok()?;
        // The folder that cargo builds into need not be called `target`.
        let root = program.ancestors().skip(1).find(|folder| folder.join("Cargo.toml").is_file())?;
        root.to_str().map(str::to_owned)
    });
    below(WORKSPACE.as_deref(), path)
}

/// Shortens a path, given the workspace if it is known. Without it, the package's folder is kept
/// where several packages share a parent folder (`crates/api/src/main.rs`).
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
        let start = parent.rfind('/')? + 1;
        MANY.contains(&&parent[start..]).then_some(start)
    });
    &path[of_many.unwrap_or(at + 1)..]
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn portable_paths_stay_distinct() {
        let path = "/home/me/.cargo/registry/src/index-1/axum-0.8.9/src/serve/mod.rs";
        assert_eq!(portable_path(path), "axum-0.8.9/src/serve/mod.rs");
        assert_ne!(portable_path("/a/one/src/lib.rs"), portable_path("/a/two/src/lib.rs"));
        assert_eq!(portable_path("src/main.rs"), "src/main.rs");
    }

    /// Those of distributions, of `rust-src`, and remapped ones.
    #[test]
    fn paths_of_other_toolchains_and_registries() {
        for (long, portable) in [
            ("/usr/src/rustc-1.85.0/library/core/src/ops/function.rs", "library/core/src/ops/function.rs"),
            ("/build/rustc-1.86.0-src/library/std/src/panic.rs", "library/std/src/panic.rs"),
            ("/usr/src/rustc-1.85.0/vendor/hashbrown-0.16.1/src/map.rs", "hashbrown-0.16.1/src/map.rs"),
            ("/t/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs", "library/alloc/src/vec/mod.rs"),
            ("tokio-1.54.1/src/runtime/park.rs", "tokio-1.54.1/src/runtime/park.rs"),
            ("./tokio-1.54.1/src/runtime/park.rs", "tokio-1.54.1/src/runtime/park.rs"),
            ("/r/index.crates.io-1949cf8c6b5b557f/a-b-1.0.0-rc.1/src/lib.rs", "a-b-1.0.0-rc.1/src/lib.rs"),
        ] {
            assert_eq!(portable_path(long), portable);
        }
        for path in ["/build/app-1.2.3/src/main.rs", "/home/me/library/core/src/lib.rs", "library/api/src/main.rs"] {
            assert_eq!(portable_path(path), path);
        }
    }

    #[test]
    fn paths_outside_the_workspace() {
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
    fn paths_inside_the_workspace() {
        for (long, short) in [
            ("/home/me/app/src/report.rs", "src/report.rs"),
            ("/home/me/app/api/src/main.rs", "api/src/main.rs"),
            ("/home/me/app/generated/tables.rs", "generated/tables.rs"),
            ("/home/me/app2/src/main.rs", "src/main.rs"),
            ("/home/me/app/vendor/registry/src/index-1/ureq-3.0.0/src/lib.rs", "ureq-3.0.0/src/lib.rs"),
        ] {
            assert_eq!(below(Some("/home/me/app"), long), short);
        }
        let package = env!("CARGO_MANIFEST_DIR");
        let root = package.strip_suffix("/crates/stack").expect("this package's folder");
        let here = format!("{root}/{}", file!());
        assert_eq!(short_path(&here), file!(), "as the compiler prints it");
    }
}
