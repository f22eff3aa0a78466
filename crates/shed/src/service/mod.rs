//! The tower layer: its service, future and body.

mod body;
mod future;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use body::ShedBody;
pub use future::ResponseFuture;

use crate::policy::{Policy, Verdict};

/// A tower layer that rejects requests while their runtime is overloaded; made by
/// [`Shed::layer`](crate::Shed::layer). [`Shed`](crate::Shed) says when, and which.
///
/// A rejected request does not reach the inner service. That service was ready for it, and may hold
/// something for it until it is called or dropped, such as a permit of tower's `ConcurrencyLimit` or
/// a slot of its `Buffer`. It is therefore replaced by a clone of itself, so it has to be `Clone`;
/// `tower::buffer::Buffer` makes a service that is.
///
/// Cost: one relaxed atomic load for each request while no runtime is late. Then the route's name,
/// two readings of the clock and some shared counters.
#[derive(Clone)]
pub struct ShedLayer {
    policy: Arc<Policy>,
}

impl ShedLayer {
    pub(crate) fn new(policy: Policy) -> ShedLayer {
        ShedLayer { policy: Arc::new(policy) }
    }
}

impl fmt::Debug for ShedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShedLayer").finish_non_exhaustive()
    }
}

impl<S: Clone> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> ShedService<S> {
        ShedService { inner, policy: self.policy.clone() }
    }
}

/// A service whose requests may be rejected; made by [`ShedLayer`].
#[derive(Clone)]
pub struct ShedService<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> ShedService<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for ShedService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShedService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for ShedService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Clone,
{
    type Response = Response<ShedBody<ResponseBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> ResponseFuture<S::Future> {
        match self.policy.judge(request) {
            (request, Verdict::Admitted(None)) => ResponseFuture::admitted(self.inner.call(request), None),
            (request, Verdict::Admitted(Some(mut first_poll))) => {
                let future = first_poll.call(|| self.inner.call(request));
                ResponseFuture::admitted(future, Some(first_poll))
            }
            (_, Verdict::Rejected(response)) => {
                // The service may hold a permit, and would until the next request.
                self.inner = self.inner.clone();
                ResponseFuture::rejected(response)
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
