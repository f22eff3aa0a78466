//! Real `HttpServer`s on ports of their own, with one watchdog whose stalls are collected.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use actix_web::body::MessageBody;
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::ServiceConfig;
use actix_web::{App, Error, HttpServer, rt};
use pollwatch::snapshot::RouteSnapshot;
use pollwatch::{Certainty, Stall, Watchdog};
use pollwatch_actix::Watch;
use test_support::*;

/// A watchdog with its pages, and the servers that it watches.
pub(crate) struct Fixture {
    pub(crate) watchdog: Watchdog,
    pub(crate) collected: CollectedStalls,
}

/// A server. It stops when this is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// The runtime on which `HttpServer::run` is awaited.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Host {
    /// The one of `#[actix_web::main]`.
    Actix,
    /// The one of `#[tokio::main]`.
    Tokio,
}

impl Fixture {
    pub(crate) fn start() -> Fixture {
        let builder = Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0");
        let (watchdog, collected) = start_with(builder);
        Fixture { watchdog, collected }
    }

    /// Starts a server with this number of workers.
    pub(crate) fn serve(&self, workers: usize, routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static) -> Server {
        self.serve_on(Host::Actix, workers, routes)
    }

    pub(crate) fn serve_on(
        &self,
        host: Host,
        workers: usize,
        routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
    ) -> Server {
        let watch = Watch::new(&self.watchdog);
        let (sender, receiver) = mpsc::channel();
        let serve = async move || {
            let app = move || App::new().configure(routes.clone()).wrap(watch.clone()).wrap(from_fn(outside));
            let server =
                HttpServer::new(app).workers(workers).disable_signals().h1_allow_half_closed(false).shutdown_timeout(0);
            let server = server.bind("127.0.0.1:0").unwrap();
            let addr = server.addrs()[0];
            let server = server.run();
            sender.send((addr, server.handle())).unwrap();
            server.await.unwrap();
        };
        let thread = std::thread::spawn(move || match host {
            Host::Actix => rt::System::new().block_on(serve()),
            Host::Tokio => multi_thread(2).build().unwrap().block_on(serve()),
        });
        let (addr, handle) = receiver.recv().expect("the server starts");
        Server { addr, handle, thread: Some(thread) }
    }

    /// Scrapes the metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::scrape(self.watchdog.local_addr().unwrap())
    }

    /// Waits until the requests of a route, by method and status, are as given.
    #[track_caller]
    pub(crate) fn wait_requests(&self, name: &str, wanted: &[(&'static str, &'static str, u64)]) {
        let requests = |route: RouteSnapshot| {
            route.requests.iter().map(|r| (r.method, r.status.as_str(), r.count)).collect::<Vec<_>>()
        };
        let route = || self.watchdog.snapshot().routes.into_iter().find(|route| &*route.route == name);
        wait_equal(name, &Some(wanted.to_vec()), || route().map(requests));
    }

    /// Returns the names of all routes.
    pub(crate) fn routes(&self) -> Vec<String> {
        self.watchdog.snapshot().routes.iter().map(|route| route.route.to_string()).collect()
    }

    /// Returns the reports of actix's workers, once everything so far has been reported. Those are
    /// left out that the machine caused.
    #[track_caller]
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let all = reported_so_far(&self.watchdog, &self.collected);
        all.into_iter().filter(|stall| is_undisturbed(stall).is_ok()).collect()
    }

    /// Repeats what blocks a worker outside of a measured poll, until a stall of it is observed.
    #[track_caller]
    pub(crate) fn observed(&self, mut blocks: impl FnMut()) -> Stall {
        undisturbed(|| {
            blocks();
            let observed = self.stalls().into_iter().find(|stall| stall.certainty == Certainty::Observed);
            observed.ok_or_else(|| "it was not observed".into())
        })
    }

    /// Returns the first report of a stall of a route.
    #[track_caller]
    pub(crate) fn wait_stall(&self, route: &str) -> Stall {
        self.collected.wait(|stall| stall.route.as_deref() == Some(route)).expect("a stall of the route")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stop = self.handle.stop(false);
        current_thread().build().unwrap().block_on(stop);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// A middleware outside of the watched part. It blocks for the query `outside`.
async fn outside(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if request.query_string() == "outside" {
        block(THRESHOLD * 5);
    }
    next.call(request).await
}
