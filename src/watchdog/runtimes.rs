//! How runtimes come to be watched.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime, Runtime};

use super::Watchdog;
use crate::error::Error;
use crate::measure::hooks::{self, Hooks};
use crate::measure::runtime::Runtime as Entry;

impl Watchdog {
    /// Builds a runtime and watches it under `name`, the `runtime` label of its metrics.
    ///
    /// With `tokio_unstable` every task spawned on it is seen. tokio keeps one callback for each task hook and overwrites
    /// silently: hooks that you set on the builder are lost (they cannot be seen there), so give them to
    /// [`build_runtime_with`](Self::build_runtime_with). Thread callbacks stay as they are. In stable mode nothing is set, and
    /// what [`watch`](Self::watch) and [`spawn`](Self::spawn) wrap is seen.
    ///
    /// The builder can build further runtimes; ours is not in them.
    ///
    /// # Errors
    ///
    /// What tokio's `build` returns; `InvalidInput` when the name is empty or that of a runtime that is still watched (that of
    /// one that was shut down may be used again, and goes on with its counters). One watchdog tells 63 names apart: a runtime with
    /// a further one is built all the same, but without being watched. That is logged once, and [`coverage`](Self::coverage) has
    /// how many there were. Name runtimes for what they are for, not for when they were built.
    pub fn build_runtime(&self, name: &str, builder: &mut Builder) -> io::Result<Runtime> {
        self.build_runtime_with(name, builder, Hooks::new())
    }

    /// As [`build_runtime`](Self::build_runtime), with your own task hooks around ours.
    ///
    /// # Errors
    ///
    /// As [`build_runtime`](Self::build_runtime).
    pub fn build_runtime_with(&self, name: &str, builder: &mut Builder, hooks: Hooks) -> io::Result<Runtime> {
        let (entry, runtime) = self.build(name, builder, hooks, Builder::build)?;
        if let Some(entry) = entry {
            entry.go_live(runtime.handle(), hooks::INSTALLED);
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

    /// As [`build_local_runtime`](Self::build_local_runtime), with your own task hooks around ours.
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
        let (entry, runtime) = self.build(name, builder, hooks, |b| b.build_local(options))?;
        if let Some(entry) = entry {
            entry.go_live(runtime.handle(), hooks::INSTALLED);
        }
        Ok(runtime)
    }

    fn build<R>(
        &self,
        name: &str,
        builder: &mut Builder,
        user: Hooks,
        build: impl FnOnce(&mut Builder) -> io::Result<R>,
    ) -> io::Result<(Option<Arc<Entry>>, R)> {
        let meter = &self.shared.meter;
        let entry = meter.runtimes.reserve(name, meter.id)?;
        let mut reserved = Reserved(entry.clone());
        match &entry {
            Some(entry) => hooks::install(builder, entry, user),
            None => {
                if meter.runtimes.count_unnamed() && self.shared.log {
                    crate::report::log::cannot(&format!(
                        "the runtime {name:?} is not watched: one watchdog tells 63 names apart, and they are taken; name \
                         runtimes for what they are for, or build them with another watchdog"
                    ));
                }
                hooks::install_user(builder, meter, user);
            }
        }
        let runtime = build(builder);
        hooks::uninstall(builder);
        let runtime = runtime?;
        reserved.0 = None;
        Ok((entry, runtime))
    }

    /// Watches a runtime that somebody else built (`#[tokio::main]`): its own metrics, and what [`watch`](Self::watch) and
    /// [`spawn`](Self::spawn) wrap. tokio's hooks can only be set when a runtime is built, so other tasks are not seen;
    /// [`coverage`](Self::coverage) says so.
    ///
    /// # Errors
    ///
    /// An empty name, that of a runtime that is still watched, a runtime that is watched already, one that is shut down, or a 64th
    /// name.
    pub fn attach(&self, name: &str, handle: &Handle) -> Result<(), Error> {
        let runtimes = &self.shared.meter.runtimes;
        let _one_at_a_time = runtimes.adopting();
        if let Some(known) = runtimes.find(handle.id()) {
            return Err(Error::invalid(format!("this runtime is watched already, as {:?}", known.name)));
        }
        let Some(entry) = runtimes.reserve(name, self.shared.meter.id)? else {
            return Err(Error::invalid("one watchdog tells 63 names of runtimes apart, and they are taken"));
        };
        entry.go_live(handle, false);
        if entry.is_live() { Ok(()) } else { Err(Error::invalid("this runtime is shut down")) }
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
