//! The pages as a part of the application's own axum service.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use axum::routing::any;

use super::page_source::PageSource;
use super::pages::Pages;

/// All paths except `/`, which is the same as `/live.html` and belongs to the application where the
/// pages are part of its own router.
const PATHS: [&str; 10] = [
    "/live",
    "/live.html",
    "/live/profile",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/debug/pprof/stalls",
    "/healthz",
];

/// Returns a router with all pages except `/`.
pub(crate) fn router(source: Arc<dyn PageSource>) -> Router {
    let pages = Arc::new(Pages::new(source));
    PATHS.into_iter().fold(Router::new(), |router, path| {
        let pages = pages.clone();
        router.route(path, any(move |method| respond(pages, method, path)))
    })
}

/// Responds from a thread of the blocking pool: a scrape of a large service takes milliseconds,
/// and must not be a stall itself.
async fn respond(pages: Arc<Pages>, method: Method, path: &'static str) -> Response<Body> {
    let respond = move || pages.respond(&method, path).map(Body::new);
    if tokio::runtime::Handle::try_current().is_err() {
        return respond();
    }
    tokio::task::spawn_blocking(respond).await.unwrap_or_else(|_| {
        // The runtime is shutting down.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
}
