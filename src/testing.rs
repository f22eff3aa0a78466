//! Fails a test that blocks its event loop, with the stack, the cause and the advice in the
//! failure's text.
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
//! With `tokio_unstable` every task of the test's runtime is seen; without it the test's own
//! future, what [`Guard::spawn`] and [`Guard::watch`] wrap, and system calls that block a worker of
//! [`Check::worker_threads`]. Code that is meant to block passes in
//! [`allow_blocking`](crate::allow_blocking). A poll that was kept from running by the machine
//! (causes `starved` and `paused`) fails no test.
//!
//! Before the first test of a process a poll is blocked on purpose, and must be found: a test that
//! passes in silence has had a detector that works.

#![allow(clippy::test_attr_in_doctest, reason = "it shows how a test looks, and is one here")]

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use crate::model::cause::Certainty;
use crate::model::stall::Stall;
use crate::{Watchdog, WatchdogBuilder, Watched};

/// Runs a future on a runtime of its own, a current-thread one as with `#[tokio::test]`, and fails
/// when anything blocks it for [`Check::DEFAULT_LIMIT`].
///
/// # Panics
///
/// As [`Check::run`].
#[track_caller]
pub fn run<F: Future>(future: F) -> F::Output {
    Check::new().run(future)
}

/// How a test is checked.
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
    /// 50 ms: above what a test in a debug build on a busy machine does by accident.
    pub const DEFAULT_LIMIT: Duration = Duration::from_millis(50);

    /// [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT), on a current-thread runtime.
    pub fn new() -> Check {
        Check::default()
    }

    /// A poll that lasts this long fails the test.
    pub fn limit(mut self, limit: Duration) -> Check {
        self.limit = limit;
        self
    }

    /// Runs on a multi-thread runtime with so many workers. The test's own future is then on no
    /// worker, and may block.
    pub fn worker_threads(mut self, workers: usize) -> Check {
        self.workers = Some(workers);
        self
    }

    /// Runs a future on a runtime of its own.
    ///
    /// # Panics
    ///
    /// When the future does; when a poll blocked the runtime for the limit or longer, with all that
    /// is known of it; when the limit is out of [`WatchdogBuilder::THRESHOLDS`], the runtime cannot
    /// be built, or detection does not work on this machine.
    #[track_caller]
    pub fn run<F: Future>(self, future: F) -> F::Output {
        let watchdog = self.watchdog();
        let mut builder = match self.workers {
            None => Builder::new_current_thread(),
            Some(workers) => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(workers);
                builder
            }
        };
        let runtime = match watchdog.build_runtime("test", builder.enable_all()) {
            Ok(runtime) => runtime,
            Err(error) => panic!("pollwatch::testing: cannot build the test's runtime: {error}"),
        };
        let guard = Guard { watchdog, limit: self.limit };
        let output = runtime.block_on(guard.watch(future));
        drop(runtime);
        drop(guard);
        output
    }

    /// Checks what is wrapped by the guard on the runtime that calls this, for a `#[tokio::test]`.
    /// The check ends, and fails the test, when the guard is dropped.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, or when [`run`](Self::run) would at its start.
    pub fn guard(self) -> Guard {
        let watchdog = self.watchdog();
        if let Err(error) = watchdog.attach("test", &Handle::current()) {
            panic!("pollwatch::testing: {error}");
        }
        Guard { watchdog, limit: self.limit }
    }

    fn watchdog(&self) -> Watchdog {
        static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
        if let Err(why) = WORKS.get_or_init(on_a_thread_of_its_own) {
            panic!(
                "pollwatch::testing: a poll that was blocked on purpose was not found, so no test can be trusted: {why}"
            );
        }
        match start(self.limit) {
            Ok(watchdog) => watchdog,
            Err(error) => panic!("pollwatch::testing: {error}"),
        }
    }
}

fn start(limit: Duration) -> Result<Watchdog, crate::Error> {
    WatchdogBuilder::default().threshold(limit).log(false).start()
}

/// A guard is made within a runtime, where no other may be driven.
fn on_a_thread_of_its_own() -> Result<(), String> {
    std::thread::spawn(self_check).join().unwrap_or_else(|_| Err("the self-check panicked".into()))
}

/// Blocks a poll, which must be found.
fn self_check() -> Result<(), String> {
    const LIMIT: Duration = Duration::from_millis(10);
    let watchdog = start(LIMIT).map_err(|error| error.to_string())?;
    let runtime =
        watchdog.build_runtime("self-check", &mut Builder::new_current_thread()).map_err(|e| e.to_string())?;
    runtime.block_on(watchdog.watch(async { std::thread::sleep(LIMIT * 3) }));
    drop(runtime);
    watchdog.stop_and_wait();
    match watchdog.stalls().first() {
        Some(stall) if stall.elapsed >= LIMIT => Ok(()),
        _ => Err(watchdog.coverage().to_string()),
    }
}

/// Checks a runtime until it is dropped; from [`Check::guard`].
#[derive(Debug)]
pub struct Guard {
    watchdog: Watchdog,
    limit: Duration,
}

impl Guard {
    /// Watches a future, as [`Watchdog::watch`] does.
    #[track_caller]
    pub fn watch<F: Future>(&self, future: F) -> Watched<F> {
        self.watchdog.watch(future)
    }

    /// Spawns a watched task, as [`Watchdog::spawn`] does.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.watchdog.spawn(future)
    }

    /// The watchdog behind it.
    pub fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }
}

impl Drop for Guard {
    /// # Panics
    ///
    /// When a poll blocked the runtime, unless the test is failing already.
    fn drop(&mut self) {
        self.watchdog.stop_and_wait();
        // On a busy machine a thread that computes may be starved as well; what it computed is its
        // own.
        let blamed = |stall: &Stall| stall.cause.is_blamed() || stall.on_cpu.is_some_and(|used| used >= self.limit);
        // A suspicion is no proof, and fails nothing.
        let is_known = |stall: &Stall| stall.certainty != Certainty::Suspected;
        let stalls = self.watchdog.stalls().into_iter().filter(|stall| is_known(stall) && blamed(stall));
        let stalls: Vec<Stall> = stalls.collect();
        if !stalls.is_empty() && !std::thread::panicking() {
            panic!("{}", failure(&stalls, self.limit));
        }
    }
}

fn failure(stalls: &[Stall], limit: Duration) -> String {
    let mut text = format!("{} poll(s) blocked the event loop for {limit:?} or longer:\n", stalls.len());
    for stall in stalls {
        text += &format!("\n{stall}\n");
        if let Some(stack) = &stall.stack {
            text += &format!("  the whole stack:\n{stack:#}");
        }
    }
    text
}
