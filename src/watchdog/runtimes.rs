//! Building a runtime that is watched, and attaching one that exists already.
//!
//! What tokio does: its task hooks and thread callbacks can only be set on a builder, before the
//! build. A builder keeps one callback of each kind, and cannot remove it.
//!
//! What follows from it: the watchdog builds the runtime itself. It sets its callbacks on the
//! user's builder, builds, and replaces them again ([`BuilderGuard`]), because the user may build
//! further runtimes from the same builder. A runtime that is built elsewhere can only be attached:
//! without hooks, and without callbacks on its threads.
//!
//! What is stored: the name is reserved before the build ([`NameReservation`]), because the hooks
//! need the runtime's entry in the list of runtimes. The entry becomes live after the build, when
//! tokio's handle is there.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime, Runtime};

use super::{Watchdog, coverage};
use crate::error::Error;
use crate::measure::entry::hooks::{self, Hooks};
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::runtime::Runtime as RuntimeEntry;
use crate::measure::runtime::callbacks::{self, InstalledCallbacks};
use crate::measure::runtime::worker_threads::WorkerThreads;
use crate::report::log;

impl Watchdog {
    /// Builds a runtime and watches it under `name`, the `runtime` label of its metrics.
    ///
    /// With `tokio_unstable`, every task that is spawned on the runtime is measured. tokio keeps
    /// one callback for each task hook and overwrites silently, and pollwatch cannot find out which
    /// are set. So hooks that you set on the builder are lost. Give them to
    /// [`build_runtime_with`](Self::build_runtime_with) instead. Thread callbacks of the builder
    /// stay as they are.
    ///
    /// In stable mode, what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap is measured, and
    /// the workers of a multi-thread runtime are observed from outside: see
    /// [`Certainty`](crate::Certainty). Observing them needs the thread callbacks, so give yours to
    /// [`build_runtime_with`](Self::build_runtime_with) as well.
    ///
    /// You can build further runtimes from the same builder. pollwatch does not watch these. tokio
    /// cannot remove a callback from a builder, so in stable mode four callbacks without effect
    /// remain in it. pollwatch recognizes them by the builder's address, with two consequences:
    ///
    /// - If you move the builder and pass it here again, it is refused, as if these callbacks were
    ///   yours.
    /// - While the builder or a runtime that was built from it without pollwatch exists elsewhere,
    ///   your callbacks on another builder at the old address are replaced without an error.
    ///
    /// Callbacks that you give to [`build_runtime_with`](Self::build_runtime_with) have neither
    /// problem.
    ///
    /// One watchdog distinguishes 63 names. A runtime with a further name is built, but not
    /// watched. This is logged once, and [`coverage`](Self::coverage) counts such runtimes. Name
    /// runtimes after their purpose, not after the time at which they were built.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// let runtime = watchdog.build_runtime("main", builder.worker_threads(2).enable_all())?;
    /// runtime.block_on(async { /* your service */ });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What tokio's `build` returns, and `InvalidInput` in these cases:
    ///
    /// - The name is empty.
    /// - A runtime of this name is still watched. The name of one that was shut down may be used
    ///   again, and its counters continue.
    /// - The builder has thread callbacks that would be lost.
    pub fn build_runtime(&self, name: &str, builder: &mut Builder) -> io::Result<Runtime> {
        self.build_runtime_with(name, builder, Hooks::new())
    }

    /// Builds and watches a runtime as [`build_runtime`](Self::build_runtime) does, with your own
    /// hooks and thread callbacks. They run before and after those of pollwatch, so that their time
    /// is not measured.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("a thread has started"));
    /// let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// let runtime = watchdog.build_runtime_with("main", builder.enable_all(), hooks)?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build_runtime`](Self::build_runtime).
    pub fn build_runtime_with(&self, name: &str, builder: &mut Builder, hooks: Hooks) -> io::Result<Runtime> {
        let built = self.build(name, builder, hooks, true, Builder::build)?;
        if let Some(entry) = built.entry {
            entry.go_live(built.runtime.handle(), hooks::INSTALLED, built.worker_threads);
            self.log_coverage(&entry);
        }
        Ok(built.runtime)
    }

    /// Builds a [`LocalRuntime`] and watches it, as [`build_runtime`](Self::build_runtime) does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// use tokio::runtime::{Builder, LocalOptions};
    ///
    /// let mut builder = Builder::new_current_thread();
    /// let options = LocalOptions::default();
    /// let runtime = watchdog.build_local_runtime("ui", builder.enable_all(), options)?;
    /// runtime.block_on(async { tokio::task::spawn_local(async { /* not `Send` */ }).await })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Builds and watches a [`LocalRuntime`] as [`build_local_runtime`](Self::build_local_runtime)
    /// does, with your own hooks and thread callbacks.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// use tokio::runtime::{Builder, LocalOptions};
    ///
    /// let hooks = pollwatch::Hooks::new().on_thread_park(|| { /* the event loop is idle */ });
    /// let mut builder = Builder::new_current_thread();
    /// let options = LocalOptions::default();
    /// let runtime = watchdog.build_local_runtime_with("ui", &mut builder, options, hooks)?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        let built = self.build(name, builder, hooks, false, |b| b.build_local(options))?;
        if let Some(entry) = built.entry {
            entry.go_live(built.runtime.handle(), hooks::INSTALLED, None);
            self.log_coverage(&entry);
        }
        Ok(built.runtime)
    }

    /// Reserves the name, sets pollwatch's callbacks and the user's hooks on the builder, and calls
    /// `build`. Afterwards the callbacks are replaced again. The workers are observed if the
    /// runtime may have any (`has_workers`) and is watched.
    fn build<R>(
        &self,
        name: &str,
        builder: &mut Builder,
        mut user: Hooks,
        has_workers: bool,
        build: impl FnOnce(&mut Builder) -> io::Result<R>,
    ) -> io::Result<Built<R>> {
        let meter = &self.state.meter;
        let reservation = NameReservation(meter.runtimes.reserve(name, meter)?);
        let is_observed = has_workers && reservation.0.is_some();
        let installed = callbacks::install(builder, meter, user.take_threads(), is_observed)?;
        let guard = BuilderGuard { builder, installed };
        match &reservation.0 {
            Some(entry) => hooks::install(guard.builder, entry, user),
            None => {
                self.count_unnamed(name);
                hooks::install_user(guard.builder, meter, user);
            }
        }
        let runtime = build(guard.builder)?;
        let worker_threads = guard.installed.worker_threads.clone();
        drop(guard);
        Ok(Built { runtime, entry: reservation.keep(), worker_threads })
    }

    /// Counts a runtime that is not watched because too many names are known, and logs the first.
    fn count_unnamed(&self, name: &str) {
        if self.state.meter.runtimes.count_unnamed() && self.state.config.log {
            log::degraded(&format!(
                "the runtime {name:?} is not watched: one watchdog distinguishes {MAX_NAMES} names, and they are taken. Name \
                 runtimes after their purpose, or build some of them with another watchdog"
            ));
        }
    }

    fn log_coverage(&self, entry: &RuntimeEntry) {
        if self.state.config.log {
            log::watching(&coverage::of_runtime(entry));
        }
    }

    /// Watches a runtime that was not built by this watchdog, such as that of `#[tokio::main]`: its
    /// own metrics, and what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap.
    ///
    /// tokio's hooks and thread callbacks can only be set when a runtime is built. So other tasks
    /// are not measured, and workers that they block are not reported.
    /// [`coverage`](Self::coverage) shows this.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// watchdog.attach("main", &tokio::runtime::Handle::current())?;
    /// # Ok::<(), pollwatch::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// When the name is empty, a runtime of this name is still watched, the runtime is watched
    /// already or is shut down, or the watchdog knows 63 other names.
    pub fn attach(&self, name: &str, handle: &Handle) -> Result<(), Error> {
        let runtimes = &self.state.meter.runtimes;
        let attach_guard = runtimes.lock_attach();
        if let Some(known) = runtimes.find(handle.id()) {
            return Err(Error::invalid(format!("this runtime is watched already, as {:?}", known.name)));
        }
        let Some(entry) = runtimes.reserve(name, &self.state.meter)? else {
            return Err(Error::invalid(format!(
                "one watchdog distinguishes {MAX_NAMES} names of runtimes, and they are taken"
            )));
        };
        entry.go_live(handle, false, None);
        // The log line below runs the user's subscriber, which may poll a watched future. That
        // takes the same lock.
        drop(attach_guard);
        self.log_coverage(&entry);
        if entry.is_live() { Ok(()) } else { Err(Error::invalid("this runtime is shut down")) }
    }
}

/// The number of names that one watchdog distinguishes, `other` excluded.
const MAX_NAMES: usize = MAX_RUNTIMES - 1;

/// A runtime that was just built.
struct Built<R> {
    runtime: R,
    /// The runtime's entry; `None` when all names are taken.
    entry: Option<Arc<RuntimeEntry>>,
    /// The runtime's threads, if they are observed from outside.
    worker_threads: Option<Arc<WorkerThreads>>,
}

/// A builder with pollwatch's callbacks set. They are replaced by callbacks without effect when the
/// guard is dropped, also when the build unwinds.
struct BuilderGuard<'a> {
    builder: &'a mut Builder,
    installed: InstalledCallbacks,
}

impl Drop for BuilderGuard<'_> {
    fn drop(&mut self) {
        hooks::uninstall(self.builder);
        callbacks::uninstall(self.builder, &self.installed);
    }
}

/// A reserved name; `None` when all names are taken. Dropping it releases the name, also when the
/// build unwinds.
struct NameReservation(Option<Arc<RuntimeEntry>>);

impl NameReservation {
    /// Returns the entry, whose name stays reserved for the runtime.
    fn keep(mut self) -> Option<Arc<RuntimeEntry>> {
        self.0.take()
    }
}

impl Drop for NameReservation {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.release();
        }
    }
}
