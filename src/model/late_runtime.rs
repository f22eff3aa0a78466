//! A runtime that polls its tasks late although no stall blocks its workers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "serde")]
use super::serialize::{as_seconds, as_unix_seconds};
use super::site::Site;
use super::time::Millis;

/// The number of sites, and of routes, that `Display` names.
const SHOWN_USERS: usize = 3;
/// The least share of a site or a route that `Display` names.
const LEAST_SHARE: f64 = 0.005;

/// The reason why a runtime is late, as far as it is known.
///
/// ```
/// use pollwatch::LateReason;
///
/// assert_eq!(LateReason::BusyWorkers.to_string(), "busy_workers");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LateReason {
    /// The workers were busy for at least 80 % of the time: there is more work than they can do.
    BusyWorkers,
    /// The threads of the workers waited for a CPU for at least half of the time: the machine, or
    /// the limit of the container, has too few CPUs.
    NoCpu,
    /// The workers were neither busy nor waiting for a CPU for that long.
    Unknown,
}

impl LateReason {
    /// All reasons, in the order of their declaration.
    ///
    /// ```
    /// let labels: Vec<_> = pollwatch::LateReason::ALL.iter().map(|one| one.as_str()).collect();
    /// assert_eq!(labels, ["busy_workers", "no_cpu", "unknown"]);
    /// ```
    pub const ALL: &[LateReason] = &[LateReason::BusyWorkers, LateReason::NoCpu, LateReason::Unknown];

    /// Returns the value of the label `reason`.
    ///
    /// ```
    /// assert_eq!(pollwatch::LateReason::NoCpu.as_str(), "no_cpu");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            LateReason::BusyWorkers => "busy_workers",
            LateReason::NoCpu => "no_cpu",
            LateReason::Unknown => "unknown",
        }
    }
}

impl fmt::Display for LateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A report that a runtime was late: the probe of pollwatch, a task that was woken, waited for its
/// poll for at least four thresholds, and no stall explains it. Returned by
/// [`Watchdog::late_runtimes`](crate::Watchdog::late_runtimes).
///
/// It says what the workers did meanwhile. Many short polls in a row delay a task as much as one
/// long one. The shares are of the time of all workers of the runtime. `Display` formats the report
/// like the log.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for late in watchdog.late_runtimes() {
///     eprintln!("{late}");
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LateRuntime {
    /// The name of the runtime.
    pub runtime: Arc<str>,
    /// The moment of the report.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_unix_seconds", rename = "reported_at_unix_seconds"))]
    pub reported_at: SystemTime,
    /// The time for which the probe waited, without pauses of the process.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "delay_seconds"))]
    pub delay: Duration,
    /// True if the probe was still waiting at the report.
    pub is_ongoing: bool,
    /// The time for which the workers were observed: the wait without its first part, which ends
    /// when the wait has reached the threshold.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "observed_seconds"))]
    pub observed: Duration,
    /// The number of workers.
    pub workers: usize,
    /// The reason.
    pub reason: LateReason,
    /// The share of time in which the workers were in measured polls, 0 to 1.
    pub polling: f64,
    /// The share of time in which the workers' threads were on a CPU. `None` where it is unknown.
    pub on_cpu: Option<f64>,
    /// The share of time in which the workers' threads waited for a CPU. `None` where it is
    /// unknown.
    pub waiting_for_cpu: Option<f64>,
    /// The sites whose polls took most time: at most 10, the busiest first.
    pub sites: Vec<SiteUsage>,
    /// The routes whose requests took most time: at most 10, the busiest first. Their polls are
    /// within those of the sites.
    pub routes: Vec<RouteUsage>,
}

/// The part of a site in the workers' time.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SiteUsage {
    /// The site.
    pub site: Site,
    /// The polls of the site that ended.
    pub polls: u64,
    /// The time that its polls took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds"))]
    pub busy: Duration,
    /// The share in the time of all workers, 0 to 1.
    pub share: f64,
}

/// The part of a route in the workers' time.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteUsage {
    /// The name of the route.
    pub route: Arc<str>,
    /// The polls of its requests that ended.
    pub polls: u64,
    /// The time that its polls took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "busy_seconds"))]
    pub busy: Duration,
    /// The share in the time of all workers, 0 to 1.
    pub share: f64,
}

impl fmt::Display for LateRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waits, observed) = (if self.is_ongoing { "has waited" } else { "waited" }, Millis(self.observed));
        write!(
            f,
            "the runtime {:?} is late: a woken task {waits} {} for its poll, and no stall explains it",
            self.runtime,
            Millis(self.delay)
        )?;
        let (its_workers, were) = match self.workers {
            1 => ("its worker".to_owned(), "was"),
            n => (format!("its {n} workers"), "were"),
        };
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        match self.reason {
            LateReason::BusyWorkers => {
                let busy = percent(self.polling.max(self.on_cpu.unwrap_or(0.0)));
                write!(f, "; {its_workers} {were} busy {busy} of {observed}")?;
            }
            LateReason::NoCpu => {
                let share = percent(self.waiting_for_cpu.unwrap_or(0.0));
                write!(f, "; {its_workers} waited for a CPU {share} of {observed}")?;
            }
            LateReason::Unknown => {
                let busy = percent(self.polling);
                write!(f, "; {its_workers} {were} in polls only {busy} of {observed}: the reason is not known")?;
            }
        }
        // A share that would be shown as 0 % says nothing.
        let counts = |share: f64| share >= LEAST_SHARE;
        for (index, site) in self.sites.iter().filter(|site| counts(site.share)).take(SHOWN_USERS).enumerate() {
            f.write_str(if index == 0 { ", most for tasks spawned at " } else { ", " })?;
            write!(f, "{} ({}, {} polls)", site.site, percent(site.share), site.polls)?;
        }
        for (index, route) in self.routes.iter().filter(|route| counts(route.share)).take(SHOWN_USERS).enumerate() {
            f.write_str(if index == 0 { "; routes " } else { ", " })?;
            write!(f, "{} ({}, {} polls)", route.route, percent(route.share), route.polls)?;
        }
        Ok(())
    }
}
