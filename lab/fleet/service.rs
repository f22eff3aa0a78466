//! The services whose metrics the instances show: real runtimes with real watchdogs, under a light
//! load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use pollwatch::{Watchdog, WatchdogBuilder};
use pollwatch_shed::ShedLayer;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::blocking;
use crate::sites::{SITES, Spawner};

/// A service that answers no more gets no further requests while this many are unanswered. Only
/// then are all workers of a runtime that hangs idle.
const MAX_UNANSWERED: usize = 300;
/// The parts of which the names of routes consist.
const NOUNS: [&str; 10] =
    ["orders", "carts", "items", "invoices", "users", "sessions", "payments", "refunds", "stock", "search"];
const VERBS: [&str; 5] = ["get", "list", "update", "export", "history"];

/// The size of a service.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) job: &'static str,
    workers: usize,
    sites: usize,
    routes: usize,
}

/// The larger service of `docs/prometheus.md`.
pub(crate) const SHOP: Size = Size { job: "shop", workers: 8, sites: 60, routes: 50 };
/// A small service.
pub(crate) const BILLING: Size = Size { job: "billing", workers: 2, sites: 7, routes: 5 };

/// What the handlers of a service do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handlers {
    /// They wait for timers only.
    Healthy,
    /// Three routes block: in a sleep, in a lock, and in a computation. One panics, and one spawns
    /// a task that blocks.
    Blocking,
}

/// A running service.
pub(crate) struct Service {
    pub(crate) watchdog: Watchdog,
    pub(crate) runtime: Runtime,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts a service with pollwatch's server, and its load: a request after each `pause`.
    pub(crate) fn start(
        size: Size,
        pause: Duration,
        builder: WatchdogBuilder,
        handlers: Handlers,
        shed: Option<&pollwatch_shed::Shed>,
    ) -> Result<Service, Box<dyn std::error::Error>> {
        let watchdog = builder.log(false).listen("127.0.0.1:0").start()?;
        let mut tokio = Builder::new_multi_thread();
        tokio.worker_threads(size.workers).max_blocking_threads(blocking::POOL_THREADS).enable_all();
        let runtime = watchdog.build_runtime("main", tokio)?;
        let app = app(size, handlers, shed.map(|shed| shed.layer(&watchdog))).layer(watchdog.layer());
        let stop = Arc::new(AtomicBool::new(false));
        let load =
            Load { size, pause, app, spawner: Spawner(watchdog.clone()), stop: stop.clone(), unanswered: Arc::new(()) };
        let handle = runtime.handle().clone();
        let load = thread::spawn(move || {
            let _inside = handle.enter();
            load.run();
        });
        Ok(Service { watchdog, runtime, stop, load: Some(load) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(load) = self.load.take() {
            let _ = load.join();
        }
    }
}

/// The name of a route, with the placeholder of axum.
fn route(index: usize) -> String {
    format!("/{}/{{id}}/{}", NOUNS[index % NOUNS.len()], VERBS[index / NOUNS.len() % VERBS.len()])
}

fn app(size: Size, handlers: Handlers, shed: Option<ShedLayer>) -> Router {
    let mut app = Router::new();
    for index in 0..size.routes {
        app = app.route(&route(index), get(async move |Path(id): Path<u64>| answer(handlers, index, id).await));
    }
    match shed {
        Some(layer) => app.layer(layer),
        None => app,
    }
}

/// Answers a request. One id in ten does not exist.
async fn answer(handlers: Handlers, index: usize, id: u64) -> StatusCode {
    tokio::time::sleep(Duration::from_millis(2 + id % 5)).await;
    if handlers == Handlers::Blocking {
        match index {
            0 => blocking::sleep(),
            1 => blocking::wait_for_lock(),
            2 => blocking::compute(),
            3 => blocking::panic(),
            4 => drop(tokio::spawn(async { blocking::sleep() })),
            _ => {}
        }
    }
    if id.is_multiple_of(10) { StatusCode::NOT_FOUND } else { StatusCode::OK }
}

/// Sends requests to a service, each in a task of its own, from all sites in turn.
struct Load {
    size: Size,
    pause: Duration,
    app: Router,
    spawner: Spawner,
    stop: Arc<AtomicBool>,
    /// Each request has a reference until it is answered.
    unanswered: Arc<()>,
}

impl Load {
    fn run(&self) {
        // Both statuses of each route in the first seconds, so that no series appears later.
        let routes = self.size.routes;
        let first = (0..2 * routes).map(|n| (n % routes, n / routes, Duration::from_millis(5)));
        let later = (0..).map(|n: usize| (n % routes, n, self.pause));
        for (n, (route_index, id, pause)) in first.chain(later).enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if Arc::strong_count(&self.unanswered) <= MAX_UNANSWERED {
                self.request(n, route_index, id);
            }
            thread::sleep(pause);
        }
    }

    fn request(&self, n: usize, route_index: usize, id: usize) {
        let path = route(route_index).replace("{id}", &id.to_string());
        let Ok(request) = Request::get(path).body(Body::empty()) else { return };
        let response = self.app.clone().oneshot(request);
        let unanswered = self.unanswered.clone();
        let work = Box::pin(async move {
            drop(response.await);
            drop(unanswered);
        });
        SITES[n % self.size.sites](&self.spawner, work);
    }
}
