//! The handle that users hold, and all that it wires together.

mod builder;
mod collect;
mod config;
mod coverage;
mod runtimes;
mod state;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::measure::entry::future::Watched;
use crate::measure::entry::task::SpawnedTask;
use crate::measure::runtime::lag::{Lag, LagSource};
use crate::model::coverage::Coverage;
use crate::model::snapshot::Snapshot;
use crate::model::stall::Stall;
use crate::util::lock;

pub use builder::WatchdogBuilder;
pub(crate) use state::WatchdogState;
use threads::Threads;

/// Watches runtimes for polls that block them.
///
/// A cheap handle: clones share one watchdog. Its threads stop when the last clone is dropped, or
/// at [`shutdown`](Self::shutdown). What was measured stays readable through futures, collectors
/// and hooks that still exist, but those do not keep the threads alive.
///
/// It may be dropped before or after the runtimes that it watches, in any order.
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
    pub fn builder() -> WatchdogBuilder {
        WatchdogBuilder::default()
    }

    /// Watches a future's polls: a `block_on` root, a part of a task that you want named, or, in
    /// stable mode, a whole task.
    ///
    /// Within a poll that is measured already (by tokio's hooks, or by an outer wrapper) it only
    /// names that part. Elsewhere its polls are counted, and are stalls when they block a worker.
    /// The runtime is found at the first poll. A runtime that nobody has named is attached as by
    /// [`attach`](Self::attach), under tokio's own name for it or the first of `runtime-1`,
    /// `runtime-2` ... that no living runtime has.
    ///
    /// The site is the caller's.
    #[track_caller]
    pub fn watch<F: Future>(&self, future: F) -> Watched<F> {
        Watched::new(&self.state.meter, future)
    }

    /// Spawns a task on the current runtime. Its polls are watched and its outcome (completed,
    /// cancelled, panicked) is counted.
    ///
    /// A panic of it is logged (target `pollwatch::tasks`, level WARN) with this site and its
    /// message, whether or not the handle is awaited: tokio does not report whether there still is
    /// one. The handle gets the panic as usual.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, as [`tokio::spawn`] does.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(SpawnedTask::new(Watched::task(&self.state.meter, future)))
    }

    /// Returns a layer for your `tracing` subscriber: stalls are then reported with the spans that
    /// they happen in, and the fields of these.
    ///
    /// It holds no handle. [`SpanLayer`](crate::SpanLayer) says how it is installed, what it sees
    /// and what it costs.
    #[cfg(feature = "spans")]
    pub fn span_layer(&self) -> crate::SpanLayer {
        crate::SpanLayer::new(&self.state.meter)
    }

    /// Returns the recent stalls, at most 256, most recent last; each once, in its last state.
    pub fn stalls(&self) -> Vec<Stall> {
        lock(&self.state.stalls).recent()
    }

    /// Returns all metrics as plain data, of this moment. It takes some milliseconds with 1,000
    /// sites, and is not for the poll path.
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

    /// Returns the lag of a runtime: how late its tasks are polled now, for what should adapt to
    /// that. `None` when no runtime has had this name. While the [`Lag`] is held, the watchdog
    /// measures more often.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// let runtime = watchdog.build_runtime("main", builder.enable_all()).unwrap();
    /// let lag = watchdog.lag("main").expect("a runtime of this name");
    /// runtime.spawn(async move {
    ///     let is_blocked = lag.read().is_some_and(|reading| reading.blocked_workers > 0);
    /// });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn lag(&self, runtime: &str) -> Option<Lag> {
        self.lag_source().get(runtime)
    }

    /// Returns the source of the lags of all runtimes, for middleware: it holds no handle.
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

    /// Returns what this watchdog can see.
    pub fn coverage(&self) -> Coverage {
        self.state.coverage()
    }

    /// Returns the server's address, where there is a server. With port 0 in
    /// [`WatchdogBuilder::listen`], it has the port that the system chose.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.threads.local_addr()
    }

    /// Stops the watchdog's threads and closes its server. It waits for them, two seconds at most
    /// (a callback that hangs is left behind), but not on one of those threads and not on a
    /// runtime's.
    ///
    /// Runtimes continue. Their polls are still counted, but no further stall is found.
    pub fn shutdown(&self) {
        self.threads.stop();
    }

    #[cfg(feature = "testing")]
    pub(crate) fn stop_and_wait(&self) {
        self.threads.stop_and_wait();
    }

    /// Returns a tower layer that names what blocks by the route of its request, for axum, tonic,
    /// and any service of `http` 1 requests. It holds no handle: after the watchdog has stopped,
    /// requests are still counted, and no further stall is.
    ///
    /// The site of polls that only the layer sees (stable mode) is the caller's.
    #[cfg(feature = "tower")]
    #[track_caller]
    pub fn layer(&self) -> crate::layer::WatchLayer {
        crate::layer::WatchLayer::new(&self.state.meter)
    }

    /// The pages of [`listen`](WatchdogBuilder::listen) for an admin router of your own: the live
    /// page at `/live.html` (`/` is yours) with its data at `/live` and `/live/profile`,
    /// `/metrics`, `/stalls` (`/flamegraph`, `/folded`, `/speedscope`), `/debug/pprof/stalls`,
    /// `/healthz`. They refer to each other relatively: any prefix will do.
    ///
    /// **It answers on your runtime, so it does not while every worker is blocked**, which is when
    /// it is needed most, and `/healthz` can then not say so. Only the server of `listen` has a
    /// thread of its own; use both, or this one where a second port cannot be had. The pages name
    /// places in your code and ask for no password: keep them behind what guards your admin router.
    ///
    /// They are made on tokio's pool of blocking threads. The router holds no handle: it answers
    /// after the watchdog has stopped, too. A router with a state is given its state before this
    /// one is nested in it, or nests it as a service.
    ///
    /// Nest it. `Router::merge` panics where your router has one of these paths already, as many
    /// have `/healthz` or `/metrics`.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let app = Router::new().route("/", get(|| async { "hello" })).route("/healthz", get(|| async { "well" }));
    /// let app = app.layer(watchdog.layer()).nest("/admin", watchdog.router());
    /// # drop::<Router>(app);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(all(feature = "axum", feature = "server"))]
    pub fn router(&self) -> axum::Router {
        crate::export::router::router(self.state.clone())
    }

    /// Returns all metrics in Prometheus' text format 0.0.4, as `/metrics` does.
    #[cfg(feature = "prometheus")]
    pub fn metrics_text(&self) -> String {
        crate::export::families::text(&*self.state)
    }

    /// Returns a collector for your own [`prometheus::Registry`]. It holds no handle: after the
    /// watchdog has stopped, polls are still counted, and no further stall is.
    #[cfg(feature = "prometheus")]
    pub fn collector(&self) -> crate::export::collector::Collector {
        crate::export::collector::Collector::new(self.state.clone())
    }
}
