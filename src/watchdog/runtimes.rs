//! Building a runtime that is watched, and attaching one that exists already.
//!
//! What tokio does: its task hooks and thread callbacks can only be set on a builder, before the
//! build. A builder keeps one callback of each kind, and cannot remove it.
//!
//! What follows from it: the watchdog builds the runtime itself. It owns the builder, so that no
//! other runtime gets its callbacks. A runtime that is built elsewhere can only be attached:
//! without hooks, and without callbacks on its threads.
//!
//! What is stored: the name is reserved before the build ([`NameReservation`]), because the hooks
//! need the runtime's entry in the list of runtimes. The entry becomes live after the build, when
//! tokio's handle is there.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime, Runtime};

use super::{Watchdog, coverage};
use crate::detect::stack_coverage;
use crate::error::{Error, ErrorKind};
use crate::measure::entry::hooks::{self, Hooks};
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::runtime::Runtime as RuntimeEntry;
use crate::measure::runtime::build_facts::BuildFacts;
use crate::measure::runtime::callbacks::{self, InstalledCallbacks};
use crate::measure::runtime::io_driver::{self, OpenDescriptors};
use crate::report::log;

impl Watchdog {
    /// Builds a runtime from tokio's own builder, and watches it under `name`, the `runtime` label
    /// of its metrics. [`runtime`](Self::runtime) needs no builder of tokio's, and takes hooks.
    ///
    /// With `tokio_unstable`, every task that is spawned on the runtime is measured. tokio keeps
    /// one callback for each task hook and overwrites silently, and pollwatch cannot find out which
    /// are set. So task hooks that you set on the builder are lost. Give them to
    /// [`RuntimeBuilder::hooks`](crate::RuntimeBuilder::hooks) instead. Thread callbacks of the
    /// builder stay as they are.
    ///
    /// In stable mode, what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap is measured, and
    /// the workers of a multi-thread runtime are observed from outside: see
    /// [`Certainty`](crate::Certainty). Observing them needs the thread callbacks, so give yours to
    /// [`RuntimeBuilder::hooks`](crate::RuntimeBuilder::hooks) as well. A builder whose callbacks
    /// would be lost is refused.
    ///
    /// With `tokio_unstable` on Linux, pollwatch sets callbacks for the start and the stop of
    /// threads if the builder has neither. They only list the runtime's threads, so that a thread
    /// dump shows the runtime of each.
    ///
    /// One watchdog distinguishes 63 names. A runtime with a further name is built, but not
    /// watched. This is logged once, and [`coverage`](Self::coverage) counts such runtimes. Name
    /// runtimes after their purpose, not after the time at which they were built.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// builder.worker_threads(2).enable_all();
    /// let runtime = watchdog.build_runtime("main", builder)?;
    /// runtime.block_on(async { /* your service */ });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidSetting`](ErrorKind::InvalidSetting): the name is empty.
    /// - [`NameInUse`](ErrorKind::NameInUse): a runtime of this name is still watched. The name of
    ///   one that was shut down may be used again, and its counters continue.
    /// - [`CallbacksWouldBeLost`](ErrorKind::CallbacksWouldBeLost): the builder has thread
    ///   callbacks that pollwatch would replace.
    /// - [`CannotBuildRuntime`](ErrorKind::CannotBuildRuntime): tokio's `build` has failed.
    ///
    /// After an error the builder is lost. It was taken by value, and tokio's cannot be cloned.
    /// Make it in a function where the program is to continue:
    ///
    /// ```
    /// use tokio::runtime::Builder;
    ///
    /// fn builder() -> Builder {
    ///     let mut builder = Builder::new_multi_thread();
    ///     builder.worker_threads(2).enable_all();
    ///     builder
    /// }
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.build_runtime("main", builder()).or_else(|error| {
    ///     eprintln!("{error:#}. The runtime is not watched");
    ///     builder().build()
    /// })?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build_runtime(&self, name: impl Into<String>, builder: Builder) -> Result<Runtime, Error> {
        self.runtime(name).with_builder(builder).build()
    }

    pub(super) fn build_with_hooks(&self, name: &str, builder: Builder, hooks: Hooks) -> Result<Runtime, Error> {
        let built = self.build(name, builder, hooks, true, |builder| builder.build().map_err(Error::build))?;
        self.go_live(built.entry, built.runtime.handle(), built.facts);
        Ok(built.runtime)
    }

    pub(super) fn build_local_with_hooks(
        &self,
        name: &str,
        builder: Builder,
        hooks: Hooks,
    ) -> Result<LocalRuntime, Error> {
        let built = self.build(name, builder, hooks, false, |b| build_local(name, b))?;
        self.go_live(built.entry, built.runtime.handle(), built.facts);
        Ok(built.runtime)
    }

    /// Reserves the name, sets pollwatch's callbacks and the user's hooks on the builder, and calls
    /// `build`. The workers are observed if the runtime may have any (`has_workers`) and is
    /// watched.
    fn build<R>(
        &self,
        name: &str,
        mut builder: Builder,
        mut user: Hooks,
        has_workers: bool,
        build: impl FnOnce(&mut Builder) -> Result<R, Error>,
    ) -> Result<Built<R>, Error> {
        let meter = &self.state.meter;
        let has_task_hooks = user.has_task_hooks();
        let reservation = NameReservation(meter.runtimes.reserve(name, meter)?);
        let is_observed = has_workers && reservation.0.is_some();
        let InstalledCallbacks { worker_threads, pool_threads } =
            callbacks::install(&mut builder, meter, user.take_threads(), is_observed)?;
        if has_task_hooks && !hooks::INSTALLED {
            self.log_uncalled_hooks(name);
        }
        match &reservation.0 {
            Some(entry) => hooks::install(&mut builder, entry, user),
            None => {
                self.log_unnamed(name);
                hooks::install_user(&mut builder, meter, user);
            }
        }
        let hands_driver_on = io_driver::hands_driver_on(&builder);
        let before = has_workers.then(OpenDescriptors::list);
        let runtime = build(&mut builder)?;
        let io_driver = before.map(OpenDescriptors::driver_opened_since).unwrap_or_default();
        let facts = BuildFacts { hooked: hooks::INSTALLED, worker_threads, pool_threads, io_driver, hands_driver_on };
        Ok(Built { runtime, entry: reservation.keep(), facts })
    }

    /// Watches a runtime that was just built, or counts it if it has no entry.
    fn go_live(&self, entry: Option<Arc<RuntimeEntry>>, handle: &Handle, facts: BuildFacts) {
        match entry {
            Some(entry) => {
                entry.go_live(handle, facts);
                self.log_coverage(&entry);
            }
            None => self.state.meter.runtimes.count_unnamed(handle.id()),
        }
    }

    /// Logs, once, that tokio does not call the task hooks of a runtime.
    fn log_uncalled_hooks(&self, name: &str) {
        if self.state.meter.runtimes.claim_report_of_uncalled_hooks() && self.state.config.log {
            log::degraded(&format!(
                "the task hooks of the runtime {name:?} are not called: tokio has none without --cfg tokio_unstable. This is \
                 logged once for all runtimes"
            ));
        }
    }

    /// Logs, once, that a runtime is not watched because too many names are known.
    fn log_unnamed(&self, name: &str) {
        if self.state.meter.runtimes.claim_report_of_unnamed() && self.state.config.log {
            log::degraded(&format!(
                "the runtime {name:?} is not watched: one watchdog distinguishes {MAX_NAMES} names, and they are taken. Name \
                 runtimes after their purpose, or build some of them with another watchdog"
            ));
        }
    }

    fn log_coverage(&self, entry: &RuntimeEntry) {
        if self.state.config.log {
            let stacks = stack_coverage::now(self.state.stacks);
            log::watching(&coverage::of_runtime(entry, stacks));
        }
    }

    /// Watches a runtime that was not built by this watchdog, such as that of `#[tokio::main]`: its
    /// own metrics, and what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap.
    ///
    /// tokio's hooks and thread callbacks can only be set when a runtime is built. So other tasks
    /// are not measured, and workers of a multi-thread runtime that they block are not reported. A
    /// current-thread runtime that is attached on the thread that drives it is observed, on Linux:
    /// what blocks this thread in a system call is reported. [`coverage`](Self::coverage) shows
    /// this.
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
    /// - [`InvalidSetting`](ErrorKind::InvalidSetting): the name is empty.
    /// - [`NameInUse`](ErrorKind::NameInUse): another runtime of this name is still watched.
    /// - [`AlreadyWatched`](ErrorKind::AlreadyWatched): this runtime is watched.
    /// - [`RuntimeShutDown`](ErrorKind::RuntimeShutDown): this runtime is shut down.
    /// - [`TooManyNames`](ErrorKind::TooManyNames): the watchdog knows 63 other names.
    pub fn attach(&self, name: &str, handle: &Handle) -> Result<(), Error> {
        let runtimes = &self.state.meter.runtimes;
        let attach_guard = runtimes.lock_attach();
        if let Some(known) = runtimes.find(handle.id()) {
            let text = format!("this runtime is watched already, as {:?}", known.name);
            return Err(Error::new(ErrorKind::AlreadyWatched, text));
        }
        let Some(entry) = runtimes.reserve(name, &self.state.meter)? else {
            let text = format!("one watchdog distinguishes {MAX_NAMES} names of runtimes, and they are taken");
            return Err(Error::new(ErrorKind::TooManyNames, text));
        };
        entry.go_live(handle, BuildFacts::default());
        // The log line below runs the user's subscriber, which may poll a watched future. That
        // takes the same lock.
        drop(attach_guard);
        self.log_coverage(&entry);
        match entry.is_live() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::RuntimeShutDown, "this runtime is shut down")),
        }
    }
}

/// The number of names that one watchdog distinguishes, `other` excluded.
const MAX_NAMES: usize = MAX_RUNTIMES - 1;

/// A runtime that was just built.
struct Built<R> {
    runtime: R,
    /// The runtime's entry; `None` when all names are taken.
    entry: Option<Arc<RuntimeEntry>>,
    facts: BuildFacts,
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

/// Builds a `LocalRuntime`. tokio's builder says by a panic alone that it is a multi-thread one.
/// That becomes an error, as other wrong settings are. Any other panic is resumed.
fn build_local(name: &str, builder: &mut Builder) -> Result<LocalRuntime, Error> {
    match catch_unwind(AssertUnwindSafe(|| builder.build_local(LocalOptions::default()))) {
        Ok(built) => built.map_err(Error::build),
        Err(panic) if panic.downcast_ref::<&str>().is_some_and(|text| text.contains("multi_thread")) => {
            Err(Error::invalid(format!(
                "the runtime {name:?} is not built: a LocalRuntime has one thread, and the builder is a multi-thread one. \
                 Give with_builder a Builder::new_current_thread(), or call build instead of build_local"
            )))
        }
        Err(panic) => resume_unwind(panic),
    }
}

impl Drop for NameReservation {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.release();
        }
    }
}
