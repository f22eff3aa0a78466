//! The source of the Prometheus metrics.

use super::snapshot;
use crate::export::source::MetricsSource;
use crate::export::user_collectors::UserCollectors;
use crate::model::snapshot::Snapshot;
use crate::watchdog::WatchdogState;

impl MetricsSource for WatchdogState {
    fn snapshot(&self) -> Snapshot {
        snapshot(self)
    }

    fn collectors(&self) -> &UserCollectors {
        &self.collectors
    }
}
