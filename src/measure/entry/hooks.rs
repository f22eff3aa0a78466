//! Entry point of tokio's task hooks: every task of a runtime, third-party ones too
//! (`tokio_unstable`). The stable twin installs nothing. Thread callbacks are in both modes; see
//! [`callbacks`](crate::measure::runtime::callbacks).

pub use imp::Hooks;
pub(crate) use imp::{INSTALLED, install, install_user, uninstall};

use crate::measure::runtime::callbacks::ThreadCallbacks;

impl Hooks {
    /// No hooks.
    pub fn new() -> Hooks {
        Hooks::default()
    }

    /// Runs on each thread that the runtime starts, workers and those of `spawn_blocking`, when it
    /// has started.
    pub fn on_thread_start(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.start = Some(Box::new(f));
        self
    }

    /// Runs on each of these threads before it ends.
    pub fn on_thread_stop(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.stop = Some(Box::new(f));
        self
    }

    /// Runs on a worker that is about to go idle.
    pub fn on_thread_park(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.park = Some(Box::new(f));
        self
    }

    /// Runs on a worker that has been woken.
    pub fn on_thread_unpark(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.unpark = Some(Box::new(f));
        self
    }

    /// Takes the thread callbacks out.
    pub(crate) fn take_threads(&mut self) -> ThreadCallbacks {
        std::mem::take(&mut self.threads)
    }
}

#[cfg(tokio_unstable)]
mod imp {
    use std::fmt;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Weak};

    use tokio::runtime::{Builder, TaskMeta};

    use crate::measure::entry::poll;
    use crate::measure::primitives::task_id::TaskBits;
    use crate::measure::runtime::Runtime;
    use crate::measure::runtime::callbacks::ThreadCallbacks;
    use crate::measure::runtime::meter::Meter;
    use crate::util::call_user;

    /// Whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = true;

    type Hook = Box<dyn Fn(&TaskMeta<'_>) + Send + Sync>;

    /// Your own hooks and thread callbacks, for
    /// [`Watchdog::build_runtime_with`](crate::Watchdog::build_runtime_with).
    ///
    /// tokio keeps one callback a hook and overwrites it silently: task hooks that were set on the
    /// builder before are lost, those given here run as well. Yours run outside of the time that
    /// pollwatch measures. A panic in one is caught and counted
    /// (`pollwatch_callback_panics_total`). Thread callbacks (`on_thread_start` and the like) may
    /// stay on the builder: with `tokio_unstable` pollwatch takes none of them, and refuses only
    /// one that would be lost to one given here.
    ///
    /// In stable mode tokio has no task hooks, and this type the methods for threads only.
    #[derive(Default)]
    pub struct Hooks {
        spawn: Option<Hook>,
        before: Option<Hook>,
        after: Option<Hook>,
        terminate: Option<Hook>,
        pub(super) threads: ThreadCallbacks,
    }

    impl Hooks {
        /// Runs before a task is spawned, on the thread that spawns it.
        pub fn on_task_spawn(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.spawn = Some(Box::new(f));
            self
        }

        /// Runs before each poll of a task, on its worker.
        pub fn on_before_task_poll(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.before = Some(Box::new(f));
            self
        }

        /// Runs after each poll of a task, on its worker.
        pub fn on_after_task_poll(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.after = Some(Box::new(f));
            self
        }

        /// Runs when a task has ended, on the thread that ended it.
        pub fn on_task_terminate(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.terminate = Some(Box::new(f));
            self
        }
    }

    impl fmt::Debug for Hooks {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Hooks")
                .field("on_task_spawn", &self.spawn.is_some())
                .field("on_before_task_poll", &self.before.is_some())
                .field("on_after_task_poll", &self.after.is_some())
                .field("on_task_terminate", &self.terminate.is_some())
                .field("threads", &self.threads)
                .finish()
        }
    }

    #[inline(never)]
    fn run_user(runtime: &Runtime, hook: &Hook, meta: &TaskMeta<'_>) {
        run_user_of(&runtime.meter, hook, meta);
    }

    fn run_user_of(meter: &Weak<Meter>, hook: &Hook, meta: &TaskMeta<'_>) {
        if call_user(|| hook(meta))
            && let Some(meter) = meter.upgrade()
        {
            meter.hook_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts pollwatch's hooks, and the user's around them, into the builder.
    pub(crate) fn install(builder: &mut Builder, runtime: &Arc<Runtime>, user: Hooks) {
        // One closure for each case: a runtime without a user's hook has no branch for it.
        let rt = runtime.clone();
        match user.before {
            None => builder.on_before_task_poll(move |meta| {
                poll::start_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
            Some(hook) => builder.on_before_task_poll(move |meta| {
                run_user(&rt, &hook, meta);
                poll::start_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
        };
        let rt = runtime.clone();
        match user.after {
            None => builder.on_after_task_poll(move |meta| {
                poll::end_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
            Some(hook) => builder.on_after_task_poll(move |meta| {
                poll::end_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
                run_user(&rt, &hook, meta);
            }),
        };
        let rt = runtime.clone();
        builder.on_task_spawn(move |meta| {
            poll::count_spawn(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            if let Some(hook) = &user.spawn {
                run_user(&rt, hook, meta);
            }
        });
        let rt = runtime.clone();
        builder.on_task_terminate(move |meta| {
            poll::count_task_end(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            if let Some(hook) = &user.terminate {
                run_user(&rt, hook, meta);
            }
        });
    }

    /// Puts only the user's hooks into the builder, of a runtime that is not watched.
    pub(crate) fn install_user(builder: &mut Builder, meter: &Arc<Meter>, user: Hooks) {
        let of = |hook: Option<Hook>| {
            let meter = Arc::downgrade(meter);
            move |meta: &TaskMeta<'_>| {
                if let Some(hook) = &hook {
                    run_user_of(&meter, hook, meta);
                }
            }
        };
        builder.on_before_task_poll(of(user.before)).on_after_task_poll(of(user.after));
        builder.on_task_spawn(of(user.spawn)).on_task_terminate(of(user.terminate));
    }

    /// Replaces the hooks by empty ones, so that what the user builds next from the same builder is
    /// not counted under this name.
    pub(crate) fn uninstall(builder: &mut Builder) {
        builder.on_before_task_poll(|_| {}).on_after_task_poll(|_| {}).on_task_spawn(|_| {}).on_task_terminate(|_| {});
    }
}

#[cfg(not(tokio_unstable))]
mod imp {
    use std::sync::Arc;

    use tokio::runtime::Builder;

    use crate::measure::runtime::Runtime;
    use crate::measure::runtime::callbacks::ThreadCallbacks;
    use crate::measure::runtime::meter::Meter;

    /// Whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = false;

    /// Your own thread callbacks, for
    /// [`Watchdog::build_runtime_with`](crate::Watchdog::build_runtime_with). In stable mode
    /// pollwatch has callbacks of its own there, so that yours must not be on the builder: tokio
    /// keeps one of a kind. A panic in one is caught and counted
    /// (`pollwatch_callback_panics_total`).
    ///
    /// In stable mode tokio has no task hooks; with `tokio_unstable` this type has a method for
    /// each.
    #[derive(Debug, Default)]
    pub struct Hooks {
        pub(super) threads: ThreadCallbacks,
    }

    pub(crate) fn install(_builder: &mut Builder, _runtime: &Arc<Runtime>, _user: Hooks) {}

    pub(crate) fn install_user(_builder: &mut Builder, _meter: &Arc<Meter>, _user: Hooks) {}

    pub(crate) fn uninstall(_builder: &mut Builder) {}
}
