//! The entry point of tokio's task hooks, which see every task of a runtime, third-party ones too
//! (`tokio_unstable`). In stable mode nothing is installed. Thread callbacks exist in both modes;
//! see [`callbacks`](crate::measure::runtime::callbacks).

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use tokio::task::Id;

pub(crate) use imp::{INSTALLED, install, install_user};

use crate::measure::runtime::callbacks::ThreadCallbacks;

type TaskHook = Box<dyn Fn(&HookedTask<'_>) + Send + Sync>;

/// The user's own task hooks and thread callbacks, for
/// [`RuntimeBuilder::hooks`](crate::RuntimeBuilder::hooks).
///
/// tokio keeps one callback of each kind, and overwrites it silently. Task hooks that were set on a
/// builder of tokio's are lost; those given here run as well. They run outside of the time that
/// pollwatch measures. A panic in one is caught and counted (`pollwatch_callback_panics_total`).
///
/// Thread callbacks (`on_thread_start` and the like) run in both modes. With `tokio_unstable` they
/// may stay on a builder of tokio's: pollwatch sets its own only where none is set, to list
/// threads. It refuses only a callback on the builder that one given here would overwrite.
///
/// **In stable mode task hooks are never called**, because tokio has none without `tokio_unstable`.
/// The methods exist there, so that a program compiles in both modes. One log line of the watchdog
/// says that the hooks are not called.
///
/// A second call of a method replaces the callback of the first.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let hooks = pollwatch::Hooks::new()
///     .on_thread_start(|| println!("a thread has started"))
///     .on_task_spawn(|task| println!("a task is spawned at {}", task.spawned_at()));
/// let runtime = watchdog.runtime("main").hooks(hooks).build()?;
/// # drop(runtime);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[must_use = "hooks are not called until they are given to `RuntimeBuilder::hooks`"]
#[derive(Default)]
pub struct Hooks {
    spawn: Option<TaskHook>,
    before: Option<TaskHook>,
    after: Option<TaskHook>,
    terminate: Option<TaskHook>,
    threads: ThreadCallbacks,
}

/// The task that a hook of [`Hooks`] is called for.
///
/// ```
/// let hooks = pollwatch::Hooks::new()
///     .on_task_terminate(|task| println!("{} of {} has ended", task.id(), task.spawned_at()));
/// # drop(hooks);
/// ```
#[derive(Debug)]
pub struct HookedTask<'a> {
    id: Id,
    spawned_at: &'static Location<'static>,
    schedule_latency: Option<Duration>,
    /// tokio lends the task only for the call of the hook.
    _lent: PhantomData<&'a ()>,
}

impl HookedTask<'_> {
    /// Returns the task's id.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_task_spawn(|task| println!("task {}", task.id()));
    /// # drop(hooks);
    /// ```
    pub fn id(&self) -> Id {
        self.id
    }

    /// Returns the location at which the task was spawned.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_task_spawn(|task| {
    ///     println!("{}, line {}", task.spawned_at().file(), task.spawned_at().line());
    /// });
    /// # drop(hooks);
    /// ```
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.spawned_at
    }

    /// Returns the time that the task waited for the poll that the hook is called for, from its
    /// wake to the start of the poll. `None` unless
    /// [`track_delays`](crate::WatchdogBuilder::track_delays) is on, and always in stable mode and
    /// without the feature `delays`.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_before_task_poll(|task| {
    ///     if let Some(waited) = task.schedule_latency() {
    ///         println!("{} has waited {waited:?}", task.id());
    ///     }
    /// });
    /// # drop(hooks);
    /// ```
    pub fn schedule_latency(&self) -> Option<Duration> {
        self.schedule_latency
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

impl Hooks {
    /// Returns an empty set of hooks.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("a thread has started"));
    /// let runtime = watchdog.runtime("main").hooks(hooks).build()?;
    /// # drop(runtime);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn new() -> Hooks {
        Hooks::default()
    }

    /// Sets a callback that runs on each thread that the runtime starts, workers and those of
    /// `spawn_blocking`, when it has started. A second call replaces the first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("started"));
    /// ```
    pub fn on_thread_start(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.start = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on each of these threads before it ends. A second call replaces
    /// the first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_stop(|| println!("ends"));
    /// ```
    pub fn on_thread_stop(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.stop = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on a worker that is about to park. A second call replaces the
    /// first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_park(|| println!("idle"));
    /// ```
    pub fn on_thread_park(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.park = Some(Box::new(f));
        self
    }

    /// Sets a callback that runs on a worker that has been unparked. A second call replaces the
    /// first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_thread_unpark(|| println!("busy"));
    /// ```
    pub fn on_thread_unpark(mut self, f: impl Fn() + Send + Sync + 'static) -> Hooks {
        self.threads.unpark = Some(Box::new(f));
        self
    }

    /// Sets a hook that runs before a task is spawned, on the thread that spawns it. Not called in
    /// stable mode. A second call replaces the first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_task_spawn(|task| println!("new: {}", task.id()));
    /// # drop(hooks);
    /// ```
    pub fn on_task_spawn(mut self, f: impl Fn(&HookedTask<'_>) + Send + Sync + 'static) -> Hooks {
        self.spawn = Some(Box::new(f));
        self
    }

    /// Sets a hook that runs before each poll of a task, on its worker. Not called in stable mode.
    /// A second call replaces the first.
    ///
    /// ```
    /// let before = |task: &pollwatch::HookedTask<'_>| println!("polling {}", task.id());
    /// let hooks = pollwatch::Hooks::new().on_before_task_poll(before);
    /// # drop(hooks);
    /// ```
    pub fn on_before_task_poll(mut self, f: impl Fn(&HookedTask<'_>) + Send + Sync + 'static) -> Hooks {
        self.before = Some(Box::new(f));
        self
    }

    /// Sets a hook that runs after each poll of a task, on its worker. Not called in stable mode. A
    /// second call replaces the first.
    ///
    /// ```
    /// let after = |task: &pollwatch::HookedTask<'_>| println!("polled {}", task.id());
    /// let hooks = pollwatch::Hooks::new().on_after_task_poll(after);
    /// # drop(hooks);
    /// ```
    pub fn on_after_task_poll(mut self, f: impl Fn(&HookedTask<'_>) + Send + Sync + 'static) -> Hooks {
        self.after = Some(Box::new(f));
        self
    }

    /// Sets a hook that runs when a task has ended, on the thread that ended it. Not called in
    /// stable mode. A second call replaces the first.
    ///
    /// ```
    /// let hooks = pollwatch::Hooks::new().on_task_terminate(|task| println!("{}", task.id()));
    /// # drop(hooks);
    /// ```
    pub fn on_task_terminate(mut self, f: impl Fn(&HookedTask<'_>) + Send + Sync + 'static) -> Hooks {
        self.terminate = Some(Box::new(f));
        self
    }

    /// Returns whether there are hooks that are called only with `tokio_unstable`.
    pub(crate) fn has_task_hooks(&self) -> bool {
        [&self.spawn, &self.before, &self.after, &self.terminate].into_iter().any(Option::is_some)
    }

    /// Removes the thread callbacks, and returns them.
    pub(crate) fn take_threads(&mut self) -> ThreadCallbacks {
        std::mem::take(&mut self.threads)
    }
}

#[cfg(tokio_unstable)]
mod imp {
    use std::marker::PhantomData;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Weak};

    use tokio::runtime::{Builder, TaskMeta};

    use super::{HookedTask, Hooks, TaskHook};
    use crate::measure::entry::{delays, poll, unpolled};
    use crate::measure::primitives::task_id::TaskBits;
    use crate::measure::runtime::Runtime;
    use crate::measure::runtime::meter::Meter;
    use crate::util::call_user;

    /// Says whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = true;

    impl HookedTask<'_> {
        fn of<'a>(meta: &'a TaskMeta<'_>) -> HookedTask<'a> {
            #[cfg(feature = "delays")]
            let schedule_latency = meta.schedule_latency();
            #[cfg(not(feature = "delays"))]
            let schedule_latency = None;
            HookedTask { id: meta.id(), spawned_at: meta.spawned_at(), schedule_latency, _lent: PhantomData }
        }
    }

    #[inline(never)]
    fn run_user_hook(runtime: &Runtime, hook: &TaskHook, meta: &TaskMeta<'_>) {
        run_user_hook_of(&runtime.meter, hook, meta);
    }

    fn run_user_hook_of(meter: &Weak<Meter>, hook: &TaskHook, meta: &TaskMeta<'_>) {
        if call_user(|| hook(&HookedTask::of(meta)))
            && let Some(meter) = meter.upgrade()
        {
            meter.hook_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts pollwatch's hooks, and the user's around them, into the builder.
    pub(crate) fn install(builder: &mut Builder, runtime: &Arc<Runtime>, user: Hooks) {
        let tracks_delays = delays::track(builder, runtime);
        match tracks_delays || runtime.last_polls.is_some() {
            true => install_tracking_poll_hooks(builder, runtime, user.before, user.after),
            false => install_poll_hooks(builder, runtime, user.before, user.after),
        }
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

    /// Puts the hooks of polls into the builder. There is one closure for each case: a runtime
    /// without a user's hook has no branch for it.
    fn install_poll_hooks(
        builder: &mut Builder,
        runtime: &Arc<Runtime>,
        before: Option<TaskHook>,
        after: Option<TaskHook>,
    ) {
        let rt = runtime.clone();
        match before {
            None => builder.on_before_task_poll(move |meta| {
                poll::start_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
            Some(hook) => builder.on_before_task_poll(move |meta| {
                run_user_hook(&rt, &hook, meta);
                poll::start_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
        };
        let rt = runtime.clone();
        match after {
            None => builder.on_after_task_poll(move |meta| {
                poll::end_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            }),
            Some(hook) => builder.on_after_task_poll(move |meta| {
                poll::end_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
                run_user_hook(&rt, &hook, meta);
            }),
        };
    }

    /// Puts the hooks of polls into the builder of a runtime of which more is tracked than the time
    /// of polls.
    fn install_tracking_poll_hooks(
        builder: &mut Builder,
        runtime: &Arc<Runtime>,
        before: Option<TaskHook>,
        after: Option<TaskHook>,
    ) {
        let rt = runtime.clone();
        builder.on_before_task_poll(move |meta| {
            if let Some(hook) = &before {
                run_user_hook(&rt, hook, meta);
            }
            poll::start_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            delays::start_task_poll(&rt, meta);
        });
        let rt = runtime.clone();
        builder.on_after_task_poll(move |meta| {
            delays::end_task_poll(&rt, meta);
            unpolled::end_task_poll(&rt, TaskBits::of(meta.id()));
            poll::end_task_poll(&rt, meta.spawned_at(), TaskBits::of(meta.id()));
            if let Some(hook) = &after {
                run_user_hook(&rt, hook, meta);
            }
        });
    }

    /// Puts only the user's hooks into the builder, for a runtime that is not watched.
    pub(crate) fn install_user(builder: &mut Builder, meter: &Arc<Meter>, user: Hooks) {
        let wrap = |hook: Option<TaskHook>| {
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
}

#[cfg(not(tokio_unstable))]
mod imp {
    use std::sync::Arc;

    use tokio::runtime::Builder;

    use super::Hooks;
    use crate::measure::runtime::Runtime;
    use crate::measure::runtime::meter::Meter;

    /// Says whether [`install`] does anything.
    pub(crate) const INSTALLED: bool = false;

    pub(crate) fn install(_builder: &mut Builder, _runtime: &Arc<Runtime>, _user: Hooks) {}

    pub(crate) fn install_user(_builder: &mut Builder, _meter: &Arc<Meter>, _user: Hooks) {}
}
