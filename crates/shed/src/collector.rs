//! The metric of the crate, for a Prometheus registry.

use std::sync::Arc;

use prometheus::core::Desc;
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use crate::routes::Routes;

const NAME: &str = "pollwatch_route_shed_total";
const HELP: &str = "Requests rejected because the runtime was overloaded.";
const LABEL: &str = "route";

/// A Prometheus collector of `pollwatch_route_shed_total`, the number of rejected requests by
/// route. Returned by [`Shed::collector`](crate::Shed::collector).
#[derive(Clone, Debug)]
pub struct Collector {
    routes: Arc<Routes>,
    descs: Vec<Desc>,
}

impl Collector {
    pub(crate) fn new(routes: Arc<Routes>) -> Collector {
        let desc = Desc::new(NAME.into(), HELP.into(), vec![LABEL.into()], Default::default());
        Collector { routes, descs: desc.into_iter().collect() }
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut rejected: Vec<_> = self.routes.all().into_iter().filter(|route| route.rejected() > 0).collect();
        if rejected.is_empty() {
            return Vec::new();
        }
        rejected.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut family = MetricFamily::default();
        family.set_name(NAME.into());
        family.set_help(HELP.into());
        family.set_field_type(MetricType::COUNTER);
        for route in rejected {
            let mut label = LabelPair::default();
            label.set_name(LABEL.into());
            label.set_value(route.name.to_string());
            let mut counter = Counter::default();
            counter.set_value(route.rejected() as f64);
            let mut metric = Metric::from_label(vec![label]);
            metric.set_counter(counter);
            family.mut_metric().push(metric);
        }
        vec![family]
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn counts_by_route() {
        let routes = Arc::new(Routes::new());
        let registry = prometheus::Registry::new();
        registry.register(Box::new(Collector::new(routes.clone()))).unwrap();
        assert!(registry.gather().is_empty());
        routes.of_request(&Request::new(()), Some("/a")).count_rejected();
        (0..2).for_each(|_| routes.of_request(&Request::new(()), None).count_rejected());
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("# TYPE pollwatch_route_shed_total counter"), "{text}");
        assert!(text.contains("pollwatch_route_shed_total{route=\"/a\"} 1\n"), "{text}");
        assert!(text.contains("pollwatch_route_shed_total{route=\"unmatched\"} 2\n"), "{text}");
    }
}
