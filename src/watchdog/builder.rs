//! The builder of a watchdog.

use std::sync::Arc;
use std::time::Duration;

use super::Watchdog;
use super::config::Config;
use super::state::WatchdogState;
use super::threads::Threads;
use crate::error::Error;
use crate::measure::route::Routes;
use crate::model::stall::Stall;
use crate::report::dispatch::OnStall;
use crate::report::log;

/// Sets up a [`Watchdog`].
#[must_use = "a builder does nothing until `start`"]
#[derive(Default)]
pub struct WatchdogBuilder {
    config: Config,
    on_stall: Option<OnStall>,
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
    /// 10 ms: a render of 20 ms on a worker must not pass unseen.
    pub const DEFAULT_THRESHOLD: Duration = Duration::from_millis(10);
    /// The thresholds that [`start`](Self::start) takes: 100 µs to 1 hour.
    pub const THRESHOLDS: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(3600);
    /// 1,000 places.
    pub const DEFAULT_MAX_SITES: usize = 1_000;
    /// The most that [`max_sites`](Self::max_sites) takes.
    pub const MAX_SITES: usize = 100_000;
    /// 500 routes.
    pub const DEFAULT_MAX_ROUTES: usize = 500;
    /// The most that [`max_routes`](Self::max_routes) takes.
    pub const MAX_ROUTES: usize = Routes::MAX;
    /// No histogram of each route.
    pub const DEFAULT_ROUTE_HISTOGRAMS: bool = false;
    /// Stalls are logged.
    pub const DEFAULT_LOG: bool = true;
    /// Stacks are captured.
    pub const DEFAULT_CAPTURE_STACKS: bool = true;
    /// 10,000 tasks.
    pub const DEFAULT_ALIVE_TASKS_LIMIT: u64 = 10_000;
    /// 5 seconds.
    pub const DEFAULT_UNHEALTHY_AFTER: Duration = Duration::from_secs(5);

    /// A poll that lasts this long is a stall. [`DEFAULT_THRESHOLD`](Self::DEFAULT_THRESHOLD)
    /// unless told.
    ///
    /// Costs nothing a poll; the busy watchdog wakes up to four times a threshold.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.config.threshold = threshold;
        self
    }

    /// How many places (spawn locations, `watch` calls) are told apart; the rest is `other`, and
    /// counted (`pollwatch_sites_overflowed_total`). [`DEFAULT_MAX_SITES`](Self::DEFAULT_MAX_SITES)
    /// unless told.
    ///
    /// Costs up to 128 bytes a place, runtime and thread, as they are met, and up to five series a
    /// place and runtime in `/metrics`.
    pub fn max_sites(mut self, max: usize) -> Self {
        self.config.max_sites = max;
        self
    }

    /// How many routes are told apart; the rest is `other`, and counted
    /// (`pollwatch_routes_overflowed_total`). [`DEFAULT_MAX_ROUTES`](Self::DEFAULT_MAX_ROUTES)
    /// unless told.
    ///
    /// Routes that no router has matched (a gRPC path, a name by `route_by`) come from the client.
    /// As long as the service has not answered one with anything but an error of the client's, it
    /// is only claimed, and claimed ones get half of the places at most: a flood of made-up paths
    /// leaves room for yours.
    ///
    /// Costs some 700 bytes a route and thread, as they are met, and six series and more a route in
    /// `/metrics`.
    pub fn max_routes(mut self, max: usize) -> Self {
        self.config.max_routes = max;
        self
    }

    /// Whether `pollwatch_route_poll_duration_seconds` is kept, a histogram of 8 buckets a route.
    /// It is not, unless told.
    ///
    /// These are durations of polls (how long a request kept its worker from all else), not the
    /// latency of requests, which is a matter for a metrics layer.
    pub fn route_histograms(mut self, keep: bool) -> Self {
        self.config.route_histograms = keep;
        self
    }

    /// Whether only one poll in 16, at random gaps, is timed, for services whose polls are so many
    /// and so short that reading a clock twice in each is too much. All are, unless told.
    ///
    /// Every poll is still published and counted, and stalls are found while they last, by the
    /// looks of the watchdog, which is awake four times a threshold while anything is polled. What
    /// gets weaker:
    ///
    /// - A stall counts from when the watchdog first saw its poll: [`Stall::elapsed`] may be short
    ///   by up to a quarter of the threshold, and says so ([`Stall::elapsed_is_lower_bound`]). One
    ///   of 1.5 thresholds is found for certain as long as the watchdog is given a CPU and examines
    ///   no other just then, which takes up to 7 ms; a shorter one as it happens. There are no
    ///   false ones.
    /// - `pollwatch_poll_busy_seconds_total`, `pollwatch_poll_duration_seconds` and those of sites
    ///   and routes are estimates: a timed poll stands for 16. One that lasts for the threshold or
    ///   longer stands for itself. After 10,000 polls of much the same length they are right to
    ///   some 3 %.
    /// - The maxima are those of the timed polls and of the stalls.
    ///
    /// Numbers of polls, tasks and requests are exact.
    /// [`Coverage::sampled_timing`](crate::Coverage::sampled_timing) and
    /// `pollwatch_coverage{source="sampled_timing"}` show that it is on.
    pub fn sampled_timing(mut self, sampled: bool) -> Self {
        self.config.sampled_timing = sampled;
        self
    }

    /// Whether stalls are logged as `tracing` events (target `pollwatch::stall`, level WARN), and
    /// with them the panics and the growth of tasks (target `pollwatch::tasks`, level WARN;
    /// `docs/tasks.md`). They are, unless told.
    ///
    /// Of one place, 5 stalls are logged without waiting, then one in 10 s; the next line tells how
    /// many were not. So it is with its panics.
    pub fn log(mut self, log: bool) -> Self {
        self.config.log = log;
        self
    }

    /// A place (spawn location) that has more tasks alive than this is logged, once, and again at
    /// each doubling; it is logged anew when it has fallen below half of the limit meanwhile.
    /// [`DEFAULT_ALIVE_TASKS_LIMIT`](Self::DEFAULT_ALIVE_TASKS_LIMIT) unless told; `u64::MAX`
    /// switches it off. Nothing is ever refused: this only tells.
    ///
    /// Looked at about once a second while anything is polled. That reads one number a runtime; the
    /// places are gone through only while a runtime has more tasks than this in all, or one of them
    /// is over it. The watchdog thread does it, not a worker.
    pub fn warn_above_alive_tasks(mut self, limit: u64) -> Self {
        self.config.warn_above_alive_tasks = limit;
        self
    }

    /// Whether the stacks of blocked threads are taken, with the feature `capture` on Linux
    /// (x86_64, aarch64). They are, unless told.
    ///
    /// A thread that waits in a system call is only read (on aarch64 it gets the signal, too); one
    /// that runs is sent SIGURG, whose handler copies its stack (about a microsecond) and passes on
    /// what is not for it. A system call that begins just then may return `EINTR`, or fewer bytes.
    /// The unwind tables of what is loaded are kept in memory, symbols only while stalls are told.
    pub fn capture_stacks(mut self, capture: bool) -> Self {
        self.config.capture_stacks = capture;
        self
    }

    /// Called at each step of a stall: when it is found, at 2, 4, 8 ... thresholds, and at its end.
    /// All stalls, also those that the log leaves out.
    ///
    /// Runs on a thread of pollwatch's own that nothing else waits for but later reports: when they
    /// wait for more than 1,024, the further ones are lost (`pollwatch_reports_lost_total`);
    /// detection and metrics go on. A panic in it is caught and counted
    /// (`pollwatch_callback_panics_total`). It must not hold the [`Watchdog`] itself, which would
    /// then never be the last handle.
    pub fn on_stall(mut self, callback: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(callback));
        self
    }

    /// How long all workers of a runtime may be blocked at once before `/healthz` answers 503.
    /// [`DEFAULT_UNHEALTHY_AFTER`](Self::DEFAULT_UNHEALTHY_AFTER) unless told.
    pub fn unhealthy_after(mut self, limit: Duration) -> Self {
        self.config.unhealthy_after = limit;
        self
    }

    /// Serves `/metrics`, `/stalls`, `/healthz` and a live page at `/`, from a thread and a runtime
    /// of pollwatch's own: it answers while every worker of yours is blocked. No server unless
    /// told.
    ///
    /// The live page (also `/live.html`) is one document that needs nothing else, and asks for
    /// `/live` once a second while somebody looks at it; `docs/live.schema.json` describes that
    /// answer. However many pages are open, it is made four times a second at most.
    ///
    /// What stalls add up to since the start, by runtime, route or site, cause and stack (2,000
    /// different ones at most, the rest without their stacks), in wall time for which a worker was
    /// blocked. The time of one that still lasts is added at each report of it; it is counted when
    /// it is over:
    ///
    /// - `/stalls/flamegraph`: an SVG picture for the browser;
    /// - `/stalls/folded`: a line a stack, `runtime;route or site;function;function 1234`, in
    ///   microseconds, for flame graph tools;
    /// - `/stalls/speedscope`: JSON in nanoseconds, to drop onto <https://www.speedscope.app>;
    /// - `/debug/pprof/stalls`: for `go tool pprof http://ADDRESS/debug/pprof/stalls`; values
    ///   `blocked` (nanoseconds, shown unless told) and `stalls` (a count), labels `runtime`,
    ///   `site`, `route` and `cause`.
    ///
    /// Each look at a stall stands for the time since the look before. A stall that is not its
    /// task's fault stands below `[starved]` or `[paused]`, not directly below its runtime; in
    /// pprof its label `cause` says so (`-tagignore=cause=starved`).
    ///
    /// The pages name places in your code and are not protected: listen on loopback, or on an
    /// address that only your scraper reaches. Port 0 lets the system choose; see
    /// [`Watchdog::local_addr`].
    #[cfg(feature = "server")]
    pub fn listen(mut self, addr: std::net::SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    /// Starts the watchdog: two threads, of which one looks and one tells, and one more for the
    /// server if there is one. The first in a process takes some 10 ms (at most 200) to calibrate
    /// the clock.
    ///
    /// # Errors
    ///
    /// A setting out of its range ([`Error::is_invalid`]), an address that cannot be bound
    /// ([`Error::is_listen`]), or a thread that cannot be started.
    pub fn start(self) -> Result<Watchdog, Error> {
        let WatchdogBuilder { config, on_stall, .. } = self;
        config.validate()?;
        let state = Arc::new(WatchdogState::new(config));
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
