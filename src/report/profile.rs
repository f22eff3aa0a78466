//! The profile: blocked time by site, cause and stack, in a table of bounded size. The dispatcher's
//! thread writes it, any thread reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::totals::CountAndTime;
use crate::model::cause::{Cause, Certainty};
use crate::model::profile::{Profile, ProfileEntry, ProfileFunction};
use crate::model::snapshot::StallSnapshot;
use crate::model::stall::{Phase, Stall};
use pollwatch_stack::Frame;

/// The largest number of keys. Time of further keys is added to keys without a stack.
const MAX_ENTRIES: usize = 2_000;
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
}

impl ProfileStore {
    /// Adds blocked time to the entry of a stall's current stack. Counts the stall if it has ended.
    pub(crate) fn add(&mut self, stall: &Stall, time: Duration) {
        let mut key = ProfileKey {
            runtime: stall.runtime.clone(),
            site: site(stall),
            route: stall.route.clone(),
            parent_route: stall.parent_route.clone(),
            cause: stall.cause,
            stack: functions(stall),
        };
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            key.stack.clear();
            key.site = "other".into();
            (key.route, key.parent_route) = (None, None);
        }
        let count = u64::from(stall.phase == Phase::Resolved);
        self.entries.entry(key).or_default().add(count, time.as_nanos() as u64);
    }

    /// Returns the stalls of the tasks that each route's handlers spawned. Stalls that the task did
    /// not cause are excluded, and those of a request within the task.
    pub(crate) fn spawned_stalls(&self) -> HashMap<Arc<str>, StallSnapshot> {
        let mut sums: HashMap<Arc<str>, CountAndTime> = HashMap::new();
        for (key, amount) in self.entries.iter().filter(|(key, _)| key.route.is_none() && key.cause.is_blamed()) {
            if let Some(route) = &key.parent_route {
                sums.entry(route.clone()).or_default().add(amount.count, amount.nanos);
            }
        }
        sums.into_iter().map(|(route, amount)| (route, stalls(amount))).collect()
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
    StallSnapshot::new(amount.count, Duration::from_nanos(amount.nanos))
}

fn site(stall: &Stall) -> Arc<str> {
    match stall.certainty {
        Certainty::Measured => stall.site.to_string().into(),
        _ => "an unwatched task".into(),
    }
}

fn functions(stall: &Stall) -> Vec<ProfileFunction> {
    let Some(stack) = &stall.stack else { return Vec::new() };
    let function =
        |frame: &Frame| ProfileFunction { name: frame.name().into(), file: frame.file.clone(), line: frame.line };
    let mut functions: Vec<_> = stack.user_frames().iter().take(MAX_DEPTH).map(function).collect();
    functions.reverse();
    functions
}
