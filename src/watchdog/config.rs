//! The settings of a watchdog.

use std::time::Duration;

use super::WatchdogBuilder;
use crate::error::Error;
use crate::measure::runtime::meter::Settings;

/// All settings of a watchdog, except the callback and the address of the server, which are used
/// once.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) threshold: Duration,
    pub(crate) max_sites: usize,
    pub(crate) max_routes: usize,
    pub(crate) route_histograms: bool,
    pub(crate) log: bool,
    pub(crate) capture_stacks: bool,
    pub(crate) warn_above_alive_tasks: u64,
    pub(crate) unhealthy_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            threshold: WatchdogBuilder::DEFAULT_THRESHOLD,
            max_sites: WatchdogBuilder::DEFAULT_MAX_SITES,
            max_routes: WatchdogBuilder::DEFAULT_MAX_ROUTES,
            route_histograms: WatchdogBuilder::DEFAULT_ROUTE_HISTOGRAMS,
            log: WatchdogBuilder::DEFAULT_LOG,
            capture_stacks: WatchdogBuilder::DEFAULT_CAPTURE_STACKS,
            warn_above_alive_tasks: WatchdogBuilder::DEFAULT_ALIVE_TASKS_LIMIT,
            unhealthy_after: WatchdogBuilder::DEFAULT_UNHEALTHY_AFTER,
        }
    }
}

impl Config {
    /// Checks that all settings are in their ranges.
    pub(super) fn validate(&self) -> Result<(), Error> {
        if !WatchdogBuilder::THRESHOLDS.contains(&self.threshold) {
            return Err(Error::invalid(format!(
                "the threshold must be from 100 µs to 1 hour, not {:?}; 10 ms suits a service",
                self.threshold
            )));
        }
        let check = |name: &str, value: usize, max: usize| match (1..=max).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} must be from 1 to {max}, not {value}"))),
        };
        check("max_sites", self.max_sites, WatchdogBuilder::MAX_SITES)?;
        check("max_routes", self.max_routes, WatchdogBuilder::MAX_ROUTES)?;
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
            #[cfg(feature = "tower")]
            route_histograms: self.route_histograms,
        }
    }
}
