//! Blocked time by site, cause and stack, as plain data.

use std::sync::Arc;

use crate::model::cause::Cause;
use crate::model::snapshot::StallSnapshot;

/// The blocked time since the start, by location and cause; returned by
/// [`Watchdog::profile`](crate::Watchdog::profile).
///
/// At most 2,000 entries have a stack and a site of their own. What exceeds them is added to
/// entries that have no stack and the site `other`, one for each runtime, route and cause. Beyond
/// 4,000 entries, these have no route either.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let profile = watchdog.profile();
/// if let Some(worst) = profile.entries.first() {
///     let function = worst.stack.last().map_or("unknown", |function| &*function.name);
///     println!("{:?} in {function}, {}", worst.stalls.time, worst.site);
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Profile {
    /// The entries, by descending blocked time.
    pub entries: Vec<ProfileEntry>,
}

/// The stalls that had the same runtime, site, routes, cause and stack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProfileEntry {
    /// The runtime's name.
    pub runtime: Arc<str>,
    /// The site: `file:line:column`, `an unwatched task` where it is not known, or `other` beyond
    /// the limit of sites or entries.
    pub site: Arc<str>,
    /// The route of the request that blocked.
    pub route: Option<Arc<str>>,
    /// The route of the request whose handler spawned the task.
    pub parent_route: Option<Arc<str>>,
    /// The cause.
    pub cause: Cause,
    /// The application's part of the stack, outermost function first; empty if none was captured.
    pub stack: Vec<ProfileFunction>,
    /// The number of finished stalls, and the blocked time, which includes ongoing stalls.
    pub stalls: StallSnapshot,
}

/// One function of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProfileFunction {
    /// The function's path.
    pub name: Arc<str>,
    /// The source file.
    pub file: Option<Arc<str>>,
    /// The line within the file.
    pub line: Option<u32>,
}
