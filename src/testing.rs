//! Fails a test that blocks its event loop. The message has the stack, the cause and the advice.
//!
//! ```
//! #[test]
//! fn the_handler_does_not_block() {
//!     pollwatch::testing::run(async {
//!         assert_eq!(handler().await, 42);
//!     });
//! }
//! # async fn handler() -> u32 { 42 }
//! ```
//!
//! `#[pollwatch::test]` (feature `macros`) does the same in place of `#[tokio::test]`.
//!
//! With `tokio_unstable` every task of the test's runtime is measured. Without it, these are: the
//! test's own future, futures that [`CheckGuard::spawn`] and [`CheckGuard::watch`] wrap, and system
//! calls that block a worker of [`Check::worker_threads`].
//!
//! Put code that is meant to block into [`allow_blocking`](crate::allow_blocking). A poll that the
//! machine kept from running (causes `starved` and `paused`) fails no test.
//!
//! Before the first test of a process, a poll is blocked on purpose, and must be found. So a test
//! that passes had a detector that works.

#![allow(clippy::test_attr_in_doctest, reason = "the example is a test")]

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use crate::model::cause::Certainty;
use crate::model::stall::Stall;
use crate::{Watchdog, WatchdogBuilder, Watched};

/// Runs a future on a current-thread runtime of its own, like `#[tokio::test]`. Fails when anything
/// blocks the runtime for [`Check::DEFAULT_LIMIT`].
///
/// ```
/// pollwatch::testing::run(async {
///     tokio::time::sleep(std::time::Duration::from_millis(100)).await; // does not block
/// });
/// ```
///
/// # Panics
///
/// Panics as [`Check::run`] does.
#[track_caller]
pub fn run<F: Future>(future: F) -> F::Output {
    Check::new().run(future)
}

/// The settings of a check.
///
/// ```
/// use std::time::Duration;
///
/// pollwatch::testing::Check::new().limit(Duration::from_millis(200)).worker_threads(2).run(async {
///     // the test
/// });
/// ```
#[must_use = "nothing is checked until `run` or `guard` is called"]
#[derive(Clone, Debug)]
pub struct Check {
    limit: Duration,
    workers: Option<usize>,
}

impl Default for Check {
    fn default() -> Self {
        Check { limit: Self::DEFAULT_LIMIT, workers: None }
    }
}

impl Check {
    /// The default limit: 50 ms. On a busy machine, polls of a debug build do not exceed it by
    /// accident.
    pub const DEFAULT_LIMIT: Duration = Duration::from_millis(50);

    /// Returns a check with the [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT), on a current-thread
    /// runtime.
    ///
    /// ```
    /// pollwatch::testing::Check::new().run(async {});
    /// ```
    pub fn new() -> Check {
        Check::default()
    }

    /// Sets the limit: a poll that takes at least this long fails the test. It must be one of
    /// [`WatchdogBuilder::THRESHOLDS`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// let check = pollwatch::testing::Check::new().limit(Duration::from_millis(20));
    /// # drop(check);
    /// ```
    pub fn limit(mut self, limit: Duration) -> Check {
        self.limit = limit;
        self
    }

    /// Runs the test on a multi-thread runtime with this number of workers. The test's own future
    /// then runs on no worker, and may block.
    ///
    /// ```
    /// pollwatch::testing::Check::new().worker_threads(2).run(async {
    ///     tokio::spawn(async { /* is checked */ }).await.unwrap();
    /// });
    /// ```
    pub fn worker_threads(mut self, workers: usize) -> Check {
        self.workers = Some(workers);
        self
    }

    /// Runs a future on a runtime of its own.
    ///
    /// ```should_panic
    /// pollwatch::testing::Check::new().run(async {
    ///     std::thread::sleep(std::time::Duration::from_millis(100)); // blocks the event loop
    /// });
    /// ```
    ///
    /// # Panics
    ///
    /// Panics when
    ///
    /// - the future panics;
    /// - a poll blocked the runtime for the limit or longer. The message has all that is known of
    ///   it;
    /// - the limit is not one of [`WatchdogBuilder::THRESHOLDS`], or the runtime cannot be built;
    /// - the detector does not find the poll that it blocks on purpose.
    #[track_caller]
    pub fn run<F: Future>(self, future: F) -> F::Output {
        let mut builder = match self.workers {
            None => Builder::new_current_thread(),
            Some(workers) => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(workers);
                builder
            }
        };
        builder.enable_all();
        self.run_on("test", builder, future)
    }

    /// Runs a future on a runtime that this builder builds.
    #[track_caller]
    pub(crate) fn run_on<F: Future>(self, name: &str, builder: Builder, future: F) -> F::Output {
        let guard = self.new_guard();
        let runtime = built(guard.watchdog.build_runtime(name, builder));
        let output = runtime.block_on(guard.watch(future));
        drop(runtime);
        guard.finish();
        output
    }

    /// Runs a future on a `LocalRuntime` that this builder builds.
    #[cfg(feature = "macros")]
    #[track_caller]
    pub(crate) fn run_on_local<F: Future>(self, name: &str, builder: Builder, future: F) -> F::Output {
        let guard = self.new_guard();
        let runtime = built(guard.watchdog.runtime(name).with_builder(builder).build_local());
        let output = runtime.block_on(guard.watch(future));
        drop(runtime);
        guard.finish();
        output
    }

    #[track_caller]
    fn new_guard(&self) -> CheckGuard {
        CheckGuard { watchdog: self.watchdog(), limit: self.limit, is_finished: false }
    }

    /// Checks the futures that the guard wraps, on the runtime that calls this: for a
    /// `#[tokio::test]`. The check ends with [`CheckGuard::finish`], or when the guard is dropped,
    /// and fails the test if one of them blocked.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// // In a #[tokio::test]:
    /// let guard = pollwatch::testing::Check::new().guard();
    /// guard.watch(async { /* is checked */ }).await;
    /// guard.finish();
    /// # });
    /// ```
    ///
    /// # Panics
    ///
    /// Panics outside of a runtime, and when [`run`](Self::run) would panic before it runs the
    /// future.
    #[track_caller]
    pub fn guard(self) -> CheckGuard {
        let guard = self.new_guard();
        if let Err(error) = guard.watchdog.attach("test", &Handle::current()) {
            panic!("pollwatch::testing: {error:#}");
        }
        guard
    }

    #[track_caller]
    fn watchdog(&self) -> Watchdog {
        static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
        if let Err(why) = WORKS.get_or_init(self_check_on_new_thread) {
            panic!(
                "pollwatch::testing: a poll that was blocked on purpose was not found, so no test can be trusted: {why}"
            );
        }
        match start(self.limit) {
            Ok(watchdog) => watchdog,
            Err(error) => panic!("pollwatch::testing: {error:#}"),
        }
    }
}

/// Returns the test's runtime, or fails the test.
#[track_caller]
fn built<R>(runtime: Result<R, crate::Error>) -> R {
    match runtime {
        Ok(runtime) => runtime,
        Err(error) => panic!("pollwatch::testing: {error:#}"),
    }
}

fn start(limit: Duration) -> Result<Watchdog, crate::Error> {
    WatchdogBuilder::default().threshold(limit).log(false).start()
}

/// Runs the self-check on another thread: a guard is created within a runtime, where no second
/// runtime can be driven.
fn self_check_on_new_thread() -> Result<(), String> {
    std::thread::spawn(self_check).join().unwrap_or_else(|_| Err("the self-check panicked".into()))
}

/// Blocks a poll, and returns an error if it was not found.
fn self_check() -> Result<(), String> {
    const LIMIT: Duration = Duration::from_millis(10);
    let text = |error| format!("{error:#}");
    let watchdog = start(LIMIT).map_err(text)?;
    let runtime = watchdog.build_runtime("self-check", Builder::new_current_thread()).map_err(text)?;
    runtime.block_on(watchdog.watch(async { std::thread::sleep(LIMIT * 3) }));
    drop(runtime);
    watchdog.stop_and_wait();
    match watchdog.stalls().first() {
        Some(stall) if stall.elapsed >= LIMIT => Ok(()),
        _ => Err(watchdog.coverage().to_string()),
    }
}

/// Checks a runtime until it is dropped; returned by [`Check::guard`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let guard = pollwatch::testing::Check::new().guard();
/// assert_eq!(guard.watch(async { 42 }).await, 42);
/// # });
/// ```
#[must_use = "the check ends when the guard is dropped"]
#[derive(Debug)]
pub struct CheckGuard {
    watchdog: Watchdog,
    limit: Duration,
    is_finished: bool,
}

impl CheckGuard {
    /// Watches a future, as [`Watchdog::watch`] does.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let guard = pollwatch::testing::Check::new().guard();
    /// assert_eq!(guard.watch(async { 42 }).await, 42);
    /// # });
    /// ```
    #[track_caller]
    pub fn watch<F: Future>(&self, future: F) -> Watched<F> {
        self.watchdog.watch(future)
    }

    /// Spawns a watched task, as [`Watchdog::spawn`] does.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let guard = pollwatch::testing::Check::new().guard();
    /// assert_eq!(guard.spawn(async { 42 }).await.unwrap(), 42);
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.watchdog.spawn(future)
    }

    /// Returns the watchdog that checks the runtime.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let guard = pollwatch::testing::Check::new().guard();
    /// assert!(guard.watchdog().coverage().watching);
    /// # });
    /// ```
    pub fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Ends the check, and fails the test if a poll blocked the runtime. Dropping the guard does
    /// the same, but only here the panic has the line of the test.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let guard = pollwatch::testing::Check::new().guard();
    /// assert_eq!(guard.watch(async { 42 }).await, 42);
    /// guard.finish();
    /// # });
    /// ```
    ///
    /// # Panics
    ///
    /// Panics when a poll blocked the runtime for the limit or longer.
    #[track_caller]
    pub fn finish(mut self) {
        self.is_finished = true;
        if let Some(failure) = self.failure() {
            panic!("{failure}");
        }
    }

    /// Returns what blocked the runtime, once the watchdog has stopped.
    fn failure(&self) -> Option<String> {
        self.watchdog.stop_and_wait();
        // On a busy machine a thread that computes may be starved, too. It is still blamed for the
        // CPU time that it used.
        let blamed = |stall: &Stall| stall.cause.is_blamed() || stall.on_cpu.is_some_and(|used| used >= self.limit);
        // A suspected stall is not proven, and fails no test. The test's own future may block where
        // it occupies no worker.
        let is_known = |stall: &Stall| stall.certainty != Certainty::Suspected && !stall.is_of_root();
        let stalls = self.watchdog.stalls().into_iter().filter(|stall| is_known(stall) && blamed(stall));
        let stalls: Vec<Stall> = stalls.collect();
        (!stalls.is_empty()).then(|| text_of(&stalls, self.limit))
    }
}

impl Drop for CheckGuard {
    /// # Panics
    ///
    /// Panics when a poll blocked the runtime, unless the test has failed already.
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let failure = self.failure();
        if let Some(failure) = failure.filter(|_| !std::thread::panicking()) {
            panic!("{failure}");
        }
    }
}

fn text_of(stalls: &[Stall], limit: Duration) -> String {
    let mut text = format!("{} poll(s) blocked the event loop for {limit:?} or longer:\n", stalls.len());
    for stall in stalls {
        text += &format!("\n{stall}\n");
        if let Some(stack) = &stall.stack {
            text += &format!("  the whole stack:\n{stack:#}");
        }
    }
    text
}
