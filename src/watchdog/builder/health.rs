//! The settings of health: when a runtime is unhealthy, and what happens then.

use std::time::Duration;

use super::WatchdogBuilder;
use crate::report::incidents::action::{Action, IncidentRule};

impl WatchdogBuilder {
    /// The default of [`unhealthy_after`](Self::unhealthy_after): 5 seconds.
    pub const DEFAULT_UNHEALTHY_AFTER: Duration = Duration::from_secs(5);
    /// The default of [`blocked_share`](Self::blocked_share): all workers.
    pub const DEFAULT_BLOCKED_SHARE: f64 = 1.0;

    /// Sets the time after which `/healthz` answers 503 because of a condition of a runtime that
    /// has lasted without a break: all workers are blocked, for example
    /// ([`IncidentKind`](crate::IncidentKind) lists them). It is at least 10 ms, and
    /// `Duration::MAX` means never. Defaults to
    /// [`DEFAULT_UNHEALTHY_AFTER`](Self::DEFAULT_UNHEALTHY_AFTER).
    ///
    /// Such a condition is an incident, which is logged (target `pollwatch::incident`, level ERROR)
    /// and counted (`pollwatch_incidents_total`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = pollwatch::Watchdog::builder().unhealthy_after(Duration::from_secs(30));
    /// # builder.start().unwrap();
    /// ```
    pub fn unhealthy_after(mut self, limit: Duration) -> Self {
        self.config.unhealthy_after = limit;
        self
    }

    /// Sets the share of a runtime's workers, above 0 and at most 1, that have to be blocked at the
    /// same time for an incident of the kind
    /// [`WorkersBlocked`](crate::IncidentKind::WorkersBlocked). Defaults to
    /// [`DEFAULT_BLOCKED_SHARE`](Self::DEFAULT_BLOCKED_SHARE).
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().blocked_share(0.5); // half of them
    /// # builder.start().unwrap();
    /// ```
    pub fn blocked_share(mut self, share: f64) -> Self {
        self.config.blocked_share = share;
        self
    }

    /// Sets what to do when an incident has lasted for `after`, which is 10 ms to 24 hours. May be
    /// called up to 32 times; each action happens once in each incident. `docs/health.md` says
    /// which ones fit a service.
    ///
    /// An incident starts when a condition ([`IncidentKind`](crate::IncidentKind)) has lasted for
    /// [`unhealthy_after`](Self::unhealthy_after) or the shortest `after`. It counts from when the
    /// condition is found: a hung runtime holds for 1 s by then, a full pool for
    /// [`blocking_pool_full_after`](Self::blocking_pool_full_after). Time in which the whole
    /// process was stopped does not count. An action may happen a quarter of its `after` late (at
    /// most 1 s), and never early.
    ///
    /// The actions of one moment happen in this order:
    ///
    /// 1. The threads are taken and written to files ([`Action::write_threads`]). The others wait
    ///    for that at most 5 s.
    /// 2. They are printed and logged ([`Action::print_threads`], [`Action::log_threads`]), and the
    ///    callbacks are called ([`Action::call`]).
    /// 3. The process ends ([`Action::abort`], [`Action::exit`]), if the incident still lasts. It
    ///    waits at most 5 s for what is printed, logged and called.
    ///
    /// None of this needs the runtime, the log or the watchdog thread, which continues to find
    /// stalls. An action that hangs, panics or fails is counted
    /// (`pollwatch_incident_actions_total`), and delays only what the list above says.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use pollwatch::{Action, Watchdog};
    ///
    /// let builder = Watchdog::builder()
    ///     .on_incident(Duration::from_secs(5), Action::log_threads())
    ///     .on_incident(Duration::from_secs(5), Action::call(|incident| eprintln!("{incident}")))
    ///     .on_incident(Duration::from_secs(60), Action::exit(70));
    /// # builder.start().unwrap();
    /// ```
    pub fn on_incident(mut self, after: Duration, action: Action) -> Self {
        self.rules.push(IncidentRule::new(after, action));
        self
    }

    /// Notifies systemd's watchdog that the service is healthy (`WATCHDOG=1`), as long as
    /// `/healthz` would answer 200. Otherwise systemd ends the service after its `WatchdogSec=`,
    /// and restarts it where `Restart=` says so. `docs/health.md` has a unit file.
    ///
    /// It needs `WatchdogSec=` and `NotifyAccess=main` in the service. Where `NOTIFY_SOCKET` or
    /// `WATCHDOG_USEC` is not set, or `WATCHDOG_PID` is another process, a line is logged and
    /// nothing is sent. `READY=1` stays yours.
    ///
    /// The thread `pollwatch-sd` and the watchdog thread wake up at half of `WatchdogSec=`, also
    /// while the program is idle. Keep the [`Watchdog`](crate::Watchdog) as long as the service
    /// runs: nothing is sent after its [`shutdown`](crate::Watchdog::shutdown).
    ///
    /// ```
    /// let builder = pollwatch::Watchdog::builder().systemd_watchdog();
    /// # builder.start().unwrap();
    /// ```
    pub fn systemd_watchdog(mut self) -> Self {
        self.config.systemd_watchdog = true;
        self
    }
}
