//! The pages as a part of the user's own axum service.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use axum::routing::any;

use super::pages::{self, Pages};
use crate::watchdog::WatchdogState;

pub(crate) fn router(shared: &Arc<WatchdogState>) -> Router {
    let pages = Arc::new(Pages::of(shared.clone()));
    pages::PATHS.into_iter().fold(Router::new(), |router, path| {
        let pages = pages.clone();
        router.route(path, any(move |method| answer(pages, method, path)))
    })
}

/// Made on a thread that may block: a scrape of a large service takes milliseconds, and is no stall.
async fn answer(pages: Arc<Pages>, method: Method, path: &'static str) -> Response<Body> {
    let answer = move || pages::respond(&pages, &method, path).map(Body::new);
    if tokio::runtime::Handle::try_current().is_err() {
        return answer();
    }
    tokio::task::spawn_blocking(answer).await.unwrap_or_else(|_| {
        // The runtime is shutting down.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
}
