//! The summary at the end of `pollwatch attach`: where the most time was blocked, and what was not
//! observed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pollwatch::{Cause, Certainty, Phase, Profile, ProfileEntry, ProfileFunction, Snapshot, Stall};
use serde_json::{Value, json};

use crate::text::{count, seconds};

/// The locations that the summary lists.
const MAX_LOCATIONS: usize = 10;
/// The most different locations of suspected stalls that are remembered.
const MAX_SUSPECTED: usize = 1_000;

/// The blocked time at one location: the innermost function of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Location {
    pub(super) cause: Cause,
    /// The function; empty where no stack was captured.
    pub(super) function: String,
    pub(super) file: Option<String>,
    /// The line with the most blocked time.
    pub(super) line: Option<u32>,
    pub(super) stalls: u64,
    pub(super) blocked: Duration,
}

/// Returns the locations of a profile, the one with the most blocked time first. Code that computes
/// is at another line in each sample, so that all lines of a function are one location.
pub(super) fn locations(profile: &Profile) -> Vec<Location> {
    let mut locations: Vec<Location> = Vec::new();
    // The entries are in descending order, so that the first has the line with the most time.
    for entry in &profile.entries {
        let (function, file, line) = innermost(entry);
        let is_same =
            |known: &&mut Location| known.cause == entry.cause && known.function == function && known.file == file;
        match locations.iter_mut().find(is_same) {
            Some(known) => {
                known.stalls += entry.stalls.count;
                known.blocked += entry.stalls.time;
            }
            None => locations.push(Location {
                cause: entry.cause,
                function,
                file,
                line,
                stalls: entry.stalls.count,
                blocked: entry.stalls.time,
            }),
        }
    }
    locations.sort_by_key(|location| std::cmp::Reverse(location.blocked));
    locations
}

fn innermost(entry: &ProfileEntry) -> (String, Option<String>, Option<u32>) {
    match entry.stack.last() {
        Some(ProfileFunction { name, file, line, .. }) => {
            (name.to_string(), file.as_ref().map(ToString::to_string), *line)
        }
        None => (String::new(), None, None),
    }
}

/// The locations of suspected stalls, which the profile excludes.
#[derive(Debug, Default)]
pub(super) struct SuspectedLocations {
    locations: Mutex<Vec<Location>>,
}

impl SuspectedLocations {
    /// Adds a stall, if it is suspected and has ended.
    pub(super) fn add(&self, stall: &Stall) {
        if stall.certainty != Certainty::Suspected || stall.phase != Phase::Resolved {
            return;
        }
        let (function, file, line) = match stall.stack.as_ref().and_then(|stack| stack.location()) {
            Some(frame) => (frame.name(), frame.file.as_ref().map(ToString::to_string), frame.line),
            None => (String::new(), None, None),
        };
        let mut locations = self.lock();
        let is_same =
            |known: &&mut Location| known.cause == stall.cause && known.function == function && known.file == file;
        if let Some(known) = locations.iter_mut().find(is_same) {
            known.stalls += 1;
            known.blocked += stall.elapsed;
        } else if locations.len() < MAX_SUSPECTED {
            let (cause, blocked) = (stall.cause, stall.elapsed);
            locations.push(Location { cause, function, file, line, stalls: 1, blocked });
        }
    }

    /// Returns the locations, the one with the most time first.
    pub(super) fn sorted(&self) -> Vec<Location> {
        let mut locations = self.lock().clone();
        locations.sort_by_key(|location| std::cmp::Reverse(location.blocked));
        locations
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Location>> {
        self.locations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number and the time of the suspected stalls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Suspected {
    pub(super) count: u64,
    pub(super) time: Duration,
}

/// Returns the suspected stalls of all runtimes.
pub(super) fn suspected(snapshot: &Snapshot) -> Suspected {
    let of_runtimes = snapshot.runtimes.iter().map(|runtime| runtime.suspected);
    of_runtimes.fold(Suspected::default(), |sum, stalls| Suspected {
        count: sum.count + stalls.count,
        time: sum.time + stalls.time,
    })
}

/// Formats the suspected stalls for a person; empty without any.
pub(super) fn suspected_text(suspected: &Suspected) -> String {
    match suspected.count == 0 && suspected.time.is_zero() {
        true => String::new(),
        false => format!("; {} suspected, {}", suspected.count, seconds(suspected.time.as_secs_f64())),
    }
}

/// Formats the locations as tables for a person.
pub(super) fn tables(observed: &[Location], suspected: &[Location]) -> String {
    match (observed.is_empty(), suspected.is_empty()) {
        (true, true) => "no stall was found\n".into(),
        (false, true) => table(observed),
        (true, false) => format!("no stall was observed; suspected:\n{}", table(suspected)),
        (false, false) => format!("{}suspected:\n{}", table(observed), table(suspected)),
    }
}

fn table(locations: &[Location]) -> String {
    let mut text = format!("{:>9}  {:>7}  {:<8}  location\n", "blocked", "stalls", "cause");
    for location in locations.iter().take(MAX_LOCATIONS) {
        let Location { cause, function, file, line, stalls, blocked } = location;
        let place = match (file, line) {
            (Some(file), Some(line)) => format!(" ({file}:{line})"),
            (Some(file), None) => format!(" ({file})"),
            (None, _) => String::new(),
        };
        let function = if function.is_empty() { "no stack was captured" } else { function };
        let (blocked, stalls) = (seconds(blocked.as_secs_f64()), count(*stalls as f64));
        text.push_str(&format!("{blocked:>9}  {stalls:>7}  {:<8}  {function}{place}\n", cause.as_str()));
    }
    match locations.len().saturating_sub(MAX_LOCATIONS) {
        0 => text,
        more => text + &format!("{:>9}  and {more} more locations\n", "..."),
    }
}

/// Returns the locations as JSON.
pub(super) fn json(locations: &[Location]) -> Value {
    let objects = locations.iter().map(|location| {
        json!({
            "cause": location.cause.as_str(),
            "function": (!location.function.is_empty()).then_some(&location.function),
            "file": location.file,
            "line": location.line,
            "stalls": location.stalls,
            "blocked_seconds": location.blocked.as_secs_f64(),
        })
    });
    objects.collect()
}
