//! The profile of blocked time in the formats of the tools that show it. Each format is a pure
//! function of the profile.

pub(super) mod entries;
pub(super) mod flamegraph;
pub(super) mod folded;
pub(super) mod pprof;
pub(super) mod speedscope;
mod tree;
pub(super) mod window;

use std::borrow::Cow;

use crate::{Profile, ProfileEntry};

impl Profile {
    /// Returns folded stacks, the input of flame graph tools: one line `frame;frame microseconds`
    /// for each stack, outermost frame first. The same as the page `/stalls/folded`.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let path = std::env::temp_dir().join("stalls.folded");
    /// std::fs::write(path, watchdog.profile().to_folded())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_folded(&self) -> String {
        folded::text(self)
    }

    /// Returns the profile as JSON for [speedscope](https://www.speedscope.app). The same as the
    /// page `/stalls/speedscope`.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// assert!(watchdog.profile().to_speedscope().starts_with('{'));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn to_speedscope(&self) -> String {
        // Numbers and texts are always JSON.
        speedscope::json(self).unwrap_or_default()
    }
}

/// Returns the file name of the program, empty where it is not known.
pub(super) fn program() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default()
}

/// One level of a stack from the runtime to the function that blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Level<'a> {
    name: Cow<'a, str>,
    file: Option<&'a str>,
    line: Option<u32>,
    /// `true` if the level is a runtime, a route, a site or a remark; `false` for a function.
    group: bool,
}

impl<'a> Level<'a> {
    fn group(name: impl Into<Cow<'a, str>>) -> Level<'a> {
        Level { name: name.into(), file: None, line: None, group: true }
    }
}

/// Returns the levels of an entry, outermost first: runtime, route (otherwise site), functions.
/// Stalls that the task did not cause are grouped under their cause.
fn levels(entry: &ProfileEntry) -> Vec<Level<'_>> {
    let mut levels = vec![Level::group(&*entry.runtime)];
    if !entry.cause.is_blamed() {
        levels.push(Level::group(format!("[{}]", entry.cause)));
    }
    levels.push(Level::group(entry.route.as_deref().unwrap_or(&entry.site)));
    levels.extend(entry.stack.iter().map(|function| Level {
        name: (&*function.name).into(),
        file: function.file.as_deref(),
        line: function.line,
        group: false,
    }));
    if entry.stack.is_empty() {
        levels.push(Level { group: false, ..Level::group(no_stack(entry)) });
    }
    levels
}

/// Returns the name that stands for the functions if no stack was captured.
fn no_stack(entry: &ProfileEntry) -> String {
    format!("[no stack: {}]", entry.cause)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod samples {
    use std::time::Duration;

    use crate::snapshot::StallSnapshot;
    use crate::{Cause, Profile, ProfileEntry, ProfileFunction};

    pub(super) fn function(name: &str, file: &str, line: u32) -> ProfileFunction {
        ProfileFunction {
            name: name.into(),
            file: (!file.is_empty()).then(|| file.into()),
            line: (line > 0).then_some(line),
        }
    }

    pub(super) fn entry(site: &str, cause: Cause, stack: Vec<ProfileFunction>, count: u64, nanos: u64) -> ProfileEntry {
        let stalls = StallSnapshot::new(count, Duration::from_nanos(nanos));
        ProfileEntry {
            runtime: "main".into(),
            site: site.into(),
            route: None,
            parent_route: None,
            cause,
            stack,
            stalls,
        }
    }

    pub(super) fn profile(entries: impl Into<Vec<ProfileEntry>>) -> Profile {
        Profile { entries: entries.into() }
    }

    /// Two stacks that differ in their innermost function, one without a stack, one that was
    /// starved.
    pub(super) fn stalls() -> Profile {
        let handler = || function("app::handler", "src/app.rs", 17);
        let lock = vec![handler(), function("app::lock", "src/app.rs", 50)];
        profile([
            entry(
                "src/main.rs:8:9",
                Cause::Cpu,
                vec![handler(), function("app::render", "src/app.rs", 41)],
                3,
                3_000_000_000,
            ),
            entry("src/main.rs:8:9", Cause::Lock, lock.clone(), 2, 1_000_000_000),
            entry("src/other.rs:1:2", Cause::Unknown, Vec::new(), 1, 10_000_500),
            entry("src/main.rs:8:9", Cause::Starved, lock, 1, 5_000_000),
        ])
    }

    /// Names that would be markup or line breaks if they were not escaped.
    pub(super) fn hostile_names() -> Profile {
        let mut entry = entry(
            "a;b\n<img onerror=alert(1)>",
            Cause::Cpu,
            vec![function("</title><script>\"'&\u{1b}\0", "<b>;.rs", 1)],
            1,
            20_000_000,
        );
        entry.runtime = "r&d 7\r\n".into();
        profile([entry])
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn names(entry: &ProfileEntry) -> Vec<String> {
        levels(entry).into_iter().map(|level| level.name.into_owned()).collect()
    }

    #[test]
    fn levels_lead_from_the_runtime_to_the_function() {
        let entries = samples::stalls().entries;
        assert_eq!(names(&entries[0]), ["main", "src/main.rs:8:9", "app::handler", "app::render"]);
        assert_eq!(names(&entries[2]), ["main", "src/other.rs:1:2", "[no stack: unknown]"]);
        let mut routed = entries[0].clone();
        routed.route = Some("/report/{id}".into());
        assert_eq!(names(&routed)[..3], ["main", "/report/{id}", "app::handler"], "all connections have one site");
        assert_eq!(names(&entries[3]), ["main", "[starved]", "src/main.rs:8:9", "app::handler", "app::lock"]);
    }
}
