//! The tasks that waited behind a stall.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "serde")]
use super::serialize::as_seconds;
use super::site::Site;
use super::time::Millis;

/// The number of groups that `Display` names.
const SHOWN_GROUPS: usize = 4;

/// The tasks that waited behind a stall: each was woken before the stall ended, and was polled next
/// by the thread that had stalled, after the stall.
///
/// Known only with [`track_delays`](crate::WatchdogBuilder::track_delays), and for tasks that had
/// waited for at least a quarter of the threshold. A task's part of `waited` is the time that it
/// waited during the stall. A task that another thread polled is not counted, although it may have
/// waited because of the stall; neither is one whose poll has not ended yet.
///
/// ```
/// let builder = pollwatch::Watchdog::builder().track_delays(true).on_stall(|stall| {
///     if let Some(victims) = &stall.victims {
///         eprintln!("{} tasks waited for {:?} in all: {victims}", victims.tasks, victims.waited);
///     }
/// });
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Victims {
    /// The number of tasks.
    pub tasks: u64,
    /// The time that they waited during the stall, in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "waited_seconds"))]
    pub waited: Duration,
    /// The longest time that one of them waited during the stall.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "longest_seconds"))]
    pub longest: Duration,
    /// The tasks by route, or by site where they have no route: the groups that waited longest in
    /// all come first. At most 16 groups, of which each route and each site has one.
    pub groups: Vec<VictimGroup>,
    /// The tasks that are in none of the groups.
    pub others: u64,
}

/// The tasks of one route, or the tasks without a route of one site, that waited behind a stall.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VictimGroup {
    /// The route of the request that each task worked on when it was polled, or else the route
    /// under which it was spawned. `None` where the tasks have neither.
    pub route: Option<Arc<str>>,
    /// The site where the tasks were spawned. `None` where they have a route: the tasks of a route
    /// may have several sites.
    pub site: Option<Site>,
    /// The number of tasks.
    pub tasks: u64,
    /// The time that they waited during the stall, in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "waited_seconds"))]
    pub waited: Duration,
}

impl fmt::Display for VictimGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.route, &self.site) {
            (Some(route), _) => f.write_str(route)?,
            (None, Some(site)) => write!(f, "{site}")?,
            (None, None) => f.write_str("other")?,
        }
        if self.tasks > 1 {
            write!(f, " x{}", self.tasks)?;
        }
        Ok(())
    }
}

impl fmt::Display for Victims {
    /// Formats the victims like the log: `3 tasks waited 812 ms behind it: /ping x2, src/a.rs:7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.tasks == 1 { "task" } else { "tasks" };
        write!(f, "{} {noun} waited {} behind it", self.tasks, Millis(self.waited))?;
        let mut left = self.tasks;
        for (index, group) in self.groups.iter().take(SHOWN_GROUPS).enumerate() {
            f.write_str(if index == 0 { ": " } else { ", " })?;
            write!(f, "{group}")?;
            left = left.saturating_sub(group.tasks);
        }
        if left > 0 && !self.groups.is_empty() {
            write!(f, ", {left} more")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn group(route: Option<&str>, tasks: u64) -> VictimGroup {
        VictimGroup {
            route: route.map(Into::into),
            site: route.is_none().then(|| Site::new(None)),
            tasks,
            waited: Duration::from_millis(100 * tasks),
        }
    }

    #[test]
    fn victims_are_shown_by_route_or_site() {
        let victims = Victims {
            tasks: 3,
            waited: Duration::from_millis(812),
            groups: vec![group(Some("/ping"), 2), group(None, 1)],
            ..Victims::default()
        };
        assert_eq!(victims.to_string(), "3 tasks waited 812 ms behind it: /ping x2, other");
        let one =
            Victims { tasks: 1, waited: Duration::from_millis(300), groups: vec![group(Some("/"), 1)], ..victims };
        assert_eq!(one.to_string(), "1 task waited 300 ms behind it: /");
    }

    #[test]
    fn few_groups_are_shown_and_the_rest_is_a_number() {
        let groups: Vec<_> = ["/a", "/b", "/c", "/d", "/e"].map(|route| group(Some(route), 1)).into();
        let victims = Victims { tasks: 9, groups, others: 4, ..Victims::default() };
        assert!(victims.to_string().ends_with(": /a, /b, /c, /d, 5 more"), "{victims}");
    }
}
