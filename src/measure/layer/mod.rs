//! The way in by a tower layer: each poll of a response, and of a frame of its body, is a part of its route's request.

mod body;
mod future;
mod name;
mod service;
mod shed;

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

pub use body::WatchBody;
pub use future::ResponseFuture;
pub use service::WatchService;
pub use shed::{Shed, ShedLayer};

use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::meter::Meter;
use name::RouteBy;
use shed::Turnstile;

/// The files whose functions are where a request's poll begins, as stacks tell it.
pub(crate) const FILES: [&str; 3] = [body::FILE, future::FILE, service::FILE];

/// Names what blocks by the route of its request; made by [`Watchdog::layer`](crate::Watchdog::layer).
///
/// In a web service every connection is a task that the framework spawned, at one place in the framework. With this layer a stall
/// in a handler, an extractor, a response body or a middleware further in names the route, and so does one in a task that they
/// spawned with [`Watchdog::spawn`](crate::Watchdog::spawn). `/metrics` has requests, busy time, the slowest poll and stalls a
/// route.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// # async fn report() {}
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let app: axum::Router = axum::Router::new()
///     .route("/report/{id}", axum::routing::get(report))
///     .layer(watchdog.layer());
/// # }
/// # Ok::<(), pollwatch::Error>(())
/// ```
///
/// # The name of a route
///
/// 1. what [`route_by`](Self::route_by) says, if it says something;
/// 2. the path that axum matched, such as `/report/{id}` (feature `axum`). axum knows it inside of [`Router::layer`] and
///    `Router::route_layer`, not yet in a layer that is wrapped around the whole router from outside;
/// 3. of a gRPC request its path, `/package.Service/Method`;
/// 4. else `unmatched`. Never the raw path: clients make those up.
///
/// At most [`max_routes`](crate::WatchdogBuilder::max_routes) are told apart.
///
/// # What is counted
///
/// A request counts once its response is there, under the class of its HTTP status (gRPC tells most errors in trailers: those are
/// `2xx`), or as `error`, `cancelled` or `panicked`. Put the layer on once: where two of them name a request alike it counts once,
/// where they do not, under both names. The time of a request that is answered within another (a service that calls a service in
/// the same task) is taken from the outer one's: the busy time of all routes is never more than that of their polls.
///
/// Within a poll that is seen (by hooks, by `watch` or `spawn`) a request is a part of it. Elsewhere, in stable mode as a rule,
/// each of its polls is one that is watched.
///
/// # What it is not
///
/// A histogram of latencies: those have layers of their own (axum-prometheus, tower-http's `TraceLayer`, OpenTelemetry's). This one measures
/// how long requests keep workers from all else, which is never in their latency alone.
///
/// Cost: two readings of the clock a poll; one look into a small table, two counts of references and two counters a request; no lock, no allocation (but for a
/// name that is new, or of a route that does not fit).
///
/// [`Router::layer`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.layer
#[derive(Clone)]
pub struct WatchLayer {
    context: Context,
}

/// What the layer and its services share.
#[derive(Clone)]
struct Context {
    meter: Arc<Meter>,
    site: SiteId,
    route_by: Option<RouteBy>,
    turnstile: Option<Arc<Turnstile>>,
}

impl WatchLayer {
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>) -> WatchLayer {
        let site = meter.sites.intern(Location::caller());
        WatchLayer { context: Context { meter: meter.clone(), site, route_by: None, turnstile: None } }
    }

    /// Names routes by a function of the request's head. `None` leaves the name to the other ways.
    ///
    /// It runs on the worker, once a request: keep it short. What it returns becomes the value of a label; make no name out of
    /// what clients choose freely (an id, a query). Names that it gives to requests which the service does not answer, or answers
    /// with 404, 405 or gRPC's `UNIMPLEMENTED`, get half of the places at most. A panic in it is caught and counted
    /// (`pollwatch_callback_panics_total`), and it then has said nothing.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// // A service without a router: by the first segment of the path, if it is one of ours.
    /// let layer = watchdog.layer().route_by(|request| match request.uri.path().split('/').nth(1)? {
    ///     "orders" => Some("/orders".into()),
    ///     "users" => Some("/users".into()),
    ///     _ => None,
    /// });
    /// # drop(layer);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn route_by(
        mut self,
        name: impl Fn(&Parts) -> Option<Cow<'static, str>> + Send + Sync + 'static,
    ) -> WatchLayer {
        self.context.route_by = Some(Arc::new(name));
        self
    }

    /// Turns requests away while their runtime is late: see [`Shed`]. Call it last. Off without it.
    ///
    /// They are counted in `pollwatch_route_shed_total`, and in `pollwatch_route_requests_total` by the status of their answer. That it begins and ends is logged (target `pollwatch::shed`).
    ///
    /// Cost: one load a request while there is no overload. The watchdog wakes its probe task each 20 ms instead of each 100 ms
    /// while the runtime polls, and the probe is polled twice a time: at most 100 polls a second of some 100 ns, with what waking
    /// an idle worker takes. After the watchdog has stopped, no request is turned away.
    pub fn shed(self, shed: Shed) -> ShedLayer {
        ShedLayer::new(self, &shed)
    }
}

impl fmt::Debug for WatchLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchLayer").field("route_by", &self.context.route_by.is_some()).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = WatchService<S>;

    fn layer(&self, inner: S) -> WatchService<S> {
        WatchService::new(inner, self.context.clone(), None)
    }
}
