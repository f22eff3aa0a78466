//! The settings of a watchdog.

use std::time::Duration;

use super::{WatchdogBuilder, blocking_pool};
use crate::error::Error;
use crate::measure::entry::delays;
use crate::measure::runtime::meter::Settings;
use crate::model::log_format::LogFormat;
use crate::util::threshold_text;

/// The shortest [`unhealthy_after`](WatchdogBuilder::unhealthy_after), as for actions.
const MIN_UNHEALTHY_AFTER: Duration = Duration::from_millis(10);

/// All settings of a watchdog, except the callback and the address of the server, which are used
/// once.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) threshold: Duration,
    pub(crate) max_sites: usize,
    pub(crate) max_routes: usize,
    pub(crate) route_histograms: bool,
    pub(crate) track_delays: bool,
    pub(crate) track_unpolled: bool,
    pub(crate) log: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) capture_stacks: bool,
    pub(crate) symbols: bool,
    pub(crate) warn_above_alive_tasks: u64,
    pub(crate) unhealthy_after: Duration,
    pub(crate) blocked_share: f64,
    pub(crate) systemd_watchdog: bool,
    pub(crate) rescue_driver: bool,
    pub(crate) blocking_pool_full_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            threshold: WatchdogBuilder::DEFAULT_THRESHOLD,
            max_sites: WatchdogBuilder::DEFAULT_MAX_SITES,
            max_routes: WatchdogBuilder::DEFAULT_MAX_ROUTES,
            route_histograms: WatchdogBuilder::DEFAULT_ROUTE_HISTOGRAMS,
            track_delays: false,
            track_unpolled: false,
            log: WatchdogBuilder::DEFAULT_LOG,
            log_format: LogFormat::default(),
            capture_stacks: WatchdogBuilder::DEFAULT_CAPTURE_STACKS,
            symbols: true,
            warn_above_alive_tasks: WatchdogBuilder::DEFAULT_ALIVE_TASKS_LIMIT,
            unhealthy_after: WatchdogBuilder::DEFAULT_UNHEALTHY_AFTER,
            blocked_share: WatchdogBuilder::DEFAULT_BLOCKED_SHARE,
            systemd_watchdog: false,
            rescue_driver: true,
            blocking_pool_full_after: WatchdogBuilder::DEFAULT_BLOCKING_POOL_FULL_AFTER,
        }
    }
}

impl Config {
    /// Checks that all settings are in their ranges.
    pub(super) fn validate(&self) -> Result<(), Error> {
        if !WatchdogBuilder::THRESHOLDS.contains(&self.threshold) {
            return Err(Error::invalid(threshold_text::out_of_range(self.threshold, &WatchdogBuilder::THRESHOLDS)));
        }
        let check = |name: &str, value: usize, max: usize| match (1..=max).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} must be from 1 to {max}, not {value}"))),
        };
        check("max_sites", self.max_sites, WatchdogBuilder::MAX_SITES)?;
        check("max_routes", self.max_routes, WatchdogBuilder::MAX_ROUTES)?;
        if !(self.blocked_share > 0.0 && self.blocked_share <= 1.0) {
            return Err(Error::invalid(format!(
                "blocked_share must be above 0 and at most 1, not {}; 1 means all workers, 0.5 half of them",
                self.blocked_share
            )));
        }
        if self.unhealthy_after < MIN_UNHEALTHY_AFTER {
            return Err(Error::invalid(format!(
                "unhealthy_after must be at least 10 ms, not {:?}; 5 s suits a service",
                self.unhealthy_after
            )));
        }
        blocking_pool::validate(self.blocking_pool_full_after)?;
        if self.warn_above_alive_tasks == 0 {
            return Err(Error::invalid("warn_above_alive_tasks must be at least 1; u64::MAX switches it off"));
        }
        Ok(())
    }

    /// Returns the settings of the measuring layer. The config has to be valid.
    pub(super) fn measuring(&self) -> Settings {
        Settings {
            threshold: self.threshold.into(),
            max_sites: self.max_sites,
            max_routes: self.max_routes,
            track_delays: self.track_delays && delays::AVAILABLE,
            #[cfg(tokio_unstable)]
            track_unpolled: self.track_unpolled,
            #[cfg(feature = "tower")]
            route_histograms: self.route_histograms,
        }
    }
}
