//! The naming of requests: which route a request belongs to.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Request};

use crate::measure::entry::request::route;
use crate::measure::primitives::route::{NameStatus, RouteId};
use crate::measure::runtime::meter::Meter;
use crate::util::call_user;

/// The application's function that names routes.
pub(super) type RouteBy = Arc<dyn Fn(&Parts) -> Option<Cow<'static, str>> + Send + Sync>;

/// A request with the route that it was given by its head.
pub(super) struct NamedRequest<B> {
    pub(super) request: Request<B>,
    pub(super) route: RouteId,
    /// The name that got no id; the route is `other` then.
    pub(super) unconfirmed: Option<UnconfirmedName>,
}

/// A name that got no id because it is unconfirmed. It may get one once the service has responded.
pub(super) struct UnconfirmedName {
    pub(super) name: Box<str>,
    /// `true` if the name is the path of a request that seems to be a gRPC one.
    pub(super) is_grpc_path: bool,
}

/// Names a request by its head, as [`WatchLayer`](super::WatchLayer) describes. The application's
/// function runs on the calling thread, and its panic is caught and counted.
pub(super) fn name_request<B>(meter: &Arc<Meter>, route_by: Option<&RouteBy>, request: Request<B>) -> NamedRequest<B> {
    let (request, custom) = match route_by {
        None => (request, None),
        Some(route_by) => {
            let (parts, body) = request.into_parts();
            let mut custom = None;
            if call_user(|| custom = route_by(&parts)) {
                meter.hook_panics.fetch_add(1, Ordering::Relaxed);
            }
            (Request::from_parts(parts, body), custom)
        }
    };
    let (route, unconfirmed) = match (&custom, matched_path(&request)) {
        (Some(name), _) => intern_unconfirmed(meter, name, false),
        (None, Some(name)) => (route(meter, name, NameStatus::Confirmed), None),
        (None, None) if is_grpc(request.headers()) && is_grpc_method(request.uri().path()) => {
            intern_unconfirmed(meter, request.uri().path(), true)
        }
        (None, None) => (RouteId::UNMATCHED, None),
    };
    NamedRequest { request, route, unconfirmed }
}

/// Returns the route of an unconfirmed name, and keeps the name where it got no id.
fn intern_unconfirmed(meter: &Arc<Meter>, name: &str, is_grpc_path: bool) -> (RouteId, Option<UnconfirmedName>) {
    let route = route(meter, name, NameStatus::Unconfirmed);
    (route, (route == RouteId::OTHER).then(|| UnconfirmedName { name: name.into(), is_grpc_path }))
}

/// Returns the path that axum matched.
#[cfg(feature = "axum")]
fn matched_path<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<axum::extract::MatchedPath>().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn matched_path<B>(_: &Request<B>) -> Option<&str> {
    None
}

/// Returns whether the headers are those of a gRPC message.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Returns whether a path has the form `/package.Service/Method`.
fn is_grpc_method(path: &str) -> bool {
    let mut parts = path.split('/');
    let mut next = || parts.next().map(str::is_empty);
    (next(), next(), next(), next()) == (Some(true), Some(false), Some(false), None)
}
