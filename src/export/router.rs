//! The pages as a part of the application's own axum service.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{Response, StatusCode};
use axum::routing::any;
use tokio::sync::Semaphore;

use super::page_source::PageSource;
use super::pages::{PageRequest, Pages};

/// All paths except `/`, which is the same as `/live.html` and belongs to the application where the
/// pages are part of its own router.
const PATHS: [&str; 12] = [
    "/live",
    "/live.html",
    "/live/profile",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/threads",
    "/debug/pprof/stalls",
    "/healthz",
    "/incidents",
];

/// The number of slow responses that one router computes at a time.
const SLOW_RESPONSES: usize = 1;

/// The pages of one router.
///
/// The permits for slow responses are not those of the server. The threads and workers of the user
/// may all be blocked while a request to the router holds a permit or is the next to get one. The
/// server has to answer then.
#[derive(Clone)]
struct RouterPages {
    pages: Arc<Pages>,
    slow: Arc<Semaphore>,
}

/// Returns a router with all pages except `/`.
pub(crate) fn router(source: Arc<dyn PageSource>) -> Router {
    let shared = RouterPages { pages: Arc::new(Pages::new(source)), slow: Arc::new(Semaphore::new(SLOW_RESPONSES)) };
    PATHS.into_iter().fold(Router::new(), |router, path| {
        let shared = shared.clone();
        router.route(
            path,
            any(move |method, headers, RawQuery(query)| {
                respond(shared, PageRequest::new(method, path, query, &headers))
            }),
        )
    })
}

/// Responds from a thread of the blocking pool: a scrape of a large service takes milliseconds,
/// and must not be a stall itself. A slow response waits for its permit before it takes a thread of
/// the pool, so that a flood of such requests leaves the pool to the application.
async fn respond(shared: RouterPages, request: PageRequest) -> Response<Body> {
    let RouterPages { pages, slow } = shared;
    // The semaphore is never closed.
    let permit = if request.is_slow() { slow.acquire_owned().await.ok() } else { None };
    let respond = move || {
        // Held also if the client has gone, until the response has been computed.
        let _permit = permit;
        pages.respond(&request).map(Body::new)
    };
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
