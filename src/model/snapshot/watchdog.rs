//! The state of pollwatch itself.

use std::time::Duration;

use crate::model::coverage::Coverage;
use crate::model::labels::{ActionName, ActionResult, CaptureOutcome, ReportStage};
#[cfg(feature = "serde")]
use crate::model::serialize::{as_list_of_seconds, as_seconds};

/// The state of pollwatch itself.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WatchdogSnapshot {
    /// The threshold.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "threshold_seconds"))]
    pub threshold: Duration,
    /// The upper bounds of the buckets of each [`HistogramSnapshot`](super::HistogramSnapshot), in
    /// ascending order: of [`polls`](super::RuntimeSnapshot::polls),
    /// [`schedule_delay`](super::RuntimeSnapshot::schedule_delay) and
    /// [`delays`](super::RuntimeSnapshot::delays). Those of
    /// [`poll_buckets`](super::RouteSnapshot::poll_buckets) are others, and serialized with them.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_list_of_seconds", rename = "bucket_bounds_seconds"))]
    pub bucket_bounds: Vec<Duration>,
    /// The coverage: what is measured and what is not.
    pub coverage: Coverage,
    /// Stalls, panics and pauses whose first report was not logged because of the rate limit of the
    /// log.
    pub reports_suppressed: u64,
    /// Reports that did not reach a stage of reporting, because it was too slow.
    pub reports_lost: u64,
    /// The reports of `reports_lost` by stage.
    pub reports_lost_by_stage: Vec<LostReportsSnapshot>,
    /// Stack captures, by result.
    pub captures: Vec<CaptureSnapshot>,
    /// Time in `allow_blocking` scopes that have ended, by reason.
    pub allowed_blocking: Vec<AllowedSnapshot>,
    /// Sites that exceeded `max_sites`, counted once for each thread and site.
    pub sites_overflowed: u64,
    /// Requests whose route exceeded `max_routes`.
    pub routes_overflowed: u64,
    /// The number of tasks that were spawned within a request and whose route is not known, because
    /// more than about 100,000 such tasks were alive.
    pub spawn_routes_overflowed: u64,
    /// Wake-ups of the watchdog that were late by a threshold (at least 5 ms) or more.
    pub oversleeps: u64,
    /// Wake-ups of the watchdog.
    pub wakeups: u64,
    /// Panics in callbacks and hooks of the application.
    pub callback_panics: u64,
    /// The actions of incidents by their result, for each action that is set.
    pub incident_actions: Vec<IncidentActionSnapshot>,
    /// Times that a collector of the application was left out of `/metrics`.
    pub collector_failures: u64,
}

/// The actions of one sort that incidents caused and that had the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct IncidentActionSnapshot {
    /// The effect of the actions.
    pub action: ActionName,
    /// Their result.
    pub result: ActionResult,
    /// The number of actions. One that has timed out and ends later is counted a second time.
    pub count: u64,
}

/// The reports that did not reach one stage of reporting. The stages do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LostReportsSnapshot {
    /// The stage.
    pub stage: ReportStage,
    /// The number of reports.
    pub count: u64,
}

/// The stack captures that had the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CaptureSnapshot {
    /// The outcome, which is `result` in `/live` and in the metric.
    #[cfg_attr(feature = "serde", serde(rename = "result"))]
    pub outcome: CaptureOutcome,
    /// The number of captures.
    pub count: u64,
}

/// The time spent in `allow_blocking` scopes with the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AllowedSnapshot {
    /// The reason given to [`allow_blocking`](crate::allow_blocking).
    pub reason: &'static str,
    /// The total time.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_seconds", rename = "seconds"))]
    pub time: Duration,
}
