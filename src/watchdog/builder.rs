//! The builder of a watchdog.

use std::sync::Arc;
use std::time::Duration;

use super::Watchdog;
use super::config::Config;
use super::state::WatchdogState;
use super::threads::Threads;
use crate::error::Error;
#[cfg(feature = "prometheus")]
use crate::export::user_collectors::UserCollectors;
use crate::measure::primitives::route::Routes;
use crate::model::stall::Stall;
use crate::report::dispatch::OnStall;
use crate::report::log;

/// Sets up a [`Watchdog`].
#[must_use = "a builder does nothing until `start`"]
#[derive(Default)]
pub struct WatchdogBuilder {
    config: Config,
    on_stall: Option<OnStall>,
    #[cfg(feature = "prometheus")]
    collectors: UserCollectors,
    #[cfg(feature = "server")]
    listen: Option<std::net::SocketAddr>,
}

impl std::fmt::Debug for WatchdogBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("WatchdogBuilder");
        debug.field("config", &self.config).field("on_stall", &self.on_stall.is_some());
        #[cfg(feature = "server")]
        debug.field("listen", &self.listen);
        debug.finish()
    }
}

impl WatchdogBuilder {
    /// 10 ms: a render of 20 ms on a worker must not pass unnoticed.
    pub const DEFAULT_THRESHOLD: Duration = Duration::from_millis(10);
    /// The thresholds that [`start`](Self::start) accepts: 100 µs to 1 hour.
    pub const THRESHOLDS: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(3600);
    /// 1,000 sites.
    pub const DEFAULT_MAX_SITES: usize = 1_000;
    /// The largest value that [`max_sites`](Self::max_sites) accepts.
    pub const MAX_SITES: usize = 100_000;
    /// 500 routes.
    pub const DEFAULT_MAX_ROUTES: usize = 500;
    /// The largest value that [`max_routes`](Self::max_routes) accepts.
    pub const MAX_ROUTES: usize = Routes::MAX;
    /// No histograms of routes.
    pub const DEFAULT_ROUTE_HISTOGRAMS: bool = false;
    /// Stalls are logged.
    pub const DEFAULT_LOG: bool = true;
    /// Stacks are captured.
    pub const DEFAULT_CAPTURE_STACKS: bool = true;
    /// 10,000 tasks.
    pub const DEFAULT_ALIVE_TASKS_LIMIT: u64 = 10_000;
    /// 5 seconds.
    pub const DEFAULT_UNHEALTHY_AFTER: Duration = Duration::from_secs(5);

    /// Sets the duration from which on a poll is a stall. Defaults to
    /// [`DEFAULT_THRESHOLD`](Self::DEFAULT_THRESHOLD).
    ///
    /// It costs nothing in a poll. While anything is polled, the watchdog wakes up at most four
    /// times a threshold.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.config.threshold = threshold;
        self
    }

    /// Sets the number of sites (spawn locations, `watch` calls) that are distinguished. The rest
    /// is the site `other`, and counted (`pollwatch_sites_overflowed_total`). Defaults to
    /// [`DEFAULT_MAX_SITES`](Self::DEFAULT_MAX_SITES).
    ///
    /// Each site costs up to 128 bytes for each runtime and thread where it occurs, and up to five
    /// series for each runtime in `/metrics`.
    pub fn max_sites(mut self, max: usize) -> Self {
        self.config.max_sites = max;
        self
    }

    /// Sets the number of routes that are distinguished. The rest is the route `other`, and counted
    /// (`pollwatch_routes_overflowed_total`). Defaults to
    /// [`DEFAULT_MAX_ROUTES`](Self::DEFAULT_MAX_ROUTES).
    ///
    /// A route that no router has matched (a gRPC path, a name by `route_by`) comes from the
    /// client. It is only claimed until the service answers it with anything but a client error.
    /// Claimed routes get at most half of the table, so that a flood of invented paths leaves room
    /// for yours.
    ///
    /// Each route costs some 700 bytes for each thread where it occurs, and six or more series in
    /// `/metrics`.
    pub fn max_routes(mut self, max: usize) -> Self {
        self.config.max_routes = max;
        self
    }

    /// Sets whether `pollwatch_route_poll_duration_seconds` is kept, a histogram of 8 buckets for
    /// each route. Defaults to [`DEFAULT_ROUTE_HISTOGRAMS`](Self::DEFAULT_ROUTE_HISTOGRAMS).
    ///
    /// These are durations of polls: how long a request kept its worker from everything else. The
    /// latency of requests is a matter for a metrics layer.
    pub fn route_histograms(mut self, keep: bool) -> Self {
        self.config.route_histograms = keep;
        self
    }

    /// Sets whether stalls are logged as `tracing` events (target `pollwatch::stall`, level WARN),
    /// and with them the panics and the growth of tasks (target `pollwatch::tasks`, level WARN;
    /// `docs/tasks.md`). Defaults to [`DEFAULT_LOG`](Self::DEFAULT_LOG).
    ///
    /// Of each site, 5 stalls are logged at once, then one each 10 s. The next line has the number
    /// of those that were not logged. The same limit holds for the panics of a site.
    pub fn log(mut self, log: bool) -> Self {
        self.config.log = log;
        self
    }

    /// Sets the number of alive tasks above which a site (spawn location) is logged. It is logged
    /// once, again at each doubling, and anew after it has fallen below half of the limit. Defaults
    /// to [`DEFAULT_ALIVE_TASKS_LIMIT`](Self::DEFAULT_ALIVE_TASKS_LIMIT); `u64::MAX` switches it
    /// off. No task is ever refused.
    ///
    /// The watchdog thread checks about once a second while anything is polled, which reads one
    /// number for each runtime. It counts the tasks of all sites only while a runtime has more
    /// tasks than this in all, or one of its sites is over the limit.
    pub fn warn_above_alive_tasks(mut self, limit: u64) -> Self {
        self.config.warn_above_alive_tasks = limit;
        self
    }

    /// Sets whether the stacks of blocked threads are captured, with the feature `capture` on Linux
    /// (x86_64, aarch64). Defaults to [`DEFAULT_CAPTURE_STACKS`](Self::DEFAULT_CAPTURE_STACKS).
    ///
    /// The stack of a thread that waits in a system call is only read (on aarch64 it gets the
    /// signal as well). A thread that runs is sent SIGURG; the handler copies the stack, which
    /// takes about a microsecond, and passes on signals that are not from pollwatch. A system call
    /// that begins at that moment may return `EINTR`, or fewer bytes. The unwind tables of all
    /// loaded modules are kept in memory, symbols only while stalls are reported.
    pub fn capture_stacks(mut self, capture: bool) -> Self {
        self.config.capture_stacks = capture;
        self
    }

    /// Sets a callback for each step of a stall: when it is found, at 2, 4, 8 ... thresholds, and
    /// at its end. It gets all stalls, also those that the log suppresses.
    ///
    /// It runs on the thread `pollwatch-report`, for which only later reports wait. When more than
    /// 1,024 of them wait, further ones are lost (`pollwatch_reports_lost_total`); detection and
    /// metrics continue. A panic in it is caught and counted (`pollwatch_callback_panics_total`).
    /// It must not hold the [`Watchdog`] itself, which would then never be the last handle.
    pub fn on_stall(mut self, callback: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(callback));
        self
    }

    /// Sets how long all workers of a runtime may be blocked at once before `/healthz` answers 503.
    /// Defaults to [`DEFAULT_UNHEALTHY_AFTER`](Self::DEFAULT_UNHEALTHY_AFTER).
    pub fn unhealthy_after(mut self, limit: Duration) -> Self {
        self.config.unhealthy_after = limit;
        self
    }

    /// Serves `/metrics`, `/stalls`, `/healthz` and a live page at `/`, from a thread and a runtime
    /// of pollwatch's own, which answers while every worker of yours is blocked. By default there
    /// is no server.
    ///
    /// The live page (also `/live.html`) is one document that needs nothing else, and asks for
    /// `/live` once a second while it is open; `docs/live.schema.json` describes that
    /// answer. However many pages are open, it is made four times a second at most.
    ///
    /// The profile of blocked time since the start, by runtime, route or site, cause and stack
    /// (2,000 different ones at most, the rest without their stacks), in wall time for which a
    /// worker was blocked. The time of one that still lasts is added at each report of it; it is
    /// counted when it is over:
    ///
    /// - `/stalls/flamegraph`: an SVG picture for the browser;
    /// - `/stalls/folded`: a line a stack, `runtime;route or site;function;function 1234`, in
    ///   microseconds, for flame graph tools;
    /// - `/stalls/speedscope`: JSON in nanoseconds, to drop onto <https://www.speedscope.app>;
    /// - `/debug/pprof/stalls`: for `go tool pprof http://ADDRESS/debug/pprof/stalls`; values
    ///   `blocked` (nanoseconds, the default) and `stalls` (a count), labels `runtime`,
    ///   `site`, `route` and `cause`.
    ///
    /// Each stack sample is weighted by the time since the previous sample of the same stall. A
    /// stall that is not its task's fault is below `[starved]` or `[paused]`, not directly below
    /// its runtime; in pprof its label `cause` says so (`-tagignore=cause=starved`).
    ///
    /// The pages name places in your code and are not protected: listen on loopback, or on an
    /// address that only your scraper reaches. Port 0 lets the system choose; see
    /// [`Watchdog::local_addr`].
    #[cfg(feature = "server")]
    pub fn listen(mut self, addr: std::net::SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    /// Adds the metrics of a collector of your own to `/metrics` and to
    /// [`Watchdog::metrics_text`](Watchdog#method.metrics_text), 16 collectors at most. They are
    /// not in [`Watchdog::collector`](Watchdog#method.collector): where you have a registry of your
    /// own, register both there.
    ///
    /// It runs on the thread that makes the page, which waits for it: keep it short. One that
    /// panics, returns more than 10,000 metrics, a name of pollwatch's or of a collector that was
    /// added before, or what has no valid text, is left out of that page and counted
    /// (`pollwatch_collector_failures_total`).
    ///
    /// ```
    /// let orders = prometheus::IntCounter::new("orders_total", "Orders.").unwrap();
    /// let watchdog = pollwatch::Watchdog::builder().collector(orders.clone()).start()?;
    /// orders.inc();
    /// assert!(watchdog.metrics_text().contains("orders_total 1"));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn collector(mut self, collector: impl prometheus::core::Collector + 'static) -> Self {
        self.collectors.add(Box::new(collector));
        self
    }

    /// Starts the watchdog: two threads, one that scans for stalls and one that reports them, and
    /// one more for the server if there is one. The first start in a process takes some 10 ms (at
    /// most 200) to calibrate the clock.
    ///
    /// # Errors
    ///
    /// Fails when a setting is out of its range ([`Error::is_invalid`]), the address cannot be
    /// bound ([`Error::is_listen`]), or a thread cannot be started.
    pub fn start(self) -> Result<Watchdog, Error> {
        let WatchdogBuilder { config, on_stall, .. } = self;
        config.validate()?;
        #[cfg(feature = "prometheus")]
        if self.collectors.len() > UserCollectors::MAX {
            return Err(Error::invalid(format!(
                "at most {} collectors can be added, not {}; register more in a registry of your own, with \
                 Watchdog::collector",
                UserCollectors::MAX,
                self.collectors.len()
            )));
        }
        let state = Arc::new(WatchdogState::new(
            config,
            #[cfg(feature = "prometheus")]
            self.collectors,
        ));
        let threads = Threads::start(&state, on_stall)?;
        #[cfg(feature = "server")]
        if let Some(addr) = self.listen {
            threads.serve(addr)?;
        }
        if state.config.log {
            if let Some((which, why)) = state.stacks.lacking() {
                log::degraded(&format!("{which} are reported without stacks: {why}"));
            }
            if !state.meter.wake.is_exact() {
                log::degraded(
                    "this kernel has no membarrier system call: an idle watchdog wakes up ten times a second, and may find \
                     the first stall after an idle time up to 100 ms late",
                );
            }
        }
        Ok(Watchdog { state, threads: Arc::new(threads) })
    }
}
