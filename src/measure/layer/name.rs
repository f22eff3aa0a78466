//! The name of a request's route.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Method, Request};

use super::Context;
use crate::measure::counters::routes::METHODS;
use crate::measure::entry::request::route;
use crate::measure::primitives::route::{Proof, RouteId};
use crate::util::call_user;

/// The application's function that names routes.
pub(super) type RouteBy = Arc<dyn Fn(&Parts) -> Option<Cow<'static, str>> + Send + Sync>;

/// A request with the route that its head names.
pub(super) struct Named<B> {
    pub(super) request: Request<B>,
    pub(super) route: RouteId,
    pub(super) claim: Option<Claim>,
}

/// A name that did not fit, and may fit once the service has answered.
pub(super) struct Claim {
    pub(super) name: Box<str>,
    /// Whether it is the path of what seems to be a gRPC request.
    pub(super) is_path: bool,
}

/// Names a request.
pub(super) fn name<B>(context: &Context, request: Request<B>) -> Named<B> {
    let (request, given) = match &context.route_by {
        None => (request, None),
        Some(route_by) => {
            let (parts, body) = request.into_parts();
            let mut given = None;
            if call_user(|| given = route_by(&parts)) {
                context.meter.hook_panics.fetch_add(1, Ordering::Relaxed);
            }
            (Request::from_parts(parts, body), given)
        }
    };
    let (route, claim) = match (&given, matched(&request)) {
        (Some(name), _) => claimed(context, name, false),
        (None, Some(name)) => (route(&context.meter, name, Proof::Known), None),
        (None, None) if is_grpc(request.headers()) && is_method(request.uri().path()) => {
            claimed(context, request.uri().path(), true)
        }
        (None, None) => (RouteId::UNMATCHED, None),
    };
    Named { request, route, claim }
}

fn claimed(context: &Context, name: &str, is_path: bool) -> (RouteId, Option<Claim>) {
    let route = route(&context.meter, name, Proof::Claimed);
    (route, (route == RouteId::OTHER).then(|| Claim { name: name.into(), is_path }))
}

/// Returns the path that axum matched.
#[cfg(feature = "axum")]
fn matched<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<axum::extract::MatchedPath>().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn matched<B>(_: &Request<B>) -> Option<&str> {
    None
}

/// Returns whether the headers are those of a gRPC message.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Returns whether a path has the form `/package.Service/Method`.
fn is_method(path: &str) -> bool {
    let mut parts = path.split('/');
    let mut next = || parts.next().map(str::is_empty);
    (next(), next(), next(), next()) == (Some(true), Some(false), Some(false), None)
}

/// Returns the index of a method in [`METHODS`].
pub(super) fn method(method: &Method) -> u8 {
    let known = METHODS[..METHODS.len() - 1].iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1) as u8
}
