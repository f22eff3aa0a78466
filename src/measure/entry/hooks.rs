//! The entry point of tokio's task hooks, which see every task of a runtime, third-party ones too
//! (`tokio_unstable`). In stable mode nothing is installed. Thread callbacks exist in both modes;
//! see [`callbacks`](crate::measure::runtime::callbacks).

pub use imp::Hooks;
pub(crate) use imp::{INSTALLED, install, install_user, uninstall};

use crate::measure::runtime::callbacks::ThreadCallbacks;

impl Hooks {
    /// Returns an empty set of hooks.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("a thread has started"));
    /// let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// let runtime = watchdog.build_runtime_with("main", &mut builder, hooks).unwrap();
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn new() -> Hooks {
        Hooks::default()
    }

    /// Sets a callback that runs on each thread that the runtime starts, workers and those of
    /// `spawn_blocking`, when it has started.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("started"));
    /// ```
    pub fn on_thread_start(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.start = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on each of these threads before it ends.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_stop(|| println!("ends"));
    /// ```
    pub fn on_thread_stop(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.stop = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on a worker that is about to park.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_park(|| println!("idle"));
    /// ```
    pub fn on_thread_park(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.park = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on a worker that has been unparked.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_unpark(|| println!("busy"));
    /// ```
    pub fn on_thread_unpark(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.unpark = Some(Box::new(f));
        self
    }

    /// Removes the thread callbacks, and returns them.
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

    /// Says whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = true;

    type Hook = Box<dyn Fn(&TaskMeta<'_>) + Send + Sync>;

    /// The user's own hooks and thread callbacks, for
    /// [`Watchdog::build_runtime_with`](crate::Watchdog::build_runtime_with).
    ///
    /// tokio keeps one callback for each hook, and overwrites it silently. Task hooks that were set
    /// on the builder before are lost; those given here run as well. They run outside of the time
    /// that pollwatch measures. A panic in one is caught and counted
    /// (`pollwatch_callback_panics_total`).
    ///
    /// Thread callbacks (`on_thread_start` and the like) may stay on the builder: with
    /// `tokio_unstable` pollwatch sets none of its own. It refuses only a callback on the builder
    /// that one given here would overwrite.
    ///
    /// In stable mode tokio has no task hooks, and this type has the methods for threads only.
    #[derive(Default)]
    pub struct Hooks {
        spawn: Option<Hook>,
        before: Option<Hook>,
        after: Option<Hook>,
        terminate: Option<Hook>,
        pub(super) threads: ThreadCallbacks,
    }

    impl Hooks {
        /// Sets a hook that runs before a task is spawned, on the thread that spawns it.
        ///
        /// ```
        /// # use pollwatch::Hooks;
        /// let hooks = Hooks::new().on_task_spawn(|task| println!("spawning {}", task.id()));
        /// ```
        pub fn on_task_spawn(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.spawn = Some(Box::new(f));
            self
        }

        /// Sets a hook that runs before each poll of a task, on its worker.
        ///
        /// ```
        /// # use pollwatch::Hooks;
        /// let hooks = Hooks::new().on_before_task_poll(|task| println!("polling {}", task.id()));
        /// ```
        pub fn on_before_task_poll(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.before = Some(Box::new(f));
            self
        }

        /// Sets a hook that runs after each poll of a task, on its worker.
        ///
        /// ```
        /// # use pollwatch::Hooks;
        /// let hooks = Hooks::new().on_after_task_poll(|task| println!("polled {}", task.id()));
        /// ```
        pub fn on_after_task_poll(mut self, f: impl Fn(&TaskMeta<'_>) + Send + Sync + 'static) -> Hooks {
            self.after = Some(Box::new(f));
            self
        }

        /// Sets a hook that runs when a task has ended, on the thread that ended it.
        ///
        /// ```
        /// # use pollwatch::Hooks;
        /// let hooks = Hooks::new().on_task_terminate(|task| println!("ended {}", task.id()));
        /// ```
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
    fn run_user_hook(runtime: &Runtime, hook: &Hook, meta: &TaskMeta<'_>) {
        run_user_hook_of(&runtime.meter, hook, meta);
    }

    fn run_user_hook_of(meter: &Weak<Meter>, hook: &Hook, meta: &TaskMeta<'_>) {
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
                run_user_hook(&rt, &hook, meta);
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
                run_user_hook(&rt, &hook, meta);
            }),
        };
        let rt = runtime.clone();
        builder.on_task_spawn(move |meta| {
            poll::count_spawn(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            if let Some(hook) = &user.spawn {
                run_user_hook(&rt, hook, meta);
            }
        });
        let rt = runtime.clone();
        builder.on_task_terminate(move |meta| {
            poll::count_task_end(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            if let Some(hook) = &user.terminate {
                run_user_hook(&rt, hook, meta);
            }
        });
    }

    /// Puts only the user's hooks into the builder, for a runtime that is not watched.
    pub(crate) fn install_user(builder: &mut Builder, meter: &Arc<Meter>, user: Hooks) {
        let wrap = |hook: Option<Hook>| {
            let meter = Arc::downgrade(meter);
            move |meta: &TaskMeta<'_>| {
                if let Some(hook) = &hook {
                    run_user_hook_of(&meter, hook, meta);
                }
            }
        };
        builder.on_before_task_poll(wrap(user.before)).on_after_task_poll(wrap(user.after));
        builder.on_task_spawn(wrap(user.spawn)).on_task_terminate(wrap(user.terminate));
    }

    /// Replaces the hooks by empty ones, so that the next runtime of the same builder is not
    /// counted under this name.
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

    /// Says whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = false;

    /// The user's own thread callbacks, for
    /// [`Watchdog::build_runtime_with`](crate::Watchdog::build_runtime_with). In stable mode
    /// pollwatch sets thread callbacks of its own, and tokio keeps one of each kind. So the user's
    /// must be given here, and not to the builder. A panic in one is caught and counted
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
