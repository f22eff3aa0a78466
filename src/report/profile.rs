//! The profile of blocked time: by site, cause and stack. Bounded. Written by the dispatcher, read
//! by any thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::totals::CountAndTime;
use crate::model::cause::{Cause, Certainty};
use crate::model::stall::{Phase, Stall};

/// The number of distinct stacks that are kept. Further ones are added up without a stack.
const MAX_ENTRIES: usize = 2_000;
/// The number of functions of a stack that are kept: the innermost.
const MAX_DEPTH: usize = 128;

/// What the entries of the profile are distinguished by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) runtime: Arc<str>,
    /// The site as text; `an unwatched task` where it is unknown, `other` where there are too many.
    pub(crate) site: Arc<str>,
    pub(crate) route: Option<Arc<str>>,
    /// The route of the request whose handler spawned the task.
    pub(crate) parent_route: Option<Arc<str>>,
    pub(crate) cause: Cause,
    /// The user's part of the stack, outermost first; empty where none was captured.
    pub(crate) stack: Vec<Function>,
}

/// One function of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Function {
    pub(crate) name: Arc<str>,
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: Option<u32>,
}

/// The stalls of the tasks that a route's handlers spawned.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) type UnderRoute = CountAndTime;

/// The profile of one watchdog.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    entries: HashMap<Key, CountAndTime>,
}

impl Profile {
    /// Adds time of a stall to the stack that it has now, and counts the stall if it is over.
    pub(crate) fn add(&mut self, stall: &Stall, time: Duration) {
        let mut key = Key {
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

    /// Returns the totals of the tasks that a route's handlers spawned, as far as these tasks are
    /// to blame and no route is by itself.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn under_routes(&self) -> HashMap<Arc<str>, UnderRoute> {
        let mut sums: HashMap<Arc<str>, UnderRoute> = HashMap::new();
        for (key, amount) in self.entries.iter().filter(|(key, _)| key.route.is_none() && key.cause.is_blamed()) {
            if let Some(route) = &key.parent_route {
                sums.entry(route.clone()).or_default().add(amount.count, amount.nanos);
            }
        }
        sums
    }

    /// Returns all entries, the most blocked time first.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn entries(&self) -> Vec<(Key, CountAndTime)> {
        let mut entries: Vec<_> = self.entries.iter().map(|(key, amount)| (key.clone(), *amount)).collect();
        entries.sort_by(|(a, left), (b, right)| {
            let names = |key: &Key| key.stack.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
            right.nanos.cmp(&left.nanos).then_with(|| (&a.site, names(a)).cmp(&(&b.site, names(b))))
        });
        entries
    }
}

fn site(stall: &Stall) -> Arc<str> {
    match stall.certainty {
        Certainty::Measured => stall.site.to_string().into(),
        _ => "an unwatched task".into(),
    }
}

fn functions(stall: &Stall) -> Vec<Function> {
    let Some(stack) = &stall.stack else { return Vec::new() };
    let function = |frame: &crate::model::stack::Frame| Function {
        name: frame.name().into(),
        file: frame.file.clone(),
        line: frame.line,
    };
    let mut functions: Vec<_> = stack.user_frames().iter().take(MAX_DEPTH).map(function).collect();
    functions.reverse();
    functions
}
