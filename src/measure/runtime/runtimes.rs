//! The list of the runtimes of one watchdog, with their names.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::{Handle, Id};

use super::Runtime;
use crate::error::{Error, ErrorKind};
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::runtime::build_facts::BuildFacts;
use crate::measure::runtime::meter::Meter;
use crate::model::id::RuntimeId;
use crate::util::lock;

/// All runtimes of one watchdog, by id.
#[derive(Default)]
pub(crate) struct Runtimes {
    list: Mutex<Vec<Arc<Runtime>>>,
    /// Held while a runtime that exists already is looked up and attached.
    attach: Mutex<()>,
    /// `true` once the watchdog has stopped. No runtime is attached from then on.
    stopped: AtomicBool,
    /// `true` once the watchdog thread has ended, and nothing is scanned any more.
    unscanned: AtomicBool,
    /// The runtimes that were built or found when all names were taken, at most [`MAX_UNNAMED`].
    unnamed: Mutex<HashSet<Id>>,
    /// True once a log line has said that there are such runtimes.
    has_reported_unnamed: AtomicBool,
    /// True once it was logged that task hooks are not called in stable mode.
    has_reported_hooks: AtomicBool,
}

/// The number of runtimes without a name that are counted. Further ones are not watched either.
const MAX_UNNAMED: usize = 4096;

impl Runtimes {
    /// Reserves a name for a runtime that is about to be built or attached. Returns `None` when all
    /// names are taken.
    pub(crate) fn reserve(&self, name: &str, meter: &Arc<Meter>) -> Result<Option<Arc<Runtime>>, Error> {
        if name.trim().is_empty() {
            return Err(Error::invalid("a runtime's name must not be empty: it is the `runtime` label of its metrics"));
        }
        let mut list = self.list_with_other(meter);
        let known = list.iter().find(|r| &*r.name == name).cloned();
        let runtime = match known {
            Some(runtime) => runtime,
            None if list.len() >= MAX_RUNTIMES => return Ok(None),
            None => {
                let runtime = Runtime::new(RuntimeId(list.len() as u8), name, meter);
                list.push(runtime.clone());
                runtime
            }
        };
        let mut state = lock(&runtime.state);
        if runtime.id == RuntimeId::OTHER || state.reserved {
            let text = format!(
                "a runtime named {name:?} is watched already, and two would share one `runtime` label. Give this runtime \
                 another name, or shut the first one down before"
            );
            return Err(Error::new(ErrorKind::NameInUse, text));
        }
        state.reserved = true;
        drop(state);
        Ok(Some(runtime))
    }

    /// Counts a runtime that was built or found when all names were taken. Each is counted once.
    pub(crate) fn count_unnamed(&self, runtime: Id) {
        let mut unnamed = lock(&self.unnamed);
        if unnamed.len() < MAX_UNNAMED {
            unnamed.insert(runtime);
        }
    }

    /// Returns the number of runtimes that were built or found when all names were taken.
    pub(crate) fn unnamed(&self) -> u64 {
        lock(&self.unnamed).len() as u64
    }

    /// Returns true once: the caller logs that there are runtimes without a name.
    pub(crate) fn claim_report_of_unnamed(&self) -> bool {
        !self.has_reported_unnamed.swap(true, Ordering::Relaxed)
    }

    /// Returns true once: the caller logs that there are task hooks that are not called.
    pub(crate) fn claim_report_of_uncalled_hooks(&self) -> bool {
        !self.has_reported_hooks.swap(true, Ordering::Relaxed)
    }

    /// Locks the list, which has at least the runtime `other`.
    fn list_with_other(&self, meter: &Arc<Meter>) -> MutexGuard<'_, Vec<Arc<Runtime>>> {
        let mut list = lock(&self.list);
        if list.is_empty() {
            list.push(Runtime::new(RuntimeId::OTHER, "other", meter));
        }
        list
    }

    /// Returns the runtime `other`, which counts for all unknown runtimes.
    pub(crate) fn other(&self, meter: &Arc<Meter>) -> Arc<Runtime> {
        self.list_with_other(meter)[RuntimeId::OTHER.index()].clone()
    }

    pub(crate) fn get(&self, id: RuntimeId) -> Option<Arc<Runtime>> {
        lock(&self.list).get(id.index()).cloned()
    }

    /// Locks the attaching of runtimes: while the guard is held, no other thread attaches one.
    pub(crate) fn lock_attach(&self) -> MutexGuard<'_, ()> {
        lock(&self.attach)
    }

    /// Returns the entry of a handle's runtime, and attaches the runtime if it is not watched yet.
    /// Attaches none after the watchdog has stopped.
    ///
    /// Its name is tokio's name for it, or else the first of `runtime-1`, `runtime-2` ... that is
    /// free. A process that makes a runtime for each job or each test then needs only as many names
    /// as there are runtimes at a time.
    pub(crate) fn find_or_attach(&self, handle: &Handle, meter: &Arc<Meter>) -> Option<Arc<Runtime>> {
        self.find_or_attach_as(handle, meter, "runtime")
    }

    /// Does what [`find_or_attach`](Self::find_or_attach) does, with numbered names that start with
    /// `prefix`. Counts the runtime if all names are taken, and wakes the watchdog, which logs the
    /// first.
    pub(crate) fn find_or_attach_as(&self, handle: &Handle, meter: &Arc<Meter>, prefix: &str) -> Option<Arc<Runtime>> {
        let _guard = self.lock_attach();
        if let Some(known) = self.find(handle.id()) {
            return Some(known);
        }
        if self.is_stopped() {
            return None;
        }
        let reserve = |name: &str| self.reserve(name, meter).ok().flatten();
        let numbered = || (1..MAX_RUNTIMES).find_map(|n| reserve(&format!("{prefix}-{n}")));
        let Some(runtime) = handle.name().and_then(reserve).or_else(numbered) else {
            self.count_unnamed(handle.id());
            if !self.has_reported_unnamed.load(Ordering::Relaxed) {
                meter.wake.wake();
            }
            return None;
        };
        lock(&self.unnamed).remove(&handle.id());
        runtime.go_live(handle, BuildFacts::default());
        Some(runtime)
    }

    /// Returns whether the watchdog has stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Runtime>> {
        lock(&self.list).clone()
    }

    /// Returns the entry under which tokio's runtime with this id is counted.
    pub(crate) fn find(&self, id: Id) -> Option<Arc<Runtime>> {
        self.all().into_iter().find(|r| r.is(id))
    }

    /// Has no runtime attached from now on, because the watchdog stops.
    pub(crate) fn stop_attaching(&self) {
        let _guard = self.lock_attach();
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Returns whether scans find the polls that are running.
    pub(crate) fn are_scanned(&self) -> bool {
        !self.unscanned.load(Ordering::Relaxed)
    }

    /// Drops what is left of runtimes that shut down, because no scan follows.
    pub(crate) fn end_scans(&self) {
        // Stored before each state is locked: a runtime that starts to shut down later finds it.
        self.unscanned.store(true, Ordering::Relaxed);
        self.all().iter().for_each(|runtime| runtime.release_closing());
    }

    /// Drops all handles of tokio's runtimes, because the watchdog stops. `may_wake_workers` allows
    /// to wake a worker of each, so that the probe ends.
    pub(crate) fn stop_all(&self, may_wake_workers: bool) {
        self.stop_attaching();
        self.all().iter().for_each(|runtime| runtime.stop(may_wake_workers));
    }
}
