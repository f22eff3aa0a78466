//! The service: names the request, calls the inner one.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as Cx, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::Pending;
use super::shed::Verdict;
use super::{Context, ResponseFuture, WatchBody, name};
use crate::measure::entry::request;

/// Where a request is handed on, as stacks tell it.
pub(crate) const FILE: &str = file!();

/// A service whose requests are watched; made by [`WatchLayer`](super::WatchLayer).
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
    context: Arc<Context>,
    /// Makes a service that is not ready of one that is, and was not called.
    renew: Option<fn(&S) -> S>,
}

impl<S> WatchService<S> {
    pub(super) fn new(inner: S, context: Context, renew: Option<fn(&S) -> S>) -> WatchService<S> {
        WatchService { inner, context: Arc::new(context), renew }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
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
        let name::Named { mut request, route, claim } = name::name(&self.context, request);
        let mut frame = request::Request::new(&self.context.meter, self.context.site, route);
        let verdict = match &self.context.turnstile {
            Some(turnstile) if turnstile.is_closed() => turnstile.judge(&mut request, route, &mut frame),
            _ => Verdict::LetIn(None),
        };
        let pass = match verdict {
            Verdict::LetIn(pass) => pass,
            Verdict::TurnedAway(answer) => {
                // It may hold a permit, and would until the next request.
                if let Some(renew) = self.renew {
                    self.inner = renew(&self.inner);
                }
                return ResponseFuture::turned_away(answer, Pending::new(frame, method, None));
            }
        };
        let mut pending = Pending::new(frame, method, claim);
        // Some do their work here, and not in the future.
        let inner = pending.call(|| self.inner.call(request));
        ResponseFuture::new(inner, pending, pass)
    }
}
