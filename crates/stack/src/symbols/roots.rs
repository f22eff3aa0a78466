//! The root folders below which files are searched for.

use std::path::{Component, Path, PathBuf};

use super::separate::DEBUG_FOLDER;

/// The root folder of this process, and before it that of the process that has loaded a binary.
///
/// A container has a root folder of its own. The debug files of its programs may be in there, or
/// installed where this process runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Roots {
    other: Option<PathBuf>,
}

/// The root folder of this process alone.
pub(crate) static OWN_ROOT: Roots = Roots { other: None };

impl Roots {
    /// Returns the root folder of another process, such as `/proc/7/root`, and that of this one.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(crate) fn of_other(root: &Path) -> Roots {
        Roots { other: Some(root.into()) }
    }

    /// Returns the root folder of the other process.
    pub(super) fn foreign(&self) -> Option<&Path> {
        self.other.as_deref()
    }

    /// Returns the places to which an absolute path may lead, in the order in which they are tried.
    ///
    /// Another process may name any path. So in the root folder of this process only those are
    /// tried that are in the folder of installed debug files.
    pub(super) fn places<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        let in_other = self.other.iter().filter_map(|root| Some(root.join(path.strip_prefix("/").ok()?)));
        let is_debug_file =
            || path.starts_with(DEBUG_FOLDER) && !path.components().any(|part| part == Component::ParentDir);
        let is_tried = self.other.is_none() || is_debug_file();
        in_other.chain(is_tried.then(|| path.to_owned()))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_other_root_comes_first() {
        let places = |roots: &Roots, path| roots.places(Path::new(path)).collect::<Vec<_>>();
        let roots = Roots { other: Some("/proc/7/root".into()) };
        assert_eq!(places(&roots, "/usr/a"), [PathBuf::from("/proc/7/root/usr/a")], "no file of this process");
        let debug = "/usr/lib/debug/a.debug";
        assert_eq!(places(&roots, debug), [PathBuf::from("/proc/7/root/usr/lib/debug/a.debug"), debug.into()]);
        assert_eq!(places(&roots, "/usr/lib/debug/../../a").len(), 1);
        assert_eq!(places(&roots, "a"), Vec::<PathBuf>::new());
        assert_eq!(places(&OWN_ROOT, "/usr/a"), [PathBuf::from("/usr/a")]);
    }
}
