//! The public handle of a watchdog, its builder and its threads. Wires all layers together.

mod blocking_pool;
mod builder;
#[cfg(all(test, not(pollwatch_loom)))]
mod clock_tests;
mod collect;
mod config;
mod coverage;
pub(crate) mod current;
mod driver;
mod health;
mod requests;
mod responsiveness;
mod runtime_builder;
mod runtimes;
mod state;
mod thread_dumps;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::measure::entry::future::Watched;
use crate::measure::entry::task::SpawnedTask;
use crate::measure::runtime::lag::{Lag, LagSource};
use crate::model::condition::Condition;
use crate::model::coverage::Coverage;
use crate::model::late_runtime::LateRuntime;
use crate::model::snapshot::Snapshot;
use crate::model::stall::Stall;
use crate::report::recent::MAX_RECENT;
use crate::util::lock;

pub use builder::WatchdogBuilder;
pub use runtime_builder::RuntimeBuilder;
pub(crate) use state::WatchdogState;
use threads::Threads;

/// A handle to a watchdog, which reports polls that block the runtimes it watches.
///
/// Clones are cheap and share one watchdog. Its threads stop when the last clone is dropped, or at
/// [`shutdown`](Self::shutdown). Futures, layers, collectors and hooks made by a handle do not keep
/// the threads running. They continue to measure, and what they measure stays readable.
///
/// The watchdog may be dropped before or after the runtimes that it watches, in any order.
///
/// ```
/// use std::time::Duration;
///
/// let watchdog = pollwatch::Watchdog::builder().start()?;
/// let mut builder = tokio::runtime::Builder::new_current_thread();
/// let runtime = watchdog.build_runtime("main", builder).unwrap();
/// runtime.block_on(watchdog.watch(async {
///     std::thread::sleep(Duration::from_millis(100)); // blocks the event loop
/// }));
/// # while watchdog.stalls().iter().all(|stall| stall.phase == pollwatch::Phase::Ongoing) {
/// #     std::thread::sleep(Duration::from_millis(1));
/// # }
/// assert!(watchdog.stalls()[0].elapsed >= Duration::from_millis(100));
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[must_use = "the watchdog stops when its last handle is dropped"]
#[derive(Clone)]
pub struct Watchdog {
    state: Arc<WatchdogState>,
    threads: Arc<Threads>,
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchdog").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

impl Watchdog {
    /// Returns a builder with the default settings.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn builder() -> WatchdogBuilder {
        WatchdogBuilder::default()
    }

    /// Watches the polls of a future: a `block_on` root, a part of a task that should have a name
    /// of its own, or, in stable mode, a whole task. Its site is the location of the caller.
    ///
    /// Within a poll that is measured already (by tokio's hooks, or by an outer wrapper), the
    /// future is a named part of that poll. Elsewhere its polls are counted, and are stalls when
    /// they block a worker.
    ///
    /// The runtime is found at the first poll. If it has no name yet, it is attached as by
    /// [`attach`](Self::attach), under tokio's own name for it or the first of `runtime-1`,
    /// `runtime-2` ... that no living runtime has.
    ///
    /// The future grows by 16 bytes. A poll takes 20 to 28 ns longer (`docs/overhead.md`).
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_current_thread();
    /// # let runtime = watchdog.build_runtime("main", builder).unwrap();
    /// let answer = runtime.block_on(watchdog.watch(async { 42 }));
    /// assert_eq!(answer, 42);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[track_caller]
    pub fn watch<F: Future>(&self, future: F) -> Watched<F> {
        Watched::new(&self.state.meter, future)
    }

    /// Spawns a task on the current runtime. Its polls are watched, and its outcome (completed,
    /// cancelled, panicked) is counted. Its site is the location of the caller.
    ///
    /// A panic of the task is logged (target `pollwatch::tasks`, level WARN) with the site and the
    /// panic's message, whether or not the handle is awaited. The handle gets the panic as usual.
    ///
    /// # Panics
    ///
    /// Panics outside of a runtime, as [`tokio::spawn`] does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_current_thread();
    /// # let runtime = watchdog.build_runtime("main", builder).unwrap();
    /// runtime.block_on(async {
    ///     let task = watchdog.spawn(async { 42 });
    ///     assert_eq!(task.await.unwrap(), 42);
    /// });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(SpawnedTask::new(Watched::task(&self.state.meter, future)))
    }

    /// Returns a layer for your `tracing` subscriber. With it, stalls are reported with the spans
    /// that they happen in, and the fields of these.
    ///
    /// The layer does not keep the watchdog running. [`SpanLayer`](crate::SpanLayer) describes
    /// which spans it reports and what it costs.
    ///
    /// ```
    /// use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// tracing_subscriber::registry().with(watchdog.span_layer()).init();
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "spans")]
    pub fn span_layer(&self) -> crate::SpanLayer {
        crate::SpanLayer::new(&self.state.meter)
    }

    /// Returns the recent stalls, each once, in its latest phase: at most 256, the most recent
    /// last.
    ///
    /// The first and the longest stall of each runtime, site, route and cause stay longer than the
    /// others, so that a flood of one kind does not push out the rest.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for stall in watchdog.stalls() {
    ///     println!("{} of {:?} at {}", stall.cause, stall.elapsed, stall.site);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn stalls(&self) -> Vec<Stall> {
        lock(&self.state.stalls).recent(MAX_RECENT)
    }

    /// Returns the ongoing conditions of whole runtimes, the oldest first: a runtime whose sockets
    /// and timers nobody attends, or that hangs.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for condition in watchdog.conditions() {
    ///     println!("{condition}");
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn conditions(&self) -> Vec<Condition> {
        self.state.conditions()
    }

    /// Returns the latest reports of runtimes that were late although no stall blocked them: at
    /// most 16, the most recent last.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for late in watchdog.late_runtimes() {
    ///     println!("{}: {:?}, {:?}", late.runtime, late.delay, late.sites);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn late_runtimes(&self) -> Vec<LateRuntime> {
        lock(&self.state.stalls).late_runtimes()
    }

    /// Returns all metrics at this moment as plain data. With 1,000 sites it takes some
    /// milliseconds, so do not call it in a task.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for runtime in watchdog.snapshot().runtimes {
    ///     println!("{}: {} blocked workers", runtime.name, runtime.blocked_workers);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        collect::snapshot(&self.state)
    }

    /// Returns where blocked time was spent since the start: the data of the flame graph.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for entry in watchdog.profile().entries {
    ///     println!("{:?} {} {}", entry.stalls.time, entry.cause, entry.site);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "server")]
    pub fn profile(&self) -> crate::Profile {
        lock(&self.state.profile).snapshot()
    }

    /// Returns the lag of a runtime: how late its tasks are polled now. `None` when no runtime has
    /// had this name. Middleware uses it to adapt to the load.
    ///
    /// While the [`Lag`] is held, the watchdog measures more often.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").enable_all().build().unwrap();
    /// let lag = watchdog.lag("main").expect("a runtime of this name");
    /// runtime.spawn(async move {
    ///     let is_blocked = lag.read().is_some_and(|reading| reading.blocked_workers > 0);
    /// });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn lag(&self, runtime: &str) -> Option<Lag> {
        self.lag_source().get(runtime)
    }

    /// Returns the source of the lags of all runtimes, for middleware. It does not keep the
    /// watchdog running.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let source = watchdog.lag_source();
    /// let names: Vec<String> = source.all().iter().map(|lag| lag.runtime().to_owned()).collect();
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn lag_source(&self) -> LagSource {
        LagSource::new(&self.state.meter)
    }

    /// Returns what this watchdog can see on this machine, and what not.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// println!("{}", watchdog.coverage());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn coverage(&self) -> Coverage {
        self.state.coverage()
    }

    /// Returns the server's address; `None` if there is no server. With port 0 in
    /// [`WatchdogBuilder::listen`], it has the port that the system chose.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// assert_eq!(watchdog.local_addr(), None);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.threads.local_addr()
    }

    /// Stops the watchdog's threads and closes its server. Runtimes continue: their polls are still
    /// counted, but no further stall is found.
    ///
    /// The task that measures the schedule delay ends: each runtime is woken for it once. With
    /// [`rescue_driver(false)`](WatchdogBuilder::rescue_driver) no worker of a multi-thread runtime
    /// is woken. There that task remains, idle, until the runtime ends: one for each watchdog that
    /// the runtime was watched by.
    ///
    /// Waits at most two seconds for the threads to end. A callback or a log that hangs is left
    /// behind. Does not wait when called on one of those threads, or within a runtime.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// watchdog.shutdown();
    /// assert!(!watchdog.coverage().watching);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn shutdown(&self) {
        self.threads.stop();
    }

    /// Returns a tower layer for axum, tonic, and any service of `http` 1 requests. It names what
    /// blocks by the route of the request.
    ///
    /// The layer does not keep the watchdog running. After the watchdog has stopped, requests are
    /// still counted, but no further stall is found. The site of polls that only the layer measures
    /// (stable mode) is the location of the caller. [`WatchLayer`](crate::WatchLayer) describes
    /// what is counted and what it costs.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// use axum::{Router, routing::get};
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let app = Router::new().route("/ping", get(|| async { "pong" })).layer(watchdog.layer());
    /// # drop::<Router>(app);
    /// # }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "tower")]
    #[track_caller]
    pub fn layer(&self) -> crate::layer::WatchLayer {
        crate::layer::WatchLayer::new(&self.state.meter)
    }

    /// Returns the pages of [`listen`](WatchdogBuilder::listen) for an admin router of your own:
    /// the live page at `/live.html` with its data at `/live` and `/live/profile`, `/metrics`,
    /// `/stalls` (`/flamegraph`, `/folded`, `/speedscope`), `/debug/pprof/stalls`, `/threads`,
    /// `/incidents` and `/healthz`. `/` stays yours. Links are relative, so that the router may be
    /// nested under any prefix.
    ///
    /// **The pages are served by your runtime. They do not answer while every worker is blocked**,
    /// or while its blocking pool is full, which is when you need them most. `/healthz` cannot
    /// report that state then. Only the server of `listen` has a thread of its own: use both, or
    /// this router where a second port is not possible.
    ///
    /// The pages name functions and lines of your code, and ask for no password: protect them like
    /// your other admin pages. They are computed on tokio's pool of blocking threads, `/threads`
    /// and `/incidents` one at a time. The router does not keep the watchdog running, and still
    /// answers after it has stopped.
    ///
    /// Nest the router. `Router::merge` panics where your router has one of these paths already, as
    /// many have `/healthz` or `/metrics`. If your router has a state, provide the state before you
    /// nest this router, or nest this router as a service.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let app = Router::new()
    ///     .route("/healthz", get(|| async { "well" }))
    ///     .layer(watchdog.layer())
    ///     .nest("/admin", watchdog.router());
    /// # drop::<Router>(app);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(all(feature = "axum", feature = "server"))]
    pub fn router(&self) -> axum::Router {
        crate::export::router::router(self.state.clone())
    }

    /// Returns all metrics in Prometheus' text format 0.0.4, as `/metrics` serves them. With 1,000
    /// sites it takes some milliseconds.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// assert!(watchdog.metrics_text().contains("pollwatch_watchdog_wakeups_total"));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn metrics_text(&self) -> String {
        crate::export::families::text(&*self.state)
    }

    /// Returns a collector for a [`prometheus::Registry`] of your own. It does not keep the
    /// watchdog running. After the watchdog has stopped, polls are still counted, but no further
    /// stall is found.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let registry = prometheus::Registry::new();
    /// registry.register(Box::new(watchdog.collector())).unwrap();
    /// assert!(!registry.gather().is_empty());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn collector(&self) -> crate::export::collector::Collector {
        crate::export::collector::Collector::new(self.state.clone())
    }
}
