//! The future of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::WatchBody;
use super::name::{UnconfirmedName, is_grpc};
use crate::measure::entry::watched_request::WatchedRequest;

/// The source file of the function that polls a response, as captured stacks name it.
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The future of a watched response; made by [`WatchService`](super::WatchService).
    ///
    /// Each poll counts for the route of the request, on the thread that polls. A request is
    /// counted once, when the future returns its response, returns an error, panics, or is dropped.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        unanswered: UnansweredRequest,
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, unanswered: UnansweredRequest) -> ResponseFuture<F> {
        ResponseFuture { inner, unanswered }
    }
}

/// A request that has no response yet.
pub(super) struct UnansweredRequest {
    /// The request; `None` once there is a response, whose body owns it then, and where no
    /// watchdog measures it.
    request: Option<WatchedRequest>,
    unconfirmed: Option<UnconfirmedName>,
}

impl UnansweredRequest {
    pub(super) fn new(request: WatchedRequest, unconfirmed: Option<UnconfirmedName>) -> UnansweredRequest {
        UnansweredRequest { request: Some(request), unconfirmed }
    }

    /// Returns the state of a request that no watchdog measures.
    pub(super) fn unwatched() -> UnansweredRequest {
        UnansweredRequest { request: None, unconfirmed: None }
    }

    /// Calls the service.
    pub(super) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        match &mut self.request {
            Some(request) => request.call(call),
            None => call(),
        }
    }

    /// Polls the response.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        match &mut self.request {
            Some(request) => request.poll(poll),
            None => poll(),
        }
    }

    /// Names the request by its unconfirmed name, unless the response shows that the service does
    /// not know that name.
    fn confirm<B>(&mut self, response: &Response<B>) {
        let Some(name) = self.unconfirmed.take() else { return };
        let is_unknown = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
            || response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == UNIMPLEMENTED)
            || name.is_grpc_path && !is_grpc(response.headers());
        if let (false, Some(request)) = (is_unknown, &mut self.request) {
            request.set_route(&name.name);
        }
    }
}

/// gRPC's status code of a method that the service does not have.
const UNIMPLEMENTED: &[u8] = b"12";

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<WatchBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (inner, unanswered) = (this.inner, this.unanswered);
        match unanswered.poll(|| inner.poll(cx)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                if let Some(request) = &mut unanswered.request {
                    request.fail();
                }
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(response)) => {
                unanswered.confirm(&response);
                let mut request = unanswered.request.take();
                if let Some(request) = &mut request {
                    // A request that is not found has no route that the layer could know.
                    if response.status() != StatusCode::NOT_FOUND {
                        request.count_unnamed();
                    }
                    request.respond(response.status().as_u16());
                }
                Poll::Ready(Ok(response.map(|body| WatchBody::new(body, request))))
            }
        }
    }
}
