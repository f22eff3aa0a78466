//! The runtimes of the process, as far as stacks show them: names, and the threads of each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::detect::outside::observation::EntryId;
use crate::model::id::RuntimeId;

/// The largest number of runtimes that are distinguished. Further ones are the runtime `other`.
const MAX_RUNTIMES: usize = 63;
/// The names that tokio gives to the threads of a multi-thread runtime, as the kernel stores them.
const DEFAULT_NAMES: [&str; 2] = ["tokio-rt-worker", "tokio-runtime-w"];

/// The kind of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RuntimeFlavor {
    MultiThread,
    CurrentThread,
    /// A `LocalSet` that is driven outside of a current-thread runtime.
    LocalSet,
    /// No runtime: the threads that [`all_threads`](super::Attach::all_threads) adds.
    OtherThreads,
}

impl RuntimeFlavor {
    fn as_str(self) -> &'static str {
        match self {
            RuntimeFlavor::MultiThread => "multi-thread",
            RuntimeFlavor::CurrentThread => "current-thread",
            RuntimeFlavor::LocalSet => "LocalSet",
            RuntimeFlavor::OtherThreads => "other threads",
        }
    }
}

/// What distinguishes one runtime from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FoundKey {
    /// The multi-thread runtimes whose threads have this name, without a number at its end.
    Named(String),
    /// The runtime that this thread drives.
    Driven(RuntimeFlavor, EntryId),
    OtherThreads,
}

/// A runtime that was found.
#[derive(Clone, Debug)]
pub(super) struct FoundRuntime {
    pub(super) name: Arc<str>,
    /// The threads that drive it, as far as they were found.
    pub(super) threads: HashSet<EntryId>,
}

/// All runtimes that were found. A runtime keeps its id and its name.
#[derive(Debug, Default)]
pub(super) struct FoundRuntimes {
    ids: HashMap<FoundKey, RuntimeId>,
    list: Vec<FoundRuntime>,
}

impl FoundRuntimes {
    /// Returns the runtime that a thread drives. A thread drives one at a time.
    pub(super) fn add(&mut self, flavor: RuntimeFlavor, thread: EntryId, thread_name: &str) -> RuntimeId {
        let key = match flavor {
            RuntimeFlavor::MultiThread => FoundKey::Named(without_number(thread_name).to_owned()),
            RuntimeFlavor::OtherThreads => FoundKey::OtherThreads,
            _ => FoundKey::Driven(flavor, thread),
        };
        let id = match self.ids.get(&key) {
            Some(&id) => id,
            None if self.list.len() >= MAX_RUNTIMES => return RuntimeId::OTHER,
            None => {
                let name = self.unused_name(flavor, thread_name);
                self.list.push(FoundRuntime { name, threads: HashSet::new() });
                let id = RuntimeId(self.list.len() as u8);
                self.ids.insert(key, id);
                id
            }
        };
        self.list[id.index() - 1].threads.insert(thread);
        id
    }

    /// Drops a thread that has ended, or has left its runtime.
    pub(super) fn remove_thread(&mut self, thread: EntryId) {
        self.list.iter_mut().for_each(|runtime| {
            runtime.threads.remove(&thread);
        });
    }

    /// Returns the runtimes with their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = (RuntimeId, &FoundRuntime)> {
        self.list.iter().enumerate().map(|(index, runtime)| (RuntimeId(index as u8 + 1), runtime))
    }

    /// Returns the name of a runtime.
    pub(super) fn name(&self, id: RuntimeId) -> Arc<str> {
        let runtime = id.index().checked_sub(1).and_then(|index| self.list.get(index));
        runtime.map_or_else(|| "other".into(), |runtime| runtime.name.clone())
    }

    /// Returns a name that no runtime has yet: that of its threads if the program has chosen one,
    /// else its flavor.
    fn unused_name(&self, flavor: RuntimeFlavor, thread_name: &str) -> Arc<str> {
        let chosen = without_number(thread_name);
        let is_chosen = !DEFAULT_NAMES.contains(&thread_name) && !chosen.is_empty();
        let name = if flavor == RuntimeFlavor::MultiThread && is_chosen { chosen } else { flavor.as_str() };
        let is_used = |name: &str| self.list.iter().any(|runtime| &*runtime.name == name);
        if !is_used(name) {
            return name.into();
        }
        let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
        numbered.into_iter().find(|name| !is_used(name)).unwrap_or_default().into()
    }
}

/// Returns the name of a thread without a number at its end: `api-worker` of `api-worker-3`.
fn without_number(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', ' ', '#', ':'])
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn runtimes_have_the_names_of_their_threads() {
        let mut runtimes = FoundRuntimes::default();
        let mut add = |flavor, thread, name: &str| runtimes.add(flavor, EntryId(thread), name);
        let main = add(RuntimeFlavor::MultiThread, 1, "tokio-rt-worker");
        assert_eq!(add(RuntimeFlavor::MultiThread, 2, "tokio-rt-worker"), main);
        let api = add(RuntimeFlavor::MultiThread, 3, "api-1");
        assert_eq!(add(RuntimeFlavor::MultiThread, 4, "api-12"), api);
        let single = add(RuntimeFlavor::CurrentThread, 5, "app");
        let second = add(RuntimeFlavor::CurrentThread, 6, "app");
        assert_eq!(add(RuntimeFlavor::CurrentThread, 5, "app"), single);
        let names: Vec<_> = [main, api, single, second].map(|id| runtimes.name(id).to_string()).into();
        assert_eq!(names, ["multi-thread", "api", "current-thread", "current-thread-2"]);
        runtimes.remove_thread(EntryId(2));
        let threads: Vec<_> = runtimes.all().map(|(_, runtime)| runtime.threads.len()).collect();
        assert_eq!(threads, [1, 2, 1, 1]);
    }

    #[test]
    fn further_runtimes_are_the_runtime_other() {
        let mut runtimes = FoundRuntimes::default();
        for thread in 0..100 {
            runtimes.add(RuntimeFlavor::CurrentThread, EntryId(thread), "app");
        }
        assert_eq!(runtimes.all().count(), MAX_RUNTIMES);
        let further = runtimes.add(RuntimeFlavor::CurrentThread, EntryId(100), "app");
        assert_eq!(&*runtimes.name(further), "other");
    }
}
