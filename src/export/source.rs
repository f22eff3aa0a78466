//! The interface through which the exporters get the metrics.

use super::user_collectors::UserCollectors;
use crate::Snapshot;

/// The source of the Prometheus metrics; implemented by the watchdog.
pub(crate) trait MetricsSource: Send + Sync + 'static {
    /// Returns all metrics at this moment.
    fn snapshot(&self) -> Snapshot;

    /// Returns the application's own collectors.
    fn collectors(&self) -> &UserCollectors;
}
