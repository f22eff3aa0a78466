//! The tower layer, its service and its future.

mod future;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use future::ResponseFuture;

use crate::policy::{Policy, Verdict};

/// A tower layer that rejects requests while their runtime is overloaded, made by
/// [`Shed::layer`](crate::Shed::layer). [`Shed`](crate::Shed) describes when requests are rejected,
/// and which.
///
/// A rejected request does not reach the inner service. The layer's response has the default value
/// of the service's response body, which is empty in axum, tonic, http-body-util and hyper. The
/// body has to implement `Default`.
///
/// The inner service was ready for the rejected request. It may hold a resource for that request
/// until it is called or dropped, such as a permit of tower's `ConcurrencyLimit` or a slot of its
/// `Buffer`. The layer therefore replaces the service by a clone, which has to be ready again. The
/// service has to implement `Clone`; `tower::buffer::Buffer` makes such a service of any other.
///
/// The cost is one relaxed atomic load for each request while no runtime is
/// [late](crate::Shed#when-requests-are-rejected). While one is, the
/// layer looks up the route's name, reads the clock several times, and writes to shared counters.
///
/// ```
/// use axum::{Router, routing::get};
/// use pollwatch_shed::{Shed, ShedLayer};
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let layer: ShedLayer = Shed::new().layer(&watchdog);
/// // Clones of a layer share all of its state.
/// let public = Router::new().route("/orders", get(|| async { "orders" })).layer(layer.clone());
/// let admin = Router::new().route("/users", get(|| async { "users" })).layer(layer);
/// # drop::<[Router; 2]>([public, admin]);
/// # Ok::<(), pollwatch::Error>(())
/// ```
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

/// A service whose requests may be rejected, made by [`ShedLayer`].
#[derive(Clone)]
pub struct ShedService<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> ShedService<S> {
    /// Returns a reference to the inner service.
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, tower_layer::Layer};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let service = Shed::new().layer(&watchdog).layer("the inner service");
    /// assert_eq!(*service.get_ref(), "the inner service");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, tower_layer::Layer};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut service = Shed::new().layer(&watchdog).layer("the inner service");
    /// *service.get_mut() = "another service";
    /// assert_eq!(*service.get_ref(), "another service");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service without the layer.
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, tower_layer::Layer};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let service = Shed::new().layer(&watchdog).layer("the inner service");
    /// assert_eq!(service.into_inner(), "the inner service");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
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
    ResponseBody: Default,
{
    type Response = Response<ResponseBody>;
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
                // The service would keep its permit until the next request.
                self.inner = self.inner.clone();
                ResponseFuture::rejected(response)
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
