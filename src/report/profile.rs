//! The profile: blocked time by site, cause and stack, in a table of bounded size. The report
//! thread writes it, any thread reads it.

use std::collections::HashMap;
use std::sync::Arc;

use super::segments::ProfileSample;
use super::totals::CountAndTime;
use crate::model::cause::{Cause, Certainty};
use crate::model::profile::{Profile, ProfileEntry, ProfileFunction};
use crate::model::snapshot::StallSnapshot;
use crate::model::stall::Stall;
use pollwatch_stack::{Frame, Stack};

/// The largest number of entries with a stack and a site. Time of further stacks is added to
/// entries that have only the runtime, the routes and the cause.
const MAX_ENTRIES: usize = 2_000;
/// The largest number of all entries. Time of further routes is added to entries without a route.
const MAX_ENTRIES_WITH_ROUTES: usize = 2 * MAX_ENTRIES;
/// The largest number of functions of a stack. Outer ones are left out.
const MAX_DEPTH: usize = 128;

/// The key of an entry. The fields are those of [`ProfileEntry`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProfileKey {
    runtime: Arc<str>,
    site: Arc<str>,
    route: Option<Arc<str>>,
    parent_route: Option<Arc<str>>,
    cause: Cause,
    stack: Vec<ProfileFunction>,
}

/// The accumulated profile.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProfileStore {
    entries: HashMap<ProfileKey, CountAndTime>,
    /// The stalls of spawned tasks by the route whose handler spawned the task, however full
    /// `entries` are. The number of routes is bounded.
    spawned: HashMap<Arc<str>, CountAndTime>,
}

impl ProfileStore {
    /// Adds parts of a stall, each to the entry of its cause and stack. Suspected stalls are left
    /// out.
    pub(super) fn add(&mut self, stall: &Stall, samples: &[ProfileSample]) {
        if stall.certainty != Certainty::Suspected && !stall.is_of_root() {
            samples.iter().for_each(|sample| self.add_sample(stall, sample));
        }
    }

    fn add_sample(&mut self, stall: &Stall, sample: &ProfileSample) {
        let CountAndTime { count, time } = sample.amount;
        let mut key = ProfileKey {
            runtime: stall.runtime.clone(),
            site: site(stall),
            route: stall.route.clone(),
            parent_route: stall.parent_route.clone(),
            cause: sample.cause,
            stack: sample.stack.as_ref().map(functions).unwrap_or_default(),
        };
        if let (None, Some(route), true) = (&stall.route, &stall.parent_route, sample.cause.is_blamed()) {
            self.spawned.entry(route.clone()).or_default().add(count, time);
        }
        if self.is_full_for(&key, MAX_ENTRIES) {
            key.stack.clear();
            key.site = "other".into();
        }
        if self.is_full_for(&key, MAX_ENTRIES_WITH_ROUTES) {
            (key.route, key.parent_route) = (None, None);
        }
        self.entries.entry(key).or_default().add(count, time);
    }

    fn is_full_for(&self, key: &ProfileKey, limit: usize) -> bool {
        self.entries.len() >= limit && !self.entries.contains_key(key)
    }

    /// Returns the stalls of the tasks that each route's handlers spawned. Stalls that the task did
    /// not cause are excluded, and those of a request within the task.
    pub(crate) fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot> {
        self.spawned.iter().map(|(route, amount)| (route.clone(), stalls(*amount))).collect()
    }

    /// Returns the profile as plain data.
    pub(crate) fn snapshot(&self) -> Profile {
        let entry = |(key, amount): (&ProfileKey, &CountAndTime)| {
            let ProfileKey { runtime, site, route, parent_route, cause, stack } = key.clone();
            ProfileEntry { runtime, site, route, parent_route, cause, stack, stalls: stalls(*amount) }
        };
        let mut entries: Vec<_> = self.entries.iter().map(entry).collect();
        entries.sort_by(|a, b| {
            let names = |entry: &ProfileEntry| entry.stack.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
            b.stalls.time.cmp(&a.stalls.time).then_with(|| (&a.site, names(a)).cmp(&(&b.site, names(b))))
        });
        Profile { entries }
    }
}

fn stalls(amount: CountAndTime) -> StallSnapshot {
    StallSnapshot::new(amount.count, amount.time.to_duration())
}

fn site(stall: &Stall) -> Arc<str> {
    match stall.certainty {
        Certainty::Measured => stall.site.to_string().into(),
        _ => "an unwatched task".into(),
    }
}

fn functions(stack: &Stack) -> Vec<ProfileFunction> {
    let function =
        |frame: &Frame| ProfileFunction { name: frame.name().into(), file: frame.file.clone(), line: frame.line };
    let mut functions: Vec<_> = stack.user_frames().iter().take(MAX_DEPTH).map(function).collect();
    functions.reverse();
    functions
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::model::time::Nanos;
    use crate::report::samples::stall;

    #[test]
    fn a_full_profile_keeps_the_routes_and_the_spawned_stalls() {
        let mut profile = ProfileStore::default();
        let amount = CountAndTime { count: 1, time: Nanos::from_millis(10) };
        let samples = [ProfileSample { cause: Cause::Cpu, stack: None, amount }];
        for i in 0..3 * MAX_ENTRIES as u64 {
            let mut stall = stall(i, 10);
            stall.parent_route = Some(format!("/{i}").into());
            profile.add(&stall, &samples);
        }
        let mut known = stall(1, 10);
        known.parent_route = Some("/1".into());
        profile.add(&known, &samples);
        let spawned = profile.spawned_stalls();
        assert_eq!(spawned.len(), 3 * MAX_ENTRIES);
        assert_eq!((spawned["/1"].count, spawned["/5999"].count), (2, 1));
        let entries = profile.snapshot().entries;
        assert_eq!(entries.len(), MAX_ENTRIES_WITH_ROUTES + 1, "one entry has the rest");
        let of = |route: &str| entries.iter().find(|entry| entry.parent_route.as_deref() == Some(route));
        assert_eq!((&*of("/3000").unwrap().site, of("/5999")), ("other", None));
        assert_eq!(entries.iter().map(|entry| entry.stalls.count).sum::<u64>(), 3 * MAX_ENTRIES as u64 + 1);
    }
}
