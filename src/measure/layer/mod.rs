//! The tower layer: each poll of a response, and of a frame of its body, counts for the route of its
//! request.

mod body;
mod future;
mod name;
mod service;

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

pub use body::WatchBody;
pub use future::ResponseFuture;
pub use service::WatchService;

use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::meter::Meter;
use name::RouteBy;

/// The files in which stacks show where the poll of a request starts.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) const FILES: [&str; 3] = [body::FILE, future::FILE, service::FILE];

/// A tower layer that names what blocks by the route of its request; made by
/// [`Watchdog::layer`](crate::Watchdog::layer).
///
/// In a web service every connection is a task, which the framework spawns at one location. With this
/// layer a stall in a handler, an extractor, a response body or an inner middleware names the route,
/// and so does one in a task that they spawned with [`Watchdog::spawn`](crate::Watchdog::spawn).
/// `/metrics` has the requests, the busy time, the longest poll and the stalls of each route.
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
/// A request is named by the first of these that there is:
///
/// 1. the name that [`route_by`](Self::route_by) returns;
/// 2. the path that axum matched, such as `/report/{id}` (feature `axum`). axum knows it inside of
///    [`Router::layer`] and `Router::route_layer`, not yet in a layer that is wrapped around the whole
///    router from outside;
/// 3. the path of a gRPC request, `/package.Service/Method`;
/// 4. `unmatched`. It is never the raw path, which clients make up.
///
/// At most [`max_routes`](crate::WatchdogBuilder::max_routes) names are distinguished.
///
/// # What is counted
///
/// A request is counted when it gets its response, under the class of its HTTP status, or as `error`,
/// `cancelled` or `panicked`. gRPC reports most errors in trailers: those requests are `2xx`. Add the
/// layer once: where two layers give a request the same name it counts once, else under both names.
/// The time of a request that is answered within another one (a service that calls a service in the
/// same task) is not counted for the outer one: the busy time of all routes is never more than that
/// of their polls.
///
/// Within a measured poll (by hooks, by `watch` or `spawn`) a request is a part of that poll.
/// Elsewhere, which is the rule in stable mode, each of its polls is a watched one.
///
/// # What it is not
///
/// A histogram of latencies. Other layers have those (axum-prometheus, tower-http's `TraceLayer`,
/// OpenTelemetry's). This layer measures how long requests keep workers from everything else, which
/// the latency of those requests does not show.
///
/// Cost: two readings of the clock for each poll. For each request one lookup in a small table, two
/// reference counts and two counters. It takes no lock and allocates nothing, except for a name that
/// is new, or that is beyond `max_routes`.
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
}

impl WatchLayer {
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>) -> WatchLayer {
        let site = meter.sites.intern(Location::caller());
        WatchLayer { context: Context { meter: meter.clone(), site, route_by: None } }
    }

    /// Names routes by a function of the request's head. Where it returns `None`, a request is named
    /// as without it.
    ///
    /// The function runs on the worker, once for each request: keep it short. What it returns becomes
    /// the value of a label, so do not use what clients choose freely (an id, a query). Names of
    /// requests that the service does not answer, or answers with 404, 405 or gRPC's `UNIMPLEMENTED`,
    /// get half of the routes at most. A panic in it is caught and counted
    /// (`pollwatch_callback_panics_total`), and stands for `None`.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// // A service without a router: named by the first segment of a known path.
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
}

impl fmt::Debug for WatchLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchLayer").field("route_by", &self.context.route_by.is_some()).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = WatchService<S>;

    fn layer(&self, inner: S) -> WatchService<S> {
        WatchService::new(inner, self.context.clone())
    }
}
