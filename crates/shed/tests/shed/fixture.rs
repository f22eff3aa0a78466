//! A server on a watched runtime that sheds its load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use pollwatch::Watchdog;
use pollwatch_shed::{Shed, ShedLayer};
use tokio::runtime::Runtime;

use test_support::*;

/// Returns settings by which all requests are rejected from the first measured delay on: every
/// delay is above twice these watermarks, and none is below.
pub(crate) fn all() -> Shed {
    Shed::new().high(Duration::ZERO).sustain(Duration::ZERO).log(false)
}

/// A watchdog with its pages, a runtime of two workers, and a layer.
pub(crate) struct Fixture {
    pub(crate) watchdog: Watchdog,
    pub(crate) runtime: Runtime,
    pub(crate) layer: ShedLayer,
}

impl Fixture {
    pub(crate) fn new(shed: &Shed) -> Fixture {
        let builder = Watchdog::builder().threshold(THRESHOLD).log(false).collector(shed.collector());
        let watchdog = builder.listen("127.0.0.1:0").start().expect("a watchdog starts");
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        let layer = shed.layer(&watchdog);
        Fixture { watchdog, runtime, layer }
    }

    /// Serves the application below the layer, and that below the watchdog's layer.
    pub(crate) fn serve(&self, app: Router) -> SocketAddr {
        self.spawn_server(app.layer(self.layer.clone()).layer(self.watchdog.layer()))
    }

    /// Serves the application below the layer alone.
    pub(crate) fn serve_unwatched(&self, app: Router) -> SocketAddr {
        self.spawn_server(app.layer(self.layer.clone()))
    }

    fn spawn_server(&self, app: Router) -> SocketAddr {
        let listener = self.listen();
        let addr = listener.local_addr().unwrap();
        self.runtime.spawn(async move { axum::serve(listener, app).await });
        addr
    }

    pub(crate) fn listen(&self) -> tokio::net::TcpListener {
        self.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap()
    }

    /// Returns the number of rejected requests of a route, from `/metrics`.
    pub(crate) fn rejected(&self, route: &str) -> u64 {
        let metrics = Metrics::scrape(self.watchdog.local_addr().unwrap());
        metrics.find("pollwatch_route_shed_total", &[("route", route)]).unwrap_or(0.0) as u64
    }

    /// Returns the number of all rejected requests.
    pub(crate) fn all_rejected(&self) -> u64 {
        let metrics = Metrics::scrape(self.watchdog.local_addr().unwrap());
        let of_routes = metrics.series.iter().filter(|(series, _)| series.starts_with("pollwatch_route_shed_total{"));
        of_routes.map(|(_, value)| *value).sum::<f64>() as u64
    }

    /// Waits until the watchdog's layer has counted the requests of a route by method and status.
    #[track_caller]
    pub(crate) fn wait_requests(&self, name: &str, wanted: &[(&'static str, &'static str, u64)]) {
        wait_equal(name, &Some(wanted.to_vec()), || {
            let route = self.watchdog.snapshot().routes.into_iter().find(|route| &*route.route == name)?;
            Some(route.requests.iter().map(|r| (r.method, r.status.as_str(), r.count)).collect())
        });
    }
}

/// Polls on the fixture's runtime until it is dropped, so that the watchdog measures the delay.
pub(crate) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(crate) fn new(fixture: &Fixture) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, watchdog) = (stop.clone(), fixture.watchdog.clone());
        fixture.runtime.spawn(watchdog.watch(async move {
            while !until.load(Ordering::Relaxed) {
                block(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        }));
        Busy(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
