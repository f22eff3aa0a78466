//! A server on a watched runtime.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use pollwatch::snapshot::RouteSnapshot;
use pollwatch::{Stall, Watchdog, WatchdogBuilder};
use tokio::runtime::Runtime;

use test_support::*;

pub(crate) const WORKERS: usize = 2;

/// A watchdog with its pages, a runtime of two workers, and all stalls reported so far.
pub(crate) struct Fixture {
    pub(crate) watchdog: Watchdog,
    pub(crate) collected: CollectedStalls,
    pub(crate) runtime: Runtime,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(Watchdog::builder().threshold(THRESHOLD))
    }

    pub(crate) fn with(builder: WatchdogBuilder) -> Fixture {
        let (watchdog, collected) = start_with(builder.log(false).listen("127.0.0.1:0".parse().unwrap()));
        let mut builder = multi_thread(WORKERS);
        // Each worker has a name of its own, which its stalls have too.
        let next = AtomicU64::new(0);
        builder.thread_name_fn(move || format!("worker {}", next.fetch_add(1, Ordering::Relaxed)));
        let runtime = watchdog.build_runtime("main", &mut builder).unwrap();
        Fixture { watchdog, collected, runtime }
    }

    pub(crate) fn serve(&self, app: Router) -> SocketAddr {
        let listener = self.listen();
        let addr = listener.local_addr().unwrap();
        self.runtime.spawn(async move { axum::serve(listener, app).await });
        addr
    }

    pub(crate) fn listen(&self) -> tokio::net::TcpListener {
        self.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::scrape(self.watchdog.local_addr().unwrap())
    }

    pub(crate) fn route(&self, name: &str) -> Option<RouteSnapshot> {
        self.watchdog.snapshot().routes.into_iter().find(|route| &*route.route == name)
    }

    /// Waits until the requests of a route, by method and status, are as given. A response is sent
    /// before its poll has ended.
    #[track_caller]
    pub(crate) fn wait_requests(&self, name: &str, wanted: &[(&'static str, &'static str, u64)]) {
        let requests =
            |route: RouteSnapshot| route.requests.iter().map(|r| (r.method, r.status, r.count)).collect::<Vec<_>>();
        wait_equal(name, &Some(wanted.to_vec()), || self.route(name).map(requests));
    }

    /// The last state of each stall of the runtime, once everything so far has been reported.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
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
    pub(crate) fn assert_slots_are_empty(&self) {
        // Thousands of reports may be queued, and further ones would be lost.
        self.stalls();
        let tasks: Vec<_> = (0..WORKERS * 4)
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
