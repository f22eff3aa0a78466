//! The builder of a watched runtime.

use std::fmt;
use std::time::Duration;

use tokio::runtime::{Builder, LocalRuntime, Runtime};

use super::Watchdog;
use crate::error::Error;
use crate::measure::entry::hooks::Hooks;

/// The reason for which `current_thread` and `with_builder` are refused together.
const TWO_FLAVORS: &str = "the builder given to with_builder has its flavor already, so leave current_thread out";

/// A setting of tokio's builder, made when the runtime is built.
type Setting = Box<dyn FnOnce(&mut Builder) + Send>;

/// A builder of a runtime that a watchdog watches; made by [`Watchdog::runtime`].
///
/// It has the methods of tokio's [`Builder`] that services use, and takes itself by value.
/// [`configure`](Self::configure) reaches all others, and [`with_builder`](Self::with_builder)
/// takes a builder of tokio's that is there already. Hooks and thread callbacks are those of
/// [`hooks`](Self::hooks). They run beside pollwatch's own.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let runtime = watchdog.runtime("main").worker_threads(2).enable_all().build()?;
/// runtime.block_on(watchdog.watch(async { /* your service */ }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "no runtime is built until `build` is called"]
pub struct RuntimeBuilder {
    watchdog: Watchdog,
    name: String,
    base: BaseBuilder,
    settings: Vec<Setting>,
    hooks: Hooks,
    /// The first setting that `build` refuses, because tokio's builder would panic or because it
    /// contradicts another one.
    refused: Option<&'static str>,
}

/// The builder of tokio's that the settings are made on.
#[derive(Debug)]
enum BaseBuilder {
    MultiThread,
    CurrentThread,
    Given(Box<Builder>),
}

impl BaseBuilder {
    /// Returns the builder, or a new one of the flavor that was asked for.
    fn into_builder(self) -> Builder {
        match self {
            BaseBuilder::MultiThread => Builder::new_multi_thread(),
            BaseBuilder::CurrentThread => Builder::new_current_thread(),
            BaseBuilder::Given(builder) => *builder,
        }
    }
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("name", &self.name)
            .field("base", &self.base)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

impl Watchdog {
    /// Returns a builder of a runtime that is watched under `name`, the `runtime` label of its
    /// metrics. It is a multi-thread runtime, unless
    /// [`current_thread`](RuntimeBuilder::current_thread) says otherwise.
    ///
    /// What is measured of the runtime is said by [`build_runtime`](Self::build_runtime).
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").enable_all().build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn runtime(&self, name: impl Into<String>) -> RuntimeBuilder {
        RuntimeBuilder {
            watchdog: self.clone(),
            name: name.into(),
            base: BaseBuilder::MultiThread,
            settings: Vec::new(),
            hooks: Hooks::new(),
            refused: None,
        }
    }
}

impl RuntimeBuilder {
    /// Builds a current-thread runtime, whose one worker is the thread that calls `block_on`. A
    /// builder that was given to [`with_builder`](Self::with_builder) has its flavor already:
    /// [`build`](Self::build) refuses both together.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("ui").current_thread().enable_all().build()?;
    /// assert_eq!(runtime.metrics().num_workers(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn current_thread(mut self) -> RuntimeBuilder {
        match self.base {
            BaseBuilder::Given(_) => self.refuse(TWO_FLAVORS),
            _ => self.base = BaseBuilder::CurrentThread,
        }
        self
    }

    fn refuse(&mut self, why: &'static str) {
        self.refused.get_or_insert(why);
    }

    /// Takes a builder of tokio's, with all that is set on it, in place of a new one. Settings made
    /// here are made on it when the runtime is built. The flavor is that of the builder:
    /// [`build`](Self::build) refuses it together with [`current_thread`](Self::current_thread).
    ///
    /// Task hooks of that builder are lost, and thread callbacks may be refused: see
    /// [`Watchdog::build_runtime`], also for what to do when `build` fails, since the builder is
    /// lost then.
    ///
    /// ```
    /// use tokio::runtime::Builder;
    ///
    /// fn builder_of_your_framework() -> Builder {
    ///     Builder::new_multi_thread()
    /// }
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("a thread has started"));
    /// let builder = builder_of_your_framework();
    /// let runtime = watchdog.runtime("main").with_builder(builder).hooks(hooks).build()?;
    /// # drop(runtime);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn with_builder(mut self, builder: Builder) -> RuntimeBuilder {
        if matches!(self.base, BaseBuilder::CurrentThread) {
            self.refuse(TWO_FLAVORS);
        }
        self.base = BaseBuilder::Given(Box::new(builder));
        self
    }

    /// Sets your own hooks and thread callbacks. Those that were set before are replaced.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let hooks = pollwatch::Hooks::new().on_thread_start(|| println!("a thread has started"));
    /// let runtime = watchdog.runtime("main").hooks(hooks).enable_all().build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hooks(mut self, hooks: Hooks) -> RuntimeBuilder {
        self.hooks = hooks;
        self
    }

    /// Makes any other setting of tokio's builder. The function is called when the runtime is
    /// built. Hooks and thread callbacks do not belong here: [`build`](Self::build) refuses or
    /// overwrites them, as [`Watchdog::build_runtime`] does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let interval = 31;
    /// let runtime = watchdog.runtime("main").configure(move |builder| {
    ///     builder.event_interval(interval);
    /// });
    /// # drop(runtime.build()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn configure(mut self, setting: impl FnOnce(&mut Builder) + Send + 'static) -> RuntimeBuilder {
        self.settings.push(Box::new(setting));
        self
    }

    /// Enables the drivers of sockets and timers that tokio was built with, as
    /// [`Builder::enable_all`] does. Without them, a socket or a timer panics.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").enable_all().build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enable_all(self) -> RuntimeBuilder {
        self.configure(|builder| {
            builder.enable_all();
        })
    }

    /// Sets the number of workers of a multi-thread runtime, as [`Builder::worker_threads`] does.
    /// [`build`](Self::build) refuses 0.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").worker_threads(2).build()?;
    /// assert_eq!(runtime.metrics().num_workers(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn worker_threads(mut self, workers: usize) -> RuntimeBuilder {
        if workers == 0 {
            self.refuse("worker_threads must be at least 1");
            return self;
        }
        self.configure(move |builder| {
            builder.worker_threads(workers);
        })
    }

    /// Sets the largest number of threads of the blocking pool, as
    /// [`Builder::max_blocking_threads`] does. [`build`](Self::build) refuses 0.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").max_blocking_threads(16).build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_blocking_threads(mut self, threads: usize) -> RuntimeBuilder {
        if threads == 0 {
            self.refuse("max_blocking_threads must be at least 1");
            return self;
        }
        self.configure(move |builder| {
            builder.max_blocking_threads(threads);
        })
    }

    /// Sets the name of the runtime's threads, as [`Builder::thread_name`] does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").thread_name("my-service").build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn thread_name(self, name: impl Into<String>) -> RuntimeBuilder {
        let name = name.into();
        self.configure(move |builder| {
            builder.thread_name(name);
        })
    }

    /// Sets the stack size of the runtime's threads in bytes, as [`Builder::thread_stack_size`]
    /// does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").thread_stack_size(4 << 20).build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn thread_stack_size(self, bytes: usize) -> RuntimeBuilder {
        self.configure(move |builder| {
            builder.thread_stack_size(bytes);
        })
    }

    /// Sets how long an idle thread of the blocking pool is kept, as [`Builder::thread_keep_alive`]
    /// does.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").thread_keep_alive(Duration::from_secs(60)).build()?;
    /// # drop(runtime);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn thread_keep_alive(self, duration: Duration) -> RuntimeBuilder {
        self.configure(move |builder| {
            builder.thread_keep_alive(duration);
        })
    }

    /// Builds the runtime and watches it.
    ///
    /// # Errors
    ///
    /// As [`Watchdog::build_runtime`], and [`InvalidSetting`](crate::ErrorKind::InvalidSetting) for
    /// a number of threads that is 0, and for [`current_thread`](Self::current_thread) together
    /// with [`with_builder`](Self::with_builder).
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let first = watchdog.runtime("main").build()?;
    /// let error = watchdog.runtime("main").build().unwrap_err();
    /// assert_eq!(error.kind(), pollwatch::ErrorKind::NameInUse);
    /// # drop(first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<Runtime, Error> {
        let PreparedBuilder { watchdog, name, builder, hooks } = self.prepare()?;
        watchdog.build_with_hooks(&name, builder, hooks)
    }

    /// Builds a [`LocalRuntime`] and watches it. It is a current-thread runtime, whether or not
    /// [`current_thread`](Self::current_thread) was called.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`InvalidSetting`](crate::ErrorKind::InvalidSetting) when the
    /// builder of [`with_builder`](Self::with_builder) is a multi-thread one. tokio's builder says
    /// that by a panic alone, which is caught: a panic hook is called nevertheless, and a program
    /// that aborts on panics is aborted.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("ui").enable_all().build_local()?;
    /// runtime.block_on(async { tokio::task::spawn_local(async { /* not `Send` */ }).await })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build_local(mut self) -> Result<LocalRuntime, Error> {
        if matches!(self.base, BaseBuilder::MultiThread) {
            self.base = BaseBuilder::CurrentThread;
        }
        let PreparedBuilder { watchdog, name, builder, hooks } = self.prepare()?;
        watchdog.build_local_with_hooks(&name, builder, hooks)
    }

    /// Makes all settings on the builder of tokio's, unless one is refused.
    fn prepare(self) -> Result<PreparedBuilder, Error> {
        let RuntimeBuilder { watchdog, name, base, settings, hooks, refused } = self;
        if let Some(why) = refused {
            return Err(Error::invalid(format!("the runtime {name:?} is not built: {why}")));
        }
        let mut builder = base.into_builder();
        settings.into_iter().for_each(|setting| setting(&mut builder));
        Ok(PreparedBuilder { watchdog, name, builder, hooks })
    }
}

/// A builder of tokio's with all settings, and what else a build needs.
struct PreparedBuilder {
    watchdog: Watchdog,
    name: String,
    builder: Builder,
    hooks: Hooks,
}
