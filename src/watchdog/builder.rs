//! The builder of a watchdog.

mod health;
mod tracking;

use std::sync::Arc;
use std::time::Duration;

use super::Watchdog;
use super::config::Config;
use super::current;
use super::state::WatchdogState;
use super::threads::Threads;
use crate::error::Error;
#[cfg(feature = "server")]
use crate::export::listen_address::ListenAddress;
#[cfg(feature = "prometheus")]
use crate::export::user_collectors::UserCollectors;
use crate::measure::primitives::route::Routes;
use crate::model::log_format::LogFormat;
use crate::model::stall::Stall;
use crate::report::dispatch::{OnStall, combine};
use crate::report::incidents::action::{self, IncidentRule};
use crate::report::log;

/// The settings of a [`Watchdog`], which [`start`](Self::start) starts.
///
/// ```
/// use std::time::Duration;
///
/// let watchdog = pollwatch::Watchdog::builder()
///     .threshold(Duration::from_millis(20))
///     .on_stall(|stall| eprintln!("{stall}"))
///     .start()?;
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[must_use = "no watchdog runs until `start` is called"]
#[derive(Default)]
pub struct WatchdogBuilder {
    pub(super) config: Config,
    on_stall: Vec<OnStall>,
    rules: Vec<IncidentRule>,
    #[cfg(feature = "prometheus")]
    collectors: UserCollectors,
    #[cfg(feature = "server")]
    listen: Option<ListenAddress>,
}

impl std::fmt::Debug for WatchdogBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("WatchdogBuilder");
        debug.field("config", &self.config).field("on_stall", &self.on_stall.len());
        #[cfg(feature = "server")]
        debug.field("listen", &self.listen);
        debug.finish()
    }
}

impl WatchdogBuilder {
    /// The default threshold: 10 ms.
    pub const DEFAULT_THRESHOLD: Duration = Duration::from_millis(10);
    /// The thresholds that [`start`](Self::start) accepts: 100 µs to 1 hour.
    pub const THRESHOLDS: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(3600);
    /// The default of [`max_sites`](Self::max_sites): 1,000.
    pub const DEFAULT_MAX_SITES: usize = 1_000;
    /// The largest value that [`max_sites`](Self::max_sites) accepts.
    pub const MAX_SITES: usize = 100_000;
    /// The default of [`max_routes`](Self::max_routes): 500.
    pub const DEFAULT_MAX_ROUTES: usize = 500;
    /// The largest value that [`max_routes`](Self::max_routes) accepts.
    pub const MAX_ROUTES: usize = Routes::MAX;
    /// The default of [`route_histograms`](Self::route_histograms): no histograms of routes.
    pub const DEFAULT_ROUTE_HISTOGRAMS: bool = false;
    /// The default of [`log`](Self::log): stalls are logged.
    pub const DEFAULT_LOG: bool = true;
    /// The default of [`capture_stacks`](Self::capture_stacks): stacks are captured.
    pub const DEFAULT_CAPTURE_STACKS: bool = true;
    /// The default of [`warn_above_alive_tasks`](Self::warn_above_alive_tasks): 10,000 tasks.
    pub const DEFAULT_ALIVE_TASKS_LIMIT: u64 = 10_000;

    /// Sets the threshold: a poll that takes at least this long is a stall. Defaults to
    /// [`DEFAULT_THRESHOLD`](Self::DEFAULT_THRESHOLD). [`start`](Self::start) accepts those in
    /// [`THRESHOLDS`](Self::THRESHOLDS).
    ///
    /// The threshold does not change the cost of a poll. While anything is polled, the watchdog
    /// thread wakes up at most four times in each threshold.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = pollwatch::Watchdog::builder().threshold(Duration::from_millis(50));
    /// # builder.start().unwrap();
    /// ```
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.config.threshold = threshold;
        self
    }

    /// Sets the number of sites (spawn locations, `watch` calls) that are distinguished. All other
    /// sites are reported as the site `other`, and counted (`pollwatch_sites_overflowed_total`).
    /// Defaults to [`DEFAULT_MAX_SITES`](Self::DEFAULT_MAX_SITES). [`start`](Self::start) accepts 1
    /// to [`MAX_SITES`](Self::MAX_SITES).
    ///
    /// Each site takes up to 128 bytes for each runtime and thread where it occurs. In `/metrics` a
    /// runtime has up to eight series of it, and three more if `watch` or `spawn` wraps its tasks.
    /// Delays and unpolled tasks, where they are tracked, add up to three.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().max_sites(5_000);
    /// # builder.start().unwrap();
    /// ```
    pub fn max_sites(mut self, max: usize) -> Self {
        self.config.max_sites = max;
        self
    }

    /// Sets the number of routes that are distinguished. All other routes are reported as the route
    /// `other`, and counted (`pollwatch_routes_overflowed_total`). Defaults to
    /// [`DEFAULT_MAX_ROUTES`](Self::DEFAULT_MAX_ROUTES). [`start`](Self::start) accepts 1 to
    /// [`MAX_ROUTES`](Self::MAX_ROUTES).
    ///
    /// A route that no router has matched (a gRPC path, a name by `route_by`) may be chosen by the
    /// client. It is only claimed until the service answers it with anything but a client error.
    /// Claimed routes get at most half of the table, so that a flood of invented paths leaves room
    /// for yours.
    ///
    /// Each route takes some 700 bytes for each thread where it occurs, and six or more series in
    /// `/metrics`.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().max_routes(2_000);
    /// # builder.start().unwrap();
    /// ```
    pub fn max_routes(mut self, max: usize) -> Self {
        self.config.max_routes = max;
        self
    }

    /// Sets whether pollwatch logs, as `tracing` events. Defaults to
    /// [`DEFAULT_LOG`](Self::DEFAULT_LOG).
    ///
    /// | target | level | events |
    /// |---|---|---|
    /// | `pollwatch::stall` | WARN | stalls |
    /// | `pollwatch::late` | WARN | runtimes that are late although no stall explains it |
    /// | `pollwatch::runtime` | WARN | nobody attends a driver, or a blocking pool is full; the end of each condition |
    /// | `pollwatch::runtime` | ERROR | a runtime hangs |
    /// | `pollwatch::deadlock` | ERROR | threads that wait for each other, it seems |
    /// | `pollwatch::incident` | ERROR, at its end WARN | incidents and what their actions log |
    /// | `pollwatch::tasks` | WARN | panics and the growth of tasks (`docs/tasks.md`) |
    /// | `pollwatch::watchdog` | WARN | pauses of the process, and what pollwatch cannot do here |
    /// | `pollwatch::watchdog` | INFO | each runtime that is watched from then on |
    ///
    /// The log is rate-limited: of the stalls that have the same runtime, site, route, certainty,
    /// cause and location, 5 are logged at once, then one each 10 s. The next line has the number
    /// of those that were suppressed. The same limit holds for the panics of a site in a runtime,
    /// and for pauses of the process.
    ///
    /// The thread `pollwatch-log` writes the lines. If your subscriber blocks, such as on a pipe
    /// that nobody reads, only the log waits. A stall that is reported again meanwhile gets one
    /// line, with its latest state. When 1,024 reports wait, further ones are lost
    /// (`pollwatch_reports_lost_total`).
    ///
    /// If nothing takes the line of a stall, because there is no subscriber or its filter excludes
    /// the target, one line on the standard error says so, once.
    ///
    /// Without the log, nothing is logged about the watchdog itself either: that it has stopped,
    /// that a function is missing, or that the callback of [`on_stall`](Self::on_stall) is slow.
    /// [`Watchdog::coverage`] returns most of that.
    ///
    /// ```
    /// // Reports only through the callback and the metrics.
    /// let builder = pollwatch::Watchdog::builder().log(false);
    /// let builder = builder.on_stall(|stall| println!("{stall}"));
    /// # builder.start().unwrap();
    /// ```
    pub fn log(mut self, log: bool) -> Self {
        self.config.log = log;
        self
    }

    /// Sets the format of log messages: a text of some lines, or one short line beside the fields.
    /// Defaults to [`LogFormat::Text`].
    ///
    /// ```
    /// use pollwatch::{LogFormat, Watchdog};
    ///
    /// let builder = Watchdog::builder().log_format(LogFormat::Fields); // for a log in JSON
    /// # builder.start().unwrap();
    /// ```
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.config.log_format = format;
        self
    }

    /// Sets the number of alive tasks above which a site (spawn location) is logged. It is logged
    /// once, again at each doubling, and again after it has fallen below half of the limit.
    /// Defaults to [`DEFAULT_ALIVE_TASKS_LIMIT`](Self::DEFAULT_ALIVE_TASKS_LIMIT). `u64::MAX`
    /// switches the check off; [`start`](Self::start) does not accept 0. No task is ever refused.
    ///
    /// While anything is polled, the watchdog thread checks about once a second, which reads one
    /// number for each runtime. It counts the tasks of all sites only while a runtime has more
    /// tasks than the limit, or one of its sites is above it.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().warn_above_alive_tasks(100_000);
    /// # builder.start().unwrap();
    /// ```
    pub fn warn_above_alive_tasks(mut self, limit: u64) -> Self {
        self.config.warn_above_alive_tasks = limit;
        self
    }

    /// Sets whether the stacks of blocked threads are captured, with the feature `capture` on Linux
    /// (x86_64, aarch64). Defaults to [`DEFAULT_CAPTURE_STACKS`](Self::DEFAULT_CAPTURE_STACKS).
    ///
    /// A thread that waits in a system call is only read, from outside (on aarch64 it gets the
    /// signal as well). A thread that runs is sent SIGURG. The signal handler copies the stack,
    /// which takes about a microsecond, and passes on signals that pollwatch did not send. A system
    /// call that begins at that moment may return `EINTR`, or fewer bytes.
    ///
    /// The unwind tables of all loaded modules are kept in memory, symbols only while stalls are
    /// reported.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().capture_stacks(false);
    /// # builder.start().unwrap();
    /// ```
    pub fn capture_stacks(mut self, capture: bool) -> Self {
        self.config.capture_stacks = capture;
        self
    }

    /// Sets whether stacks have functions and lines (the default). `docs/symbols.md` states memory
    /// and time for them. With `false` no debug information is ever read: stacks have offsets, to
    /// which `pollwatch symbolize` adds names, and reasons that follow from names are missing.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().symbols(false);
    /// # builder.start().unwrap();
    /// ```
    pub fn symbols(mut self, symbols: bool) -> Self {
        self.config.symbols = symbols;
        self
    }

    /// Adds a callback for each report of a stall: when it is found, at 2, 4, 8 ... thresholds, and
    /// at its end. The callback gets all stalls, including those that the log suppresses. Several
    /// are called in the order in which they were added.
    ///
    /// The callback runs on the thread `pollwatch-call`. If it is slow, only later calls wait. A
    /// stall that is reported again meanwhile is passed once, with its latest state. When 1,024
    /// reports wait, further ones are lost (`pollwatch_reports_lost_total`), while detection, log
    /// and metrics continue. A panic in it is caught and counted
    /// (`pollwatch_callback_panics_total`).
    ///
    /// Do not move a [`Watchdog`] into the callback: it would keep the watchdog running after your
    /// last handle was dropped.
    ///
    /// ```
    /// let (sender, stalls) = std::sync::mpsc::channel();
    /// let builder = pollwatch::Watchdog::builder().on_stall(move |stall| {
    ///     let _ = sender.send(stall.clone());
    /// });
    /// # builder.start().unwrap();
    /// # drop(stalls);
    /// ```
    pub fn on_stall(mut self, callback: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall.push(Box::new(callback));
        self
    }

    /// Serves `/metrics`, `/stalls`, `/threads`, `/healthz` and a live page at `/`. The server has
    /// a thread and a runtime of its own, and answers while every worker of yours is blocked.
    /// Without this call there is no server.
    ///
    /// The pages name functions and lines of your code, and are not protected: listen on loopback,
    /// or on an address that only your scraper reaches. Port 0 lets the system choose a port, which
    /// [`Watchdog::local_addr`] returns.
    ///
    /// The address is a text such as `127.0.0.1:9464`, a [`SocketAddr`](std::net::SocketAddr), or
    /// anything else that names one. This call looks up the name of a host, which may block. Only
    /// the first address that can be bound is used: `localhost` is `127.0.0.1` or `[::1]`, not
    /// both. An invalid or used address is an error of [`start`](Self::start).
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().listen("127.0.0.1:0").start()?;
    /// println!("http://{}/", watchdog.local_addr().unwrap());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    ///
    /// # The live page
    ///
    /// The live page is one document. While it is visible it requests `/live` once a second
    /// (`docs/live.schema.json`), which is computed at most four times a second for all pages.
    ///
    /// # Profiles
    ///
    /// The profile is the blocked time since the start by runtime, route or site, cause and stack.
    /// At most 2,000 entries have stacks. Blocked time is wall time in which a worker was blocked.
    /// The time of an ongoing stall is added at each of its reports; the stall is counted at its
    /// end. Each stack sample is weighted by the time since the previous sample of the same stall.
    ///
    /// - `/stalls/flamegraph`: an SVG picture for the browser;
    /// - `/stalls/folded`: one line for each stack, `runtime;route or site;function;function 1234`,
    ///   in microseconds, for flame graph tools;
    /// - `/stalls/speedscope`: JSON in nanoseconds, to drop onto <https://www.speedscope.app>;
    /// - `/debug/pprof/stalls`: for `go tool pprof http://ADDRESS/debug/pprof/stalls`; values
    ///   `blocked` (nanoseconds, the default) and `stalls` (a count), labels `runtime`, `site`,
    ///   `route` and `cause`.
    ///
    /// Stalls that the task did not cause are grouped below `[starved]` or `[paused]`, within their
    /// runtime. In pprof they have that label `cause` (`-tagignore=cause=starved`).
    #[cfg(feature = "server")]
    pub fn listen(mut self, address: impl std::net::ToSocketAddrs + std::fmt::Debug) -> Self {
        self.listen = Some(ListenAddress::new(address));
        self
    }

    /// Adds the metrics of a collector of your own to `/metrics` and to
    /// [`Watchdog::metrics_text`](Watchdog#method.metrics_text). [`start`](Self::start) accepts at
    /// most 16 collectors.
    ///
    /// The metrics are not in [`Watchdog::collector`](Watchdog#method.collector). If you have a
    /// registry of your own, register both collectors there.
    ///
    /// The collector runs on the thread that makes the page, which waits for it: keep it short. It
    /// is left out of that page and counted (`pollwatch_collector_failures_total`) if it panics,
    /// returns more than 10,000 metrics, uses a name that pollwatch or an earlier collector has, or
    /// returns metrics that cannot be encoded as text.
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

    /// Starts the watchdog. It has some threads, whose names start with `pollwatch`: one scans for
    /// stalls, one symbolizes, one logs, and one decides about incidents. The server of
    /// [`listen`](Self#method.listen), callbacks and actions have others.
    ///
    /// The first start in a process calibrates the clock, which takes some 10 ms (at most 200 ms).
    ///
    /// # Errors
    ///
    /// Fails when a setting is out of its range, the address cannot be bound, or a thread cannot be
    /// started. [`ErrorKind`](crate::ErrorKind) lists the kinds.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// assert!(watchdog.coverage().watching);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn start(self) -> Result<Watchdog, Error> {
        let WatchdogBuilder { config, on_stall, rules, .. } = self;
        config.validate()?;
        action::check(&rules, config.log).map_err(Error::invalid)?;
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
            rules,
            #[cfg(feature = "prometheus")]
            self.collectors,
        ));
        let threads = Threads::start(&state, combine(on_stall))?;
        #[cfg(feature = "server")]
        if let Some(address) = &self.listen {
            threads.serve(address)?;
        }
        if state.config.log {
            if let Some((which, why)) = state.stacks.lacking() {
                log::degraded(&format!("{which} are reported without stacks: {why}"));
            }
            tracking::log_missing(&state.config);
            if !state.meter.wake.is_exact() {
                log::degraded(
                    "this kernel has no membarrier system call: an idle watchdog wakes up ten times a second, and may find \
                     the first stall after an idle time up to 100 ms late",
                );
            }
        }
        let threads = Arc::new(threads);
        current::register(&state.meter, &threads);
        Ok(Watchdog { state, threads })
    }
}
