//! The tower layer. It counts each poll of a response, and of its body, for the route of the
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

use crate::measure::entry::watched_request::RequestWatcher;
use crate::measure::runtime::meter::Meter;
use name::RouteBy;

/// The source files of the functions that run the user's services, futures and bodies, as captured
/// stacks name them.
pub(crate) const FILES: [&str; 3] = [body::FILE, future::FILE, service::FILE];

/// A tower layer that names what blocks by the route of its request; made by
/// [`Watchdog::layer`](crate::Watchdog::layer) or [`pollwatch::layer()`](crate::layer()).
///
/// A web framework spawns the tasks of all connections at one location, which says little about a
/// stall. With this layer a stall names the route, if it happens in a handler, an extractor, a
/// response body or an inner middleware, or in a task that one of them has spawned with
/// [`Watchdog::spawn`](crate::Watchdog::spawn). `/metrics` has the requests, the busy time, the
/// longest poll and the stalls of each route.
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
/// A request is named by the first of these names that exists:
///
/// 1. the name that [`route_by`](Self::route_by) returns;
/// 2. the path that axum matched, such as `/report/{id}` (feature `axum`). axum provides it to
///    layers that are added by [`Router::layer`] and `Router::route_layer`, but not to a layer
///    around the whole router;
/// 3. the path of a gRPC request, `/package.Service/Method`;
/// 4. `unmatched`. The raw path is never the name, because clients choose it.
///
/// At most [`max_routes`](crate::WatchdogBuilder::max_routes) names are distinguished.
///
/// # What is counted
///
/// A request is counted when it gets its response, under the class of its HTTP status, or as
/// `error`, `cancelled` or `panicked`. gRPC reports most errors in trailers, so that those requests
/// count as `2xx`. Add the layer once: a request that passes two layers counts once if both give it
/// the same name, and under both names otherwise.
///
/// A request may be handled within another one, by a service that calls a service in the same task.
/// Its time does not count for the outer request. The busy time of all routes is therefore never
/// longer than that of their polls.
///
/// Within a poll that is measured otherwise (by tokio's hooks, `watch` or `spawn`) a request is a
/// part of that poll. Elsewhere, as a rule in stable mode, each of its polls is measured like that
/// of a watched future.
///
/// # What is not measured
///
/// The layer measures no latencies. Other layers do (axum-prometheus, tower-http's `TraceLayer`,
/// those of OpenTelemetry). It measures how long a request keeps its worker from all other tasks,
/// which the latency of that request does not show.
///
/// # Cost
///
/// Each poll takes two readings of the clock. Each request takes one lookup in a small table of its
/// thread, two reference counts and two counters. No lock is taken and nothing is allocated, except
/// for a name that is new to the thread, or beyond `max_routes`.
///
/// [`Router::layer`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.layer
#[derive(Clone)]
pub struct WatchLayer {
    context: LayerContext,
}

/// The part of a layer that its services share.
#[derive(Clone)]
struct LayerContext {
    watcher: LayerWatcher,
    /// The application's function that names routes.
    route_by: Option<RouteBy>,
}

/// The watcher of a layer's requests. Its site is the location where the layer was made.
#[derive(Clone)]
enum LayerWatcher {
    Fixed(RequestWatcher),
    /// One of the current watchdog at each request.
    Current {
        location: &'static Location<'static>,
    },
}

impl WatchLayer {
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>) -> WatchLayer {
        let watcher = LayerWatcher::Fixed(RequestWatcher::new(meter));
        WatchLayer { context: LayerContext { watcher, route_by: None } }
    }

    /// Returns a layer that finds the current watchdog at each request.
    #[track_caller]
    pub(crate) fn of_current() -> WatchLayer {
        let watcher = LayerWatcher::Current { location: Location::caller() };
        WatchLayer { context: LayerContext { watcher, route_by: None } }
    }

    /// Sets a function that names routes by the head of a request. Where it returns `None`, the
    /// request is named as without it.
    ///
    /// The function runs on the worker, once for each request, and should return within
    /// microseconds. Its result becomes the value of a label, so that it must not contain what
    /// clients choose freely, such as an id or a query. A panic in it is caught, counted in
    /// `pollwatch_callback_panics_total`, and treated like `None`.
    ///
    /// At most half of the routes are given to requests that the service has not answered, or has
    /// answered with 404, 405 or gRPC's `UNIMPLEMENTED`. So clients cannot use up all of them.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// // A service without a router: named by the first segment of a known path.
    /// let layer = watchdog.layer().route_by(|head| match head.uri.path().split('/').nth(1)? {
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
