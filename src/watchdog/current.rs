//! The current watchdog, and the functions that use it.

use std::sync::{Arc, Mutex, Weak};

use tokio::task::JoinHandle;

use super::Watchdog;
use super::threads::Threads;
#[cfg(all(feature = "macros", feature = "server"))]
use crate::export::listen_address::ListenAddress;
use crate::measure::entry::future::Watched;
use crate::measure::entry::task::SpawnedTask;
use crate::measure::runtime::current;
use crate::measure::runtime::meter::Meter;
use crate::util::lock;

/// A watchdog that has started.
struct StartedWatchdog {
    meter_id: u64,
    threads: Weak<Threads>,
}

/// All watchdogs that have handles. Which of them run is known to the measuring layer.
static STARTED: Mutex<Vec<StartedWatchdog>> = Mutex::new(Vec::new());

/// Adds a watchdog that has started.
pub(super) fn register(meter: &Arc<Meter>, threads: &Arc<Threads>) {
    let mut started = lock(&STARTED);
    started.retain(|known| known.threads.strong_count() > 0);
    started.push(StartedWatchdog { meter_id: meter.id, threads: Arc::downgrade(threads) });
    drop(started);
    current::register(meter);
}

/// The operations that only the attributes and the module `testing` need.
#[cfg(feature = "testing")]
impl Watchdog {
    /// Lets this watchdog be the current one where no other is.
    #[cfg(feature = "macros")]
    pub(crate) fn make_process_wide(&self) {
        current::make_process_wide(&self.state.meter);
    }

    /// Starts the server, as [`WatchdogBuilder::listen`](crate::WatchdogBuilder#method.listen)
    /// would have.
    #[cfg(all(feature = "macros", feature = "server"))]
    pub(crate) fn serve(&self, addr: std::net::SocketAddr) -> Result<(), crate::Error> {
        self.threads.serve(&ListenAddress::new(addr))
    }

    /// Stops as [`shutdown`](Self::shutdown) does, and waits until all is reported.
    pub(crate) fn stop_and_wait(&self) {
        self.threads.stop_and_wait();
    }
}

/// Returns the watchdog of the current runtime: the one that built the runtime, or that it is
/// [attached](Watchdog::attach) to. On threads and in runtimes that no watchdog watches, it is the
/// one that `#[pollwatch::main]` has started.
///
/// `None` when there is neither, and once the watchdog was [shut down](Watchdog::shutdown). A
/// watchdog that is started later is found from then on. Of several that watch one runtime, it is
/// the one that started last.
///
/// The returned handle keeps the watchdog running until it is dropped.
///
/// ```
/// // Code of a service that need not know how its runtime was built.
/// fn blocked_workers() -> usize {
///     let Some(watchdog) = pollwatch::current() else { return 0 };
///     watchdog.snapshot().runtimes.iter().map(|runtime| runtime.blocked_workers as usize).sum()
/// }
/// assert_eq!(blocked_workers(), 0);
/// ```
pub fn current() -> Option<Watchdog> {
    let meter = current::meter()?;
    let threads = lock(&STARTED).iter().find(|known| known.meter_id == meter.id)?.threads.upgrade()?;
    Some(Watchdog { state: threads.state().clone(), threads })
}

/// Spawns a task on the current runtime, as [`Watchdog::spawn`] does by the [current] watchdog.
/// Where there is none, this is [`tokio::spawn`].
///
/// # Panics
///
/// Panics outside of a runtime, as [`tokio::spawn`] does.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let task = pollwatch::spawn(async { 42 });
/// assert_eq!(task.await.unwrap(), 42);
/// # });
/// ```
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current::meter() {
        Some(meter) => tokio::spawn(SpawnedTask::new(Watched::task(&meter, future))),
        None => tokio::spawn(future),
    }
}

/// Returns a tower layer that names what blocks by the route of its request, as
/// [`Watchdog::layer`](crate::Watchdog#method.layer) does by the [current] watchdog. Where there is
/// none, requests pass unchanged, and the first one logs a warning, unless `POLLWATCH=off`.
///
/// The watchdog is found at each request, so that the layer may be made before it starts, such as
/// in a `static` or in a function that tests use as well. To find it takes some nanoseconds where
/// no watchdog runs, or only that of `#[pollwatch::main]`. Otherwise it takes some tens: the
/// runtime is compared, which changes a reference count that its threads share. No lock is taken
/// unless the thread has changed between runtimes.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
///
/// let app = Router::new().route("/ping", get(|| async { "pong" })).layer(pollwatch::layer());
/// # drop::<Router>(app);
/// # }
/// ```
#[cfg(feature = "tower")]
#[track_caller]
pub fn layer() -> crate::WatchLayer {
    crate::WatchLayer::of_current()
}

/// Returns a layer for your `tracing` subscriber, so that stalls are reported with the spans that
/// they happen in, as [`Watchdog::span_layer`](crate::Watchdog#method.span_layer) does by the
/// [current] watchdog. Where there is none, spans are not recorded.
///
/// The watchdog is found at each entry of a span. The layer may be made before it starts, and then
/// reports the spans that are entered from then on. Within a measured poll it is the watchdog that
/// measures the poll, whichever runtime is entered there. To find it costs what it does for
/// [`current`], and less within measured polls.
///
/// ```
/// use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
///
/// tracing_subscriber::registry()
///     .with(pollwatch::span_layer())
///     .with(tracing_subscriber::fmt::layer())
///     .init();
/// ```
#[cfg(feature = "spans")]
pub fn span_layer() -> crate::SpanLayer {
    crate::SpanLayer::of_current()
}
