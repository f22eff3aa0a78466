//! A service that was ready for a rejected request keeps no resource for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use pollwatch_shed::ShedLayer;
use tokio::sync::Semaphore;
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::fixture::{Busy, Fixture, all};
use test_support::TIMEOUT;

type Answer = Result<Response<Full<Bytes>>, Infallible>;

async fn answer(_: Request<()>) -> Answer {
    Ok(Response::new(Full::default()))
}

/// Asserts that a service that was ready for a rejected request keeps no resource for it, so that
/// another service can be ready.
async fn assert_releases<S>(layer: ShedLayer, inner: S)
where
    S: Service<Request<()>, Response = Response<Full<Bytes>>> + Clone,
    S::Error: std::fmt::Debug,
{
    let is_ready = |service: &mut S| match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
        Poll::Pending => false,
    };
    let (mut first, mut second) = (layer.layer(inner.clone()), inner);
    let start = Instant::now();
    loop {
        first.ready().await.unwrap();
        assert!(!is_ready(&mut second), "the permit is taken");
        // The clone replaces the service that was not ready, which is queued for the permit.
        second = second.clone();
        let response = first.call(Request::new(())).await.unwrap();
        let is_rejected = response.status() == 503;
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        if is_rejected {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "nothing is rejected");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(is_ready(&mut second), "rejected, and the permit is still taken");
}

#[test]
fn a_permit_is_released() {
    let fixture = Fixture::new(&all());
    let _busy = Busy::new(&fixture);
    let limited = ConcurrencyLimit::with_semaphore(service_fn(answer), Arc::new(Semaphore::new(1)));
    fixture.runtime.block_on(assert_releases(fixture.layer.clone(), limited));
}

#[test]
fn a_slot_of_a_buffer_is_released() {
    let fixture = Fixture::new(&all());
    let _busy = Busy::new(&fixture);
    fixture.runtime.block_on(async {
        assert_releases(fixture.layer.clone(), Buffer::new(service_fn(answer), 1)).await;
    });
}

/// Behind a buffer, one service serves all requests.
#[test]
fn requests_within_a_buffer_continue() {
    let fixture = Fixture::new(&all().allow("/in"));
    let busy = Busy::new(&fixture);
    let limited = ConcurrencyLimit::with_semaphore(service_fn(answer), Arc::new(Semaphore::new(1)));
    let service = fixture.layer.layer(limited.clone());
    fixture.runtime.block_on(async {
        let buffer = Buffer::new(service, 4);
        let ask = |path: &'static str| {
            let service = buffer.clone();
            async move { service.oneshot(Request::get(path).body(()).unwrap()).await.unwrap().status().as_u16() }
        };
        let start = Instant::now();
        while ask("/out").await != 503 {
            assert!(start.elapsed() < TIMEOUT, "nothing is rejected");
        }
        for _ in 0..20 {
            assert_eq!(ask("/in").await, 200);
            ask("/out").await;
        }
        // The buffer's worker may still be about to release the permit.
        drop(limited.clone().ready_oneshot().await.unwrap());
    });
    drop(busy);
}
