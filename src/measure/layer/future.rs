//! The future of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::WatchBody;
use super::name::{Claim, is_grpc};
use crate::measure::counters::routes::RequestStatus;
use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::ActiveRequest;

/// The file in which stacks show the poll of a response.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The future of a watched response; made by [`WatchService`](super::WatchService).
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        pending: Pending,
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, pending: Pending) -> ResponseFuture<F> {
        ResponseFuture { inner, pending }
    }
}

/// A request without a response yet. It is counted when it gets one, or when this is dropped.
pub(super) struct Pending {
    /// `None` once there is a response, whose body continues with the request.
    request: Option<ActiveRequest>,
    method: u8,
    claim: Option<Claim>,
    outcome: OutcomeOnDrop,
}

/// The outcome of a request that is dropped now.
#[derive(Clone, Copy, PartialEq)]
enum OutcomeOnDrop {
    Cancelled,
    Panicked,
    /// None: the request has been counted, or another layer counts it.
    Counted,
}

impl Pending {
    pub(super) fn new(request: ActiveRequest, method: u8, claim: Option<Claim>) -> Pending {
        // Of two nested layers the outer one counts the request.
        let outcome = if request.is_within_its_route() { OutcomeOnDrop::Counted } else { OutcomeOnDrop::Cancelled };
        Pending { request: Some(request), method, claim, outcome }
    }

    /// Calls the service.
    pub(super) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Call, call)
    }

    /// Polls the response.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Poll, poll)
    }

    fn within<R>(&mut self, phase: RequestPhase, run: impl FnOnce() -> R) -> R {
        let before = self.outcome;
        let guard = self.request.as_mut().map(|request| request.enter(phase));
        if before == OutcomeOnDrop::Cancelled {
            // Stays so if `run` unwinds.
            self.outcome = OutcomeOnDrop::Panicked;
        }
        let result = run();
        drop(guard);
        self.outcome = before;
        result
    }

    fn count(&mut self, status: RequestStatus) {
        if self.outcome != OutcomeOnDrop::Counted {
            self.outcome = OutcomeOnDrop::Counted;
            if let Some(request) = &self.request {
                request.count(self.method.into(), status);
            }
        }
    }

    /// Names the request by its claim, unless the response says that the service does not know it.
    fn prove<B>(&mut self, response: &Response<B>) {
        let Some(claim) = self.claim.take() else { return };
        let is_unknown = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
            || response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == UNIMPLEMENTED)
            || claim.is_path && !is_grpc(response.headers());
        if let (false, Some(request)) = (is_unknown, &mut self.request) {
            request.prove(&claim.name);
        }
    }
}

/// gRPC's status code of a method that the service does not have.
const UNIMPLEMENTED: &[u8] = b"12";

impl Drop for Pending {
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
        let (inner, pending) = (this.inner, this.pending);
        match pending.poll(|| inner.poll(cx)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                pending.count(RequestStatus::ERROR);
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(response)) => {
                pending.prove(&response);
                pending.count(RequestStatus::of_code(response.status().as_u16()));
                let request = pending.request.take();
                Poll::Ready(Ok(response.map(|body| WatchBody::new(body, request))))
            }
        }
    }
}
