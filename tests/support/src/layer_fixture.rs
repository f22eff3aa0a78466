//! A watched runtime for servers below the layer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use pollwatch::snapshot::RouteSnapshot;
use pollwatch::{Stall, Watchdog, WatchdogBuilder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::*;

/// The number of workers of the fixture's runtime.
pub const LAYER_WORKERS: usize = 2;

/// A watchdog with its pages, a runtime of two workers, and all stalls reported so far.
pub struct LayerFixture {
    /// The watchdog, which serves its pages.
    pub watchdog: Watchdog,
    /// The stalls reported so far.
    pub collected: CollectedStalls,
    /// The runtime that runs the servers.
    pub runtime: Runtime,
}

impl LayerFixture {
    /// Starts a fixture with the usual threshold.
    pub fn start() -> LayerFixture {
        LayerFixture::start_with(Watchdog::builder().threshold(THRESHOLD))
    }

    /// Starts a fixture with a watchdog of these settings.
    pub fn start_with(builder: WatchdogBuilder) -> LayerFixture {
        let (watchdog, collected) = start_with(builder.log(false).listen("127.0.0.1:0"));
        let mut builder = multi_thread(LAYER_WORKERS);
        // Each worker has a name of its own, by which its stalls are recognised.
        let next = AtomicU64::new(0);
        builder.thread_name_fn(move || format!("worker {}", next.fetch_add(1, Ordering::Relaxed)));
        let runtime = watchdog.build_runtime("main", builder).unwrap();
        LayerFixture { watchdog, collected, runtime }
    }

    /// Runs a server with a new listener on the runtime, and returns its address.
    pub fn serve<S>(&self, server: impl FnOnce(TcpListener) -> S) -> SocketAddr
    where
        S: Future<Output: Send> + Send + 'static,
    {
        let listener = self.listen();
        let addr = listener.local_addr().unwrap();
        self.runtime.spawn(server(listener));
        addr
    }

    /// Opens a listener of the runtime.
    pub fn listen(&self) -> TcpListener {
        self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap()
    }

    /// Scrapes the metrics.
    pub fn metrics(&self) -> Metrics {
        Metrics::scrape(self.watchdog.local_addr().unwrap())
    }

    /// Returns the counts of a route, if it has any.
    pub fn route(&self, name: &str) -> Option<RouteSnapshot> {
        self.watchdog.snapshot().routes.into_iter().find(|route| &*route.route == name)
    }

    /// Waits until the requests of a route, by method and status, are as given. They are counted
    /// shortly after the response was sent.
    #[track_caller]
    pub fn wait_requests(&self, name: &str, wanted: &[(&'static str, &'static str, u64)]) {
        let requests = |route: RouteSnapshot| {
            route.requests.iter().map(|r| (r.method, r.status.as_str(), r.count)).collect::<Vec<_>>()
        };
        wait_equal(name, &Some(wanted.to_vec()), || self.route(name).map(requests));
    }

    /// Returns the latest report of each stall of the runtime, once everything so far has been
    /// reported.
    pub fn stalls(&self) -> Vec<Stall> {
        let mut last: Vec<Stall> = Vec::new();
        for stall in reported_so_far(&self.watchdog, &self.collected).into_iter().filter(|s| &*s.runtime == "main") {
            match last.iter_mut().find(|known| known.id == stall.id) {
                Some(known) => *known = stall,
                None => last.push(stall),
            }
        }
        last
    }

    /// Asserts that a blocking task spawned outside of the layer is reported without a route: no
    /// frame was left in a slot.
    pub fn assert_slots_are_empty(&self) {
        // Thousands of reports may be queued, and further ones would be lost.
        self.stalls();
        let tasks: Vec<_> = (0..LAYER_WORKERS * 4)
            .map(|_| spawn_measured(&self.watchdog, self.runtime.handle(), async { block(THRESHOLD * 2) }))
            .collect();
        let locations: Vec<String> = tasks.iter().map(|(_, location)| location.clone()).collect();
        for (task, _) in tasks {
            self.runtime.block_on(task).unwrap();
        }
        let stalls = self.stalls();
        let reported: Vec<_> = stalls.iter().filter(|s| locations.contains(&s.site.to_string())).collect();
        let snapshot = self.watchdog.snapshot();
        assert!(
            !reported.is_empty(),
            "no task of {locations:?} was reported: {:#?}\n{:#?}\n{}\n{:#?}",
            snapshot.watchdog,
            find_site(&snapshot, "main", &locations[0]),
            self.watchdog.metrics_text().lines().filter(|line| line.contains("lost")).collect::<Vec<_>>().join("\n"),
            self.collected.all().iter().rev().take(12).collect::<Vec<_>>(),
        );
        for stall in reported {
            assert!(stall.route.is_none() && stall.watched.is_none() && stall.parent_route.is_none(), "{stall}");
        }
    }
}
