//! The source of the Prometheus metrics.

use super::snapshot;
use crate::export::source::MetricsSource;
use crate::model::snapshot::Snapshot;
use crate::watchdog::WatchdogState;

impl MetricsSource for WatchdogState {
    fn snapshot(&self) -> Snapshot {
        snapshot(self)
    }
}
