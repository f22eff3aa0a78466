//! Locations in the user's code.

use std::fmt;
use std::panic::Location;

use pollwatch_stack::paths::portable_path;

/// A location in the code where a task was spawned, or a future was wrapped.
///
/// Displays as `file:line:column`. The file is relative to its crate or registry, without the
/// folders of the machine that built it. All sites beyond
/// [`max_sites`](crate::WatchdogBuilder::max_sites) are one site, which displays as `other`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(Option<&'static Location<'static>>);

impl Site {
    /// `None` is the site `other`.
    pub(crate) fn new(location: Option<&'static Location<'static>>) -> Site {
        Site(location)
    }

    /// Returns the location; `None` for `other`.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for site in watchdog.snapshot().sites {
    ///     if let Some(location) = site.site.location() {
    ///         println!("{}, line {}", location.file(), location.line());
    ///     }
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
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
