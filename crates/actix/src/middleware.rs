//! The middleware, its service, and the future of a response.

use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::{Error, HttpMessage};
use pin_project_lite::pin_project;
use pollwatch::{RequestWatcher, Watchdog, WatchedRequest};
use tokio::runtime::Handle;

use crate::WatchBody;

/// The prefix of the names of the workers' runtimes.
const RUNTIME: &str = "actix";

/// The middleware: `App::new().wrap(Watch::new(&watchdog))`, as the last `wrap` of the app.
///
/// It can also wrap a scope or a resource. A request that passes two of them is counted once, by
/// the outer one.
///
/// It does not keep the watchdog running. After the watchdog has stopped, requests are still
/// counted, but no further stall is found.
///
/// ```
/// use actix_web::{App, web};
/// use pollwatch_actix::Watch;
///
/// # async fn report() -> &'static str { "a report" }
/// let watchdog = pollwatch::Watchdog::builder().start()?;
/// let app = App::new().route("/report/{id}", web::get().to(report)).wrap(Watch::new(&watchdog));
/// # drop(app);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Watch {
    requests: RequestWatcher,
}

impl Watch {
    /// Makes the middleware for the requests of one watchdog. The location of the caller is the
    /// site of its polls.
    ///
    /// ```
    /// let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let watch = pollwatch_actix::Watch::new(&watchdog);
    /// # drop(watch);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[track_caller]
    pub fn new(watchdog: &Watchdog) -> Watch {
        Watch { requests: watchdog.request_watcher() }
    }
}

impl<S, B> Transform<S, ServiceRequest> for Watch
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<WatchBody<B>>;
    type Error = Error;
    type Transform = WatchMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    /// Runs once on each worker, when it starts.
    fn new_transform(&self, service: S) -> Self::Future {
        if let Ok(runtime) = Handle::try_current() {
            self.requests.attach(&runtime, RUNTIME);
        }
        ready(Ok(WatchMiddleware { service, requests: self.requests.clone() }))
    }
}

/// The service of [`Watch`] on one worker.
pub struct WatchMiddleware<S> {
    service: S,
    requests: RequestWatcher,
}

/// The watchers of the [`Watch`]es that a request has passed, in its extensions.
struct Passed {
    watcher: RequestWatcher,
    earlier: Option<Box<Passed>>,
}

impl Passed {
    fn contains(&self, watcher: &RequestWatcher) -> bool {
        let passed = std::iter::successors(Some(self), |passed| passed.earlier.as_deref());
        passed.into_iter().any(|passed| passed.watcher.has_same_watchdog(watcher))
    }
}

impl<S> WatchMiddleware<S> {
    /// Starts a request. Of several `Watch`es of one watchdog, only the outermost counts it: the
    /// others may know it by another name, because actix has routed it in the meantime.
    fn start(&self, request: &ServiceRequest, pattern: Option<&str>) -> WatchedRequest {
        let method = request.method().as_str();
        let mut extensions = request.extensions_mut();
        if extensions.get::<Passed>().is_some_and(|passed| passed.contains(&self.requests)) {
            return self.requests.start_inner(method, pattern);
        }
        let earlier = extensions.remove::<Passed>().map(Box::new);
        extensions.insert(Passed { watcher: self.requests.clone(), earlier });
        self.requests.start(method, pattern)
    }
}

impl<S> fmt::Debug for WatchMiddleware<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchMiddleware").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl<S, B> Service<ServiceRequest> for WatchMiddleware<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<WatchBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let pattern = request.match_pattern();
        let mut watched = self.start(&request, pattern.as_deref());
        // Some services work in the call, not in the future that they return.
        let inner = watched.call(|| self.service.call(request));
        ResponseFuture { inner, request: Some(watched), is_unmatched: pattern.is_none() }
    }
}

pin_project! {
    /// The future of a watched response; made by [`WatchMiddleware`].
    ///
    /// Each poll counts for the route of the request. A request is counted once, when the future
    /// returns, panics, or is dropped.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // `None` once there is a response, whose body owns it then.
        request: Option<WatchedRequest>,
        // Set if the path alone has matched no resource.
        is_unmatched: bool,
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody,
{
    type Output = Result<ServiceResponse<WatchBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let inner = this.inner;
        let result = match this.request {
            Some(request) => request.poll(|| inner.poll(cx)),
            None => inner.poll(cx),
        };
        let Poll::Ready(result) = result else { return Poll::Pending };
        let mut request = this.request.take();
        Poll::Ready(match result {
            Ok(response) => {
                if let Some(request) = &mut request {
                    // A router that goes by guards may have found what the path alone did not.
                    if *this.is_unmatched
                        && let Some(pattern) = response.request().match_pattern()
                    {
                        request.set_route(&pattern);
                    }
                    request.respond(response.status().as_u16());
                }
                Ok(response.map_body(|_, body| WatchBody::new(body, request)))
            }
            Err(error) => {
                if let Some(request) = &mut request {
                    // actix answers with the response of the error.
                    request.respond(error.error_response().status().as_u16());
                }
                Err(error)
            }
        })
    }
}
