//! Locations in the user's code.

use std::fmt;
use std::panic::Location;

use pollwatch_stack::paths::portable_path;

/// A location in the code: where a task was spawned, or a future was wrapped.
///
/// Displays as `file:line:column` (the file below its crate or registry, without the folders of the
/// machine that built it), or as `other` for the locations beyond
/// [`max_sites`](crate::WatchdogBuilder::max_sites).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(Option<&'static Location<'static>>);

impl Site {
    /// `None` is the site `other`.
    pub(crate) fn new(location: Option<&'static Location<'static>>) -> Site {
        Site(location)
    }

    /// The location, `None` for `other`.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.0
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{}:{}:{}", portable_path(at.file()), at.line(), at.column()),
            None => f.write_str("other"),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Site {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
