//! The settings of what is tracked on request only, because it costs something at each poll.

use super::WatchdogBuilder;
use crate::measure::entry::{delays, hooks};
use crate::report::log;
use crate::watchdog::config::Config;

impl WatchdogBuilder {
    /// Sets whether `pollwatch_route_poll_duration_seconds` is recorded, a histogram of 8 buckets
    /// for each route. Defaults to
    /// [`DEFAULT_ROUTE_HISTOGRAMS`](Self::DEFAULT_ROUTE_HISTOGRAMS).
    ///
    /// The histogram shows the durations of polls: how long a request occupied its worker at a
    /// time. It does not show the latency of requests, which other metrics layers measure.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().route_histograms(true);
    /// # builder.start().unwrap();
    /// ```
    pub fn route_histograms(mut self, record: bool) -> Self {
        self.config.route_histograms = record;
        self
    }

    /// Sets whether delays are tracked: how long each poll waited since the wake of its task.
    /// Defaults to `false`. It needs the feature `delays` and `tokio_unstable`; where one of them
    /// is missing, the log says so once, and [`Coverage::delays`](crate::Coverage::delays) is
    /// `false`.
    ///
    /// The snapshot has a histogram of the delays by runtime, and their sum by site and route. Each
    /// stall names the tasks that [waited behind it](crate::Victims). `docs/delays.md` states what
    /// is known and what is not.
    ///
    /// tokio reads its clock twice for each poll more, and pollwatch counts each delay:
    /// `docs/overhead.md` states the cost. Without this setting a poll costs nothing more. Each
    /// measured thread takes 16 KiB more, and 4 KiB for each runtime that it polls.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().track_delays(true);
    /// # builder.start().unwrap();
    /// ```
    pub fn track_delays(mut self, track: bool) -> Self {
        self.config.track_delays = track;
        self
    }

    /// Sets whether it is tracked when each task was polled last. Defaults to `false`. It needs
    /// `tokio_unstable`; without it the log says so once.
    ///
    /// For each site, [`SiteSnapshot::unpolled`](crate::snapshot::SiteSnapshot::unpolled) then has
    /// the longest time for which one of its alive tasks has waited for a poll. Tasks that wait for
    /// clients do so for long. For tasks that should do something now and then it is a hint that a
    /// waker was lost, or that tasks wait for each other.
    ///
    /// Each poll stores a word in a table that all threads share: `docs/overhead.md` states the
    /// cost. Without this setting a poll costs nothing more. The table takes up to 2 MiB. Beyond
    /// about 100,000 tasks at a time, further ones are not tracked.
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().track_unpolled(true);
    /// # builder.start().unwrap();
    /// ```
    pub fn track_unpolled(mut self, track: bool) -> Self {
        self.config.track_unpolled = track;
        self
    }
}

/// Logs what was asked for and cannot be tracked in this build.
pub(super) fn log_missing(config: &Config) {
    if config.track_delays && !delays::AVAILABLE {
        log::degraded(
            "delays of polls are not tracked: track_delays needs the feature `delays` of pollwatch, and \
             RUSTFLAGS=\"--cfg tokio_unstable\"",
        );
    }
    if config.track_unpolled && !hooks::INSTALLED {
        log::degraded("track_unpolled has no effect: it needs RUSTFLAGS=\"--cfg tokio_unstable\"");
    }
}
