//! Tests of the rules of tower: the behaviour of the inner service that a middleware has to
//! preserve.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use test_support::*;

fn block_on<F: Future>(future: F) -> F::Output {
    current_thread().build().unwrap().block_on(future)
}

/// A service that is ready on demand. Only the instance that was ready may be called; a clone has
/// to become ready itself.
struct ReadyOnDemand {
    open: Arc<AtomicBool>,
    asked: bool,
}

impl Clone for ReadyOnDemand {
    fn clone(&self) -> ReadyOnDemand {
        ReadyOnDemand { open: self.open.clone(), asked: false }
    }
}

impl Service<Request<()>> for ReadyOnDemand {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Ready<Result<Response<String>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.asked = self.open.load(Ordering::Relaxed);
        if self.asked { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.asked), "called without having been ready");
        ready(if request.uri() == "/error" { Err("on purpose") } else { Ok(Response::new(String::new())) })
    }
}

#[test]
fn readiness_is_that_of_the_inner_service() {
    let fixture = LayerFixture::start();
    let open = Arc::new(AtomicBool::new(false));
    let mut service = fixture.watchdog.layer().layer(ReadyOnDemand { open: open.clone(), asked: false });
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(cx).is_pending(), "back-pressure passes");
    open.store(true, Ordering::Relaxed);
    assert!(service.poll_ready(cx).is_ready());
    // A clone is not ready when the original is. Each of them is called after it was ready.
    let clone = service.clone();
    assert!(!clone.get_ref().asked && service.get_ref().asked);
    block_on(service.call(Request::new(()))).unwrap();
    block_on(clone.oneshot(Request::new(()))).unwrap();
    fixture.wait_requests("unmatched", &[("GET", "2xx", 2)]);
}

#[test]
fn errors_are_passed_on_and_counted() {
    let fixture = LayerFixture::start();
    let open = Arc::new(AtomicBool::new(true));
    let service = fixture.watchdog.layer().layer(ReadyOnDemand { open, asked: false });
    let error = block_on(service.oneshot(Request::get("/error").body(()).unwrap())).unwrap_err();
    assert_eq!(error, "on purpose");
    fixture.wait_requests("unmatched", &[("GET", "error", 1)]);
}

#[test]
fn panics_are_passed_on_and_counted() {
    fn unwind<T>() -> T {
        std::panic::resume_unwind(Box::new("on purpose"))
    }
    let is_caught = |f: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let fixture = LayerFixture::start();
    let layer = fixture.watchdog.layer();
    let in_call = ServiceBuilder::new()
        .layer(&layer)
        .service_fn(move |_: Request<()>| -> Ready<Result<Response<()>, Infallible>> { unwind() });
    let in_future = ServiceBuilder::new()
        .layer(&layer)
        .service_fn(async move |_: Request<()>| -> Result<Response<()>, Infallible> { unwind() });
    assert!(is_caught(&mut || drop(block_on(in_call.clone().oneshot(Request::new(()))))), "the panic is the caller's");
    assert!(
        is_caught(&mut || drop(block_on(in_future.clone().oneshot(Request::new(()))))),
        "the panic is the caller's"
    );
    fixture.wait_requests("unmatched", &[("GET", "panicked", 2)]);
    // The response of a panicking body has already been counted.
    let in_body = ServiceBuilder::new().layer(&layer).service_fn(async |_: Request<()>| {
        let stream = futures_util::stream::poll_fn(|_| unwind::<Poll<Option<Result<Frame<Bytes>, Infallible>>>>());
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream)))
    });
    let response = block_on(in_body.oneshot(Request::new(()))).unwrap();
    let mut body = Some(response.into_body());
    assert!(is_caught(&mut || drop(block_on(body.take().unwrap().collect()))), "the panic is the caller's");
    fixture.wait_requests("unmatched", &[("GET", "2xx", 1), ("GET", "panicked", 2)]);
    fixture.assert_slots_are_empty();
}

#[test]
fn a_dropped_response_counts_as_cancelled() {
    let fixture = LayerFixture::start();
    let service = ServiceBuilder::new()
        .layer(fixture.watchdog.layer())
        .service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>());
    let mut polled = Box::pin(service.clone().oneshot(Request::new(())));
    assert!(polled.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(polled);
    let mut never_polled = service;
    drop(never_polled.call(Request::new(())));
    fixture.wait_requests("unmatched", &[("GET", "cancelled", 2)]);
}

/// Asserts that a body keeps its hints, its frames and its trailers.
#[test]
fn bodies_are_unchanged() {
    let fixture = LayerFixture::start();
    let service = ServiceBuilder::new().layer(fixture.watchdog.layer()).service_fn(async |request: Request<()>| {
        let body = if request.uri() == "/empty" { Full::default() } else { Full::new(Bytes::from("whole")) };
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "7".parse().unwrap());
        Ok::<_, Infallible>(Response::new(body.with_trailers(std::future::ready(Some(Ok(trailers))))))
    });
    let get = |path: &str| block_on(service.clone().oneshot(Request::get(path).body(()).unwrap())).unwrap();
    let collected = block_on(get("/").into_body().collect()).unwrap();
    assert_eq!(collected.trailers().expect("trailers")["x-checksum"], "7");
    assert_eq!(collected.to_bytes(), "whole");

    let service = ServiceBuilder::new().layer(fixture.watchdog.layer()).service_fn(async |request: Request<()>| {
        let body = if request.uri() == "/empty" { Full::default() } else { Full::new(Bytes::from("whole")) };
        Ok::<_, Infallible>(Response::new(body))
    });
    let get = |path: &str| block_on(service.clone().oneshot(Request::get(path).body(()).unwrap())).unwrap().into_body();
    let (empty, full) = (get("/empty"), get("/"));
    assert!(empty.is_end_stream() && !full.is_end_stream());
    assert_eq!((empty.size_hint().exact(), full.size_hint().exact()), (Some(0), Some(5)));
    let full: http_body_util::combinators::BoxBody<Bytes, Infallible> = full.boxed();
    assert_eq!(SizeHint::exact(&full.size_hint()), Some(5));
}

/// The layer is inside and outside of the layers that services use.
#[test]
fn requests_are_counted_beside_other_layers_in_either_order() {
    const TEXT: usize = 4_000;
    let fixture = LayerFixture::start();
    let slow = async |request: Request<String>| {
        if request.uri() == "/slow" {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("x".repeat(TEXT)))))
    };
    let status = StatusCode::GATEWAY_TIMEOUT;
    let timeout = || TimeoutLayer::with_status_code(status, Duration::from_millis(50));
    let watch = || fixture.watchdog.layer();
    let request = |path: &str| Request::get(path).header("accept-encoding", "gzip").body(String::new()).unwrap();
    // The buffer spawns a task.
    let entered = fixture.runtime.enter();
    let outside = ServiceBuilder::new()
        .layer(watch())
        .buffer(8)
        .concurrency_limit(2)
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(timeout())
        .service_fn(slow);
    let inside = ServiceBuilder::new()
        .concurrency_limit(2)
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(timeout())
        .layer(watch())
        .service_fn(slow);
    drop(entered);
    fixture.runtime.block_on(async {
        for _ in 0..4 {
            let response = outside.clone().oneshot(request("/")).await.unwrap();
            assert_eq!(response.headers()["content-encoding"], "gzip");
            assert!(response.into_body().collect().await.unwrap().to_bytes().len() < TEXT);
            assert_eq!(inside.clone().oneshot(request("/")).await.unwrap().headers()["content-encoding"], "gzip");
        }
        assert_eq!(outside.clone().oneshot(request("/slow")).await.unwrap().status(), status);
        assert_eq!(inside.clone().oneshot(request("/slow")).await.unwrap().status(), status);
    });
    // The outer layer has observed the response of the time limit, the inner one the dropped
    // request.
    fixture.wait_requests("unmatched", &[("GET", "2xx", 8), ("GET", "5xx", 1), ("GET", "cancelled", 1)]);
}

/// tower's own time limit is an error for a layer outside of it, and a dropped request for one
/// inside.
#[test]
fn a_time_limit_that_is_an_error_is_counted() {
    let fixture = LayerFixture::start();
    let never = |_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>();
    let limit = Duration::from_millis(10);
    let outside = ServiceBuilder::new().layer(fixture.watchdog.layer()).timeout(limit).service_fn(never);
    let inside = ServiceBuilder::new().timeout(limit).layer(fixture.watchdog.layer()).service_fn(never);
    assert!(block_on(async { outside.oneshot(Request::new(())).await }).is_err());
    assert!(block_on(async { inside.oneshot(Request::new(())).await }).is_err());
    fixture.wait_requests("unmatched", &[("GET", "error", 1), ("GET", "cancelled", 1)]);
}
