//! A collector for the application's own registry.

use std::sync::Arc;

use prometheus::core::{Collector as PrometheusCollector, Desc};
use prometheus::proto::MetricFamily;

use super::families::families;
use super::source::MetricsSource;
use super::table::{self, PREFIX};

/// All metrics of a watchdog, for a [`prometheus::Registry`]; returned by
/// [`Watchdog::collector`](crate::Watchdog::collector).
///
/// Collecting takes some milliseconds with 1,000 sites, on the thread that gathers. Workers do not
/// wait for it.
#[derive(Clone)]
pub struct Collector {
    source: Arc<dyn MetricsSource>,
    descs: Vec<Desc>,
}

impl Collector {
    pub(crate) fn new(source: Arc<dyn MetricsSource>) -> Collector {
        let desc = |def: &table::MetricDef| {
            let labels = def.labels.iter().map(|&label| label.into()).collect();
            Desc::new(format!("{PREFIX}{}", def.name), def.help.into(), labels, Default::default()).ok()
        };
        Collector { source, descs: table::all().filter(|def| def.is_available()).filter_map(desc).collect() }
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl PrometheusCollector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.source.snapshot())
    }
}
