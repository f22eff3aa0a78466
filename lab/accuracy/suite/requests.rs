//! A request whose handler is any future.

use std::convert::Infallible;

use http::{Request, Response};
use pollwatch::Watchdog;
use tower::{ServiceBuilder, ServiceExt};

/// Runs a future as the handler of a request of this route, below the layer.
pub(crate) async fn request<F>(watchdog: Watchdog, route: &'static str, body: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let handler = |request: Request<F>| async move {
        request.into_body().await;
        Ok::<_, Infallible>(Response::new(()))
    };
    let layer = watchdog.layer().route_by(move |_: &http::request::Parts| Some(route.into()));
    let _ = ServiceBuilder::new().layer(layer).service_fn(handler).oneshot(Request::new(body)).await;
}
