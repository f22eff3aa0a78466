//! How runtimes come to be watched.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime, Runtime};

use super::{Watchdog, coverage};
use crate::error::Error;
use crate::measure::entry::hooks::{self, Hooks};
use crate::measure::runtime::Runtime as Entry;
use crate::measure::runtime::callbacks::{self, Installed};
use crate::measure::runtime::worker_threads::WorkerThreads;
use crate::report::log;

impl Watchdog {
    /// Builds a runtime and watches it under `name`, the `runtime` label of its metrics.
    ///
    /// With `tokio_unstable` every task spawned on it is seen. tokio keeps one callback for each
    /// task hook and overwrites silently: hooks that you set on the builder are lost (they cannot
    /// be seen there), so give them to [`build_runtime_with`](Self::build_runtime_with). Thread
    /// callbacks stay as they are.
    ///
    /// In stable mode what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap is measured, and
    /// the workers of a multi-thread runtime are observed from outside: see
    /// [`Certainty`](crate::Certainty). Observing them takes the thread callbacks, so pass yours to
    /// [`build_runtime_with`](Self::build_runtime_with) as well.
    ///
    /// The builder can build further runtimes, which pollwatch does not observe. tokio cannot
    /// remove a callback from a builder, so in stable mode four callbacks without effect stay in
    /// it. A builder that is moved to another address after that is refused, as if those callbacks
    /// were yours. pollwatch recognizes them by the builder's address. While that builder, or a runtime
    /// that was built from it without pollwatch, exists, your callbacks on another builder at the
    /// same address are replaced without an error. Pass your callbacks to
    /// [`build_runtime_with`](Self::build_runtime_with) to rule this out.
    ///
    /// # Errors
    ///
    /// What tokio's `build` returns; `InvalidInput` when the name is empty or that of a runtime
    /// that is still watched (that of one that was shut down may be used again, and keeps its
    /// counters), and when the builder has thread callbacks that would be lost. One watchdog
    /// distinguishes 63 names. A runtime with a further name is built, but not watched. This is
    /// logged once, and [`coverage`](Self::coverage) counts such runtimes. Name runtimes after
    /// their purpose, not after the time they were built.
    pub fn build_runtime(&self, name: &str, builder: &mut Builder) -> io::Result<Runtime> {
        self.build_runtime_with(name, builder, Hooks::new())
    }

    /// As [`build_runtime`](Self::build_runtime), with your own hooks and thread callbacks around
    /// ours.
    ///
    /// # Errors
    ///
    /// As [`build_runtime`](Self::build_runtime).
    pub fn build_runtime_with(&self, name: &str, builder: &mut Builder, hooks: Hooks) -> io::Result<Runtime> {
        let (entry, pool, runtime) = self.build(name, builder, hooks, true, Builder::build)?;
        if let Some(entry) = entry {
            entry.go_live(runtime.handle(), hooks::INSTALLED, pool);
            self.tell_coverage(&entry);
        }
        Ok(runtime)
    }

    /// Builds a [`LocalRuntime`] and watches it, as [`build_runtime`](Self::build_runtime) does.
    ///
    /// # Errors
    ///
    /// As [`build_runtime`](Self::build_runtime).
    ///
    /// # Panics
    ///
    /// When the builder is a multi-thread one, as tokio's `build_local` does.
    pub fn build_local_runtime(
        &self,
        name: &str,
        builder: &mut Builder,
        options: LocalOptions,
    ) -> io::Result<LocalRuntime> {
        self.build_local_runtime_with(name, builder, options, Hooks::new())
    }

    /// As [`build_local_runtime`](Self::build_local_runtime), with your own hooks and thread
    /// callbacks around ours.
    ///
    /// # Errors
    ///
    /// As [`build_runtime`](Self::build_runtime).
    ///
    /// # Panics
    ///
    /// As [`build_local_runtime`](Self::build_local_runtime).
    pub fn build_local_runtime_with(
        &self,
        name: &str,
        builder: &mut Builder,
        options: LocalOptions,
        hooks: Hooks,
    ) -> io::Result<LocalRuntime> {
        let (entry, _, runtime) = self.build(name, builder, hooks, false, |b| b.build_local(options))?;
        if let Some(entry) = entry {
            entry.go_live(runtime.handle(), hooks::INSTALLED, None);
            self.tell_coverage(&entry);
        }
        Ok(runtime)
    }

    fn build<R>(
        &self,
        name: &str,
        builder: &mut Builder,
        mut user: Hooks,
        workers: bool,
        build: impl FnOnce(&mut Builder) -> io::Result<R>,
    ) -> io::Result<Built<R>> {
        let meter = &self.state.meter;
        let entry = meter.runtimes.reserve(name, meter.id)?;
        let mut reserved = Reserved(entry.clone());
        let looked_at = workers && entry.is_some();
        let (installed, pool) = callbacks::install(builder, meter, user.take_threads(), looked_at)?;
        let lent = Lent { builder, installed };
        match &entry {
            Some(entry) => hooks::install(lent.builder, entry, user),
            None => {
                if meter.runtimes.count_unnamed() && self.state.config.log {
                    log::degraded(&format!(
                        "the runtime {name:?} is not watched: one watchdog tells 63 names apart, and they are taken; name \
                         runtimes for what they are for, or build them with another watchdog"
                    ));
                }
                hooks::install_user(lent.builder, meter, user);
            }
        }
        let runtime = build(lent.builder);
        drop(lent);
        let runtime = runtime?;
        reserved.0 = None;
        Ok((entry, pool, runtime))
    }

    fn tell_coverage(&self, entry: &Entry) {
        if self.state.config.log {
            log::watching(&coverage::of_runtime(entry));
        }
    }

    /// Watches a runtime that somebody else built (`#[tokio::main]`): its own metrics, and what
    /// [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap. tokio's hooks and thread callbacks
    /// can only be set when a runtime is built, so other tasks are not seen, nor workers that they
    /// block; [`coverage`](Self::coverage) says so.
    ///
    /// # Errors
    ///
    /// An empty name, that of a runtime that is still watched, a runtime that is watched already,
    /// one that is shut down, or a 64th name.
    pub fn attach(&self, name: &str, handle: &Handle) -> Result<(), Error> {
        let runtimes = &self.state.meter.runtimes;
        let one_at_a_time = runtimes.adopting();
        if let Some(known) = runtimes.find(handle.id()) {
            return Err(Error::invalid(format!("this runtime is watched already, as {:?}", known.name)));
        }
        let Some(entry) = runtimes.reserve(name, self.state.meter.id)? else {
            return Err(Error::invalid("one watchdog tells 63 names of runtimes apart, and they are taken"));
        };
        entry.go_live(handle, false, None);
        // The subscriber may poll what is watched.
        drop(one_at_a_time);
        self.tell_coverage(&entry);
        if entry.is_live() { Ok(()) } else { Err(Error::invalid("this runtime is shut down")) }
    }
}

/// The runtime, its entry if a name was left for it, and its pool if that is observed.
type Built<R> = (Option<Arc<Entry>>, Option<Arc<WorkerThreads>>, R);

/// A builder that holds pollwatch's callbacks until this guard is dropped, also when `build`
/// unwinds.
struct Lent<'a> {
    builder: &'a mut Builder,
    installed: Installed,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        hooks::uninstall(self.builder);
        callbacks::uninstall(self.builder, &self.installed);
    }
}

/// A name that is given back unless a runtime comes to use it, also when `build` unwinds.
struct Reserved(Option<Arc<Entry>>);

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.release();
        }
    }
}
