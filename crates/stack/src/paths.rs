//! Paths of source files without the part that depends on the machine that built the program.

use std::sync::LazyLock;

/// Returns a path without the part that differs between machines: relative to the folder of a
/// registry, or to the compiler's sources. Other paths are returned unchanged. Distinct files keep
/// distinct paths.
///
/// ```
/// use pollwatch_stack::paths::portable_path;
///
/// let path = "/home/me/.cargo/registry/src/index-1/axum-0.8.9/src/serve/mod.rs";
/// assert_eq!(portable_path(path), "axum-0.8.9/src/serve/mod.rs");
/// assert_eq!(portable_path("/app/src/main.rs"), "/app/src/main.rs");
/// ```
pub fn portable_path(path: &str) -> &str {
    if let Some(rest) = path.strip_prefix("/rust/deps/") {
        return rest;
    }
    let below = match path.strip_prefix("/rustc/") {
        Some(rest) => rest.split_once('/'),
        None => path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')),
    };
    below.map_or(path, |(_, rest)| rest)
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
