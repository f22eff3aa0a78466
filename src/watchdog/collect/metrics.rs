//! The source of the Prometheus metrics.

use super::snapshot;
use crate::export::source::MetricsSource;
use crate::model::snapshot::Snapshot;
use crate::shared::Shared;

impl MetricsSource for Shared {
    fn snapshot(&self) -> Snapshot {
        snapshot(self)
    }
}
