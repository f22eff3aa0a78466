//! The body of a response. A body that is a stream is polled like the response, and may block.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::measure::entry::watched_request::WatchedRequest;

/// The source file of the function that polls a body, as captured stacks name it.
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The body of a watched response. It yields what the inner body yields, and each poll of it
    /// counts for the route of its request, on the thread that polls.
    ///
    /// Cost: two readings of the clock for each poll, as for those of the response.
    pub struct WatchBody<B> {
        #[pin]
        inner: Option<B>,
        request: Option<WatchedRequest>,
    }
}

/// An empty body that belongs to no request. Middleware that responds without calling the service
/// makes one, such as tower-http's `Timeout`.
impl<B> Default for WatchBody<B> {
    fn default() -> Self {
        WatchBody { inner: None, request: None }
    }
}

impl<B> WatchBody<B> {
    pub(super) fn new(body: B, request: Option<WatchedRequest>) -> WatchBody<B> {
        WatchBody { inner: Some(body), request }
    }

    /// Returns the inner body. An empty body that [`default`](Self::default) made has none.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use http::{Request, Response};
    /// # use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let hello = service_fn(|_: Request<()>| async {
    /// #     Ok::<_, Infallible>(Response::new(String::from("hello")))
    /// # });
    /// # let service = ServiceBuilder::new().layer(watchdog.layer()).service(hello);
    /// # futures_executor::block_on(async {
    /// let response = service.oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.body().get_ref().unwrap(), "hello");
    /// # });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// Returns the inner body, to change it. An empty body that [`default`](Self::default) made has
    /// none.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use http::{Request, Response};
    /// # use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let hello = service_fn(|_: Request<()>| async {
    /// #     Ok::<_, Infallible>(Response::new(String::from("hello")))
    /// # });
    /// # let service = ServiceBuilder::new().layer(watchdog.layer()).service(hello);
    /// # futures_executor::block_on(async {
    /// let mut response = service.oneshot(Request::new(())).await.unwrap();
    /// response.body_mut().get_mut().unwrap().push('!');
    /// assert_eq!(response.body().get_ref().unwrap(), "hello!");
    /// # });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// Returns the inner body, which is not watched any more. An empty body that
    /// [`default`](Self::default) made has none.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use http::{Request, Response};
    /// # use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let hello = service_fn(|_: Request<()>| async {
    /// #     Ok::<_, Infallible>(Response::new(String::from("hello")))
    /// # });
    /// # let service = ServiceBuilder::new().layer(watchdog.layer()).service(hello);
    /// # futures_executor::block_on(async {
    /// let response = service.oneshot(Request::new(())).await.unwrap();
    /// assert_eq!(response.into_body().into_inner().unwrap(), "hello");
    /// # });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn into_inner(self) -> Option<B> {
        self.inner
    }
}

impl<B: fmt::Debug> fmt::Debug for WatchBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<B: Body> Body for WatchBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
        match this.request {
            Some(request) => request.poll(|| body.poll_frame(cx)),
            None => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
