//! The future of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::WatchBody;
use super::name::{UnconfirmedName, is_grpc};
use crate::measure::counters::routes::RequestStatus;
use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::ActiveRequest;

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

/// A request that has no response yet. It is counted when it gets one, or when this is dropped.
pub(super) struct UnansweredRequest {
    /// The request; `None` once there is a response, whose body owns it then.
    request: Option<ActiveRequest>,
    /// The index of the method in [`METHODS`](crate::measure::counters::routes::METHODS).
    method: u8,
    unconfirmed: Option<UnconfirmedName>,
    outcome: OutcomeOnDrop,
}

/// The outcome of a request if it were dropped now.
#[derive(Clone, Copy, PartialEq)]
enum OutcomeOnDrop {
    /// The request would be cancelled.
    Cancelled,
    /// The service is running, so that only a panic can drop the request.
    Panicked,
    /// Nothing would be counted: the request has been counted, or an outer layer counts it.
    Counted,
}

impl UnansweredRequest {
    pub(super) fn new(request: ActiveRequest, method: u8, unconfirmed: Option<UnconfirmedName>) -> UnansweredRequest {
        // Of two nested layers the outer one counts the request.
        let outcome = if request.is_within_its_route() { OutcomeOnDrop::Counted } else { OutcomeOnDrop::Cancelled };
        UnansweredRequest { request: Some(request), method, unconfirmed, outcome }
    }

    /// Calls the service.
    pub(super) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Call, call)
    }

    /// Polls the response.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Poll, poll)
    }

    /// Runs a phase of the request as a frame of its route.
    fn within<R>(&mut self, phase: RequestPhase, run: impl FnOnce() -> R) -> R {
        let before = self.outcome;
        let guard = self.request.as_mut().map(|request| request.enter(phase));
        if before == OutcomeOnDrop::Cancelled {
            // The outcome remains if `run` unwinds.
            self.outcome = OutcomeOnDrop::Panicked;
        }
        let result = run();
        drop(guard);
        self.outcome = before;
        result
    }

    /// Counts the request, unless that was done before or an outer layer does it.
    fn count(&mut self, status: RequestStatus) {
        if self.outcome != OutcomeOnDrop::Counted {
            self.outcome = OutcomeOnDrop::Counted;
            if let Some(request) = &self.request {
                request.count(self.method.into(), status);
            }
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
            request.confirm(&name.name);
        }
    }
}

/// gRPC's status code of a method that the service does not have.
const UNIMPLEMENTED: &[u8] = b"12";

impl Drop for UnansweredRequest {
    fn drop(&mut self) {
        match self.outcome {
            OutcomeOnDrop::Counted => {}
            OutcomeOnDrop::Cancelled => self.count(RequestStatus::CANCELLED),
            OutcomeOnDrop::Panicked => self.count(RequestStatus::PANICKED),
        }
    }
}

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
                unanswered.count(RequestStatus::ERROR);
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(response)) => {
                unanswered.confirm(&response);
                unanswered.count(RequestStatus::of_code(response.status().as_u16()));
                let request = unanswered.request.take();
                Poll::Ready(Ok(response.map(|body| WatchBody::new(body, request))))
            }
        }
    }
}
