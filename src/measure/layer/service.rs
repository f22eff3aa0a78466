//! The service, which names the route of a request and calls the inner service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::UnansweredRequest;
use super::name::NamedRequest;
use super::{LayerContext, LayerWatcher, ResponseFuture, WatchBody, name};
use crate::measure::entry::unwatched;
use crate::measure::entry::watched_request::RequestWatcher;

/// The source file of the function that calls the inner service, as captured stacks name it.
pub(crate) const FILE: &str = file!();

/// A service whose requests are watched; made by [`WatchLayer`](super::WatchLayer).
///
/// It is ready whenever the inner service is, and changes neither requests nor responses. Only the
/// types of the response's future and body differ.
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
    context: Arc<LayerContext>,
}

impl<S> WatchService<S> {
    pub(super) fn new(inner: S, context: LayerContext) -> WatchService<S> {
        WatchService { inner, context: Arc::new(context) }
    }

    /// Returns the inner service.
    ///
    /// ```
    /// use tower::Layer;
    ///
    /// struct Greeter {
    ///     greeting: &'static str,
    /// }
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let service = watchdog.layer().layer(Greeter { greeting: "hello" });
    /// assert_eq!(service.get_ref().greeting, "hello");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, to change it. Clones of this service are not changed.
    ///
    /// ```
    /// use tower::Layer;
    ///
    /// struct Greeter {
    ///     greeting: &'static str,
    /// }
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut service = watchdog.layer().layer(Greeter { greeting: "hello" });
    /// service.get_mut().greeting = "good morning";
    /// assert_eq!(service.get_ref().greeting, "good morning");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, whose requests are not watched.
    ///
    /// ```
    /// use tower::Layer;
    ///
    /// struct Greeter {
    ///     greeting: &'static str,
    /// }
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let service = watchdog.layer().layer(Greeter { greeting: "hello" });
    /// assert_eq!(service.into_inner().greeting, "hello");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> ResponseFuture<S::Future> {
        let current;
        let watcher = match &self.context.watcher {
            LayerWatcher::Fixed(fixed) => Some(fixed),
            LayerWatcher::Current { location } => {
                current = RequestWatcher::of_current(location);
                if current.is_none() {
                    unwatched::passed(location);
                }
                current.as_ref()
            }
        };
        let Some(watcher) = watcher else {
            return ResponseFuture::new(self.inner.call(request), UnansweredRequest::unwatched());
        };
        let NamedRequest { request, route, unconfirmed } =
            name::name_request(watcher.meter(), self.context.route_by.as_ref(), request);
        let watched = watcher.start_with(request.method().as_str(), route);
        let mut unanswered = UnansweredRequest::new(watched, unconfirmed);
        // Some services do their work in the call, not in the future that they return.
        let inner = unanswered.call(|| self.inner.call(request));
        ResponseFuture::new(inner, unanswered)
    }
}
