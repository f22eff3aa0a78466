//! The part of a profile that was recorded in a time window, for continuous profilers. They ask for
//! the last seconds again and again, and sum up what they get.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{pprof, program};
use crate::snapshot::StallSnapshot;
use crate::{Cause, Profile, ProfileEntry, ProfileFunction};

/// The longest window. A request holds a connection for as long.
pub(in crate::export) const MAX_WINDOW: Duration = Duration::from_secs(120);

/// Returns the window that a query asks for: `seconds`, as in Go's `net/http/pprof`. `None` if it
/// asks for the profile since the start.
pub(in crate::export) fn of_query(query: &str) -> Option<Result<Duration, InvalidWindow>> {
    let seconds = query.split('&').find_map(|parameter| parameter.strip_prefix("seconds="))?;
    let window = seconds.parse().map(Duration::from_secs).ok();
    let window = window.filter(|window| !window.is_zero() && *window <= MAX_WINDOW);
    Some(window.ok_or(InvalidWindow))
}

/// The parameter `seconds` is no number, or out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export) struct InvalidWindow;

/// The profile at the start of a window.
pub(in crate::export) struct WindowStart {
    profile: Profile,
    instant: Instant,
    time: SystemTime,
}

impl WindowStart {
    pub(in crate::export) fn new(profile: Profile) -> WindowStart {
        WindowStart { profile, instant: Instant::now(), time: SystemTime::now() }
    }

    /// Returns what was recorded from the start of the window to `now`, in pprof's format.
    pub(in crate::export) fn pprof_until(&self, now: Profile) -> std::io::Result<Vec<u8>> {
        let recording = pprof::Recording { program: program(), start: self.time, duration: self.instant.elapsed() };
        pprof::gzipped(&since(now, &self.profile), &recording)
    }
}

/// The stalls that one entry counts.
#[derive(PartialEq, Eq, Hash)]
struct EntryKey<'a> {
    runtime: &'a str,
    site: &'a str,
    route: Option<&'a Arc<str>>,
    parent_route: Option<&'a Arc<str>>,
    cause: Cause,
    stack: &'a [ProfileFunction],
}

impl<'a> EntryKey<'a> {
    fn of(entry: &'a ProfileEntry) -> EntryKey<'a> {
        EntryKey {
            runtime: &entry.runtime,
            site: &entry.site,
            route: entry.route.as_ref(),
            parent_route: entry.parent_route.as_ref(),
            cause: entry.cause,
            stack: &entry.stack,
        }
    }
}

/// Returns what a profile has in addition to an earlier one, without entries that are unchanged.
///
/// The part of a stall that is ongoing at the start of the window is not counted again. If such a
/// stall gets another cause or stack afterwards, its earlier entry may shrink; it counts as
/// unchanged then.
fn since(now: Profile, earlier: &Profile) -> Profile {
    let before: HashMap<EntryKey, StallSnapshot> =
        earlier.entries.iter().map(|entry| (EntryKey::of(entry), entry.stalls)).collect();
    let gained = |mut entry: ProfileEntry| {
        let before = before.get(&EntryKey::of(&entry)).copied().unwrap_or_default();
        let StallSnapshot { count, time } = entry.stalls;
        entry.stalls = StallSnapshot::new(count.saturating_sub(before.count), time.saturating_sub(before.time));
        (entry.stalls != StallSnapshot::default()).then_some(entry)
    };
    Profile { entries: now.entries.into_iter().filter_map(gained).collect() }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples::{entry, function, profile, stalls};
    use super::*;

    #[test]
    fn seconds_is_a_positive_number_within_the_limit() {
        assert_eq!(of_query(""), None);
        assert_eq!(of_query("debug=1"), None);
        assert_eq!(of_query("seconds=14"), Some(Ok(Duration::from_secs(14))));
        assert_eq!(of_query("gc=1&seconds=120"), Some(Ok(MAX_WINDOW)));
        for invalid in ["seconds=", "seconds=0", "seconds=-1", "seconds=121", "seconds=1.5", "seconds=x&seconds=1"] {
            assert_eq!(of_query(invalid), Some(Err(InvalidWindow)), "{invalid}");
        }
    }

    #[test]
    fn only_what_was_recorded_in_the_window_is_left() {
        let nothing = since(stalls(), &stalls());
        assert!(nothing.entries.is_empty(), "{nothing:?}");
        assert_eq!(since(stalls(), &Profile::default()).entries, stalls().entries);

        let stack = |line| vec![function("app::render", "src/app.rs", line)];
        let earlier = profile([
            entry("a", Cause::Cpu, stack(1), 3, 300),
            entry("a", Cause::Lock, stack(1), 1, 100),
            entry("a", Cause::Cpu, stack(2), 5, 500),
        ]);
        let now = profile([
            entry("a", Cause::Cpu, stack(1), 4, 350),
            // It was ongoing, and got another cause.
            entry("a", Cause::Lock, stack(1), 1, 90),
            // It is ongoing, and not yet counted.
            entry("a", Cause::Cpu, stack(2), 5, 570),
            entry("b", Cause::Cpu, stack(1), 1, 20),
        ]);
        let wanted = [
            entry("a", Cause::Cpu, stack(1), 1, 50),
            entry("a", Cause::Cpu, stack(2), 0, 70),
            entry("b", Cause::Cpu, stack(1), 1, 20),
        ];
        assert_eq!(since(now, &earlier).entries, wanted);
    }
}
