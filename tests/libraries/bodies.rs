//! Situations of response bodies that a layer computes.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use pollwatch::Cause;
use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tower::ServiceExt;
use tower_http::compression::Compression;

use crate::fixture::{Expected, Situation, check};

/// A body that has data without end.
struct Endless(Bytes);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
    }
}

/// Polls like a server that writes a response faster than its layer compresses it.
#[inline(never)]
fn reads_a_body(
    body: &mut (dyn Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Unpin),
    stop: &AtomicBool,
) {
    let mut context = Context::from_waker(Waker::noop());
    while !stop.load(Ordering::Relaxed) {
        assert!(pin!(body.frame()).poll(&mut context).is_ready());
    }
}

fn compressed() -> impl Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Unpin {
    let text: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let text = Bytes::from(text);
    let service = tower::service_fn(move |_: Request<Empty<Bytes>>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Endless(text.clone()))))
    });
    let request = Request::builder().header(header::ACCEPT_ENCODING, "gzip").body(Empty::new()).unwrap();
    let mut response = Box::pin(Compression::new(service).oneshot(request));
    match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(response) => response.unwrap().into_body().map_err(|error| error.to_string().into()).boxed_unsync(),
        Poll::Pending => unreachable!("the service is ready"),
    }
}

/// Reads a stream that is compressed on the way.
#[inline(never)]
fn reads_a_stream(stream: &mut (dyn AsyncRead + Unpin), stop: &AtomicBool) {
    let mut context = Context::from_waker(Waker::noop());
    let mut bytes = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let read = poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut bytes)));
        // The source counts against the budget of the task's poll, and would be pending after it.
        assert!(pin!(tokio::task::unconstrained(read)).poll(&mut context).is_ready());
    }
}

#[test]
fn a_stream_that_is_compressed_is_diagnosed() {
    let (reason, advice, function) = ("compressing a stream", "async_compression::Level", "bodies::reads_a_stream");
    check(Expected { cause: Cause::Cpu, syscalls: &[], reason, advice, function }, || {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let block = move || {
            let source = BufReader::with_capacity(1 << 20, tokio::io::repeat(7));
            reads_a_stream(&mut GzipEncoder::new(source), &seen);
        };
        Situation::new(block, move || stop.store(true, Ordering::Relaxed))
    });
}

#[test]
fn a_body_that_a_layer_compresses_is_diagnosed() {
    let (reason, advice) = ("compressing a response body in a layer", "the layer's level");
    let function = "bodies::reads_a_body";
    check(Expected { cause: Cause::Cpu, syscalls: &[], reason, advice, function }, || {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut body, seen) = (compressed(), stop.clone());
        Situation::new(move || reads_a_body(&mut body, &seen), move || stop.store(true, Ordering::Relaxed))
    });
}
