//! The service: names a request, and calls the inner service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as Cx, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::Pending;
use super::{Context, ResponseFuture, WatchBody, name};
use crate::measure::entry::request;

/// The file in which stacks show a request being passed to the inner service.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) const FILE: &str = file!();

/// A service whose requests are watched; made by [`WatchLayer`](super::WatchLayer).
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
    context: Arc<Context>,
}

impl<S> WatchService<S> {
    pub(super) fn new(inner: S, context: Context) -> WatchService<S> {
        WatchService { inner, context: Arc::new(context) }
    }

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

impl<S: fmt::Debug> fmt::Debug for WatchService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for WatchService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = Response<WatchBody<ResponseBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Cx<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> ResponseFuture<S::Future> {
        let method = name::method(request.method());
        let name::Named { request, route, claim } = name::name(&self.context, request);
        let frame = request::ActiveRequest::new(&self.context.meter, self.context.site, route);
        let mut pending = Pending::new(frame, method, claim);
        // Some services do their work in the call, not in the future.
        let inner = pending.call(|| self.inner.call(request));
        ResponseFuture::new(inner, pending)
    }
}
