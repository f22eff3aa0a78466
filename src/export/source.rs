//! Where the metrics come from.

use crate::Snapshot;

/// The source of the Prometheus metrics; implemented by the watchdog.
pub(crate) trait MetricsSource: Send + Sync + 'static {
    /// Returns all metrics at this moment.
    fn snapshot(&self) -> Snapshot;
}
