//! The metrics of a process that is watched from outside: those that can be known of it.

use super::table::{self, MetricDef, PREFIX};

const KNOWN: &[MetricDef] = &[
    table::STALLS,
    table::STALL_SECONDS,
    table::SUSPECTED,
    table::SUSPECTED_SECONDS,
    table::BLOCKED,
    table::OLDEST,
    table::INCIDENTS,
    table::INCIDENT_ONGOING,
    table::THRESHOLD,
    table::SUPPRESSED,
    table::REPORTS_LOST,
    table::OVERSLEEPS,
    table::WAKEUPS,
    table::CALLBACK_PANICS,
    table::CAPTURES,
    table::COVERAGE,
    table::BUILD,
];

/// Returns whether the metric with this full name is known of a process that is watched from
/// outside.
pub(super) fn is_known(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|name| KNOWN.iter().any(|def| def.name == name))
}
