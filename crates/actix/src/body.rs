//! The body of a response. A body that is a stream is polled after the response, and may block.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use pin_project_lite::pin_project;
use pollwatch::WatchedRequest;

pin_project! {
    /// The body of a watched response. It yields what the inner body yields, and each poll of it
    /// counts for the route of its request.
    pub struct WatchBody<B> {
        #[pin]
        inner: B,
        request: Option<WatchedRequest>,
    }
}

impl<B> WatchBody<B> {
    pub(crate) fn new(inner: B, request: Option<WatchedRequest>) -> WatchBody<B> {
        WatchBody { inner, request }
    }

    /// Returns the inner body, which is not watched any more.
    ///
    /// ```
    /// use actix_web::{App, HttpResponse, test, web};
    ///
    /// # actix_web::rt::System::new().block_on(async {
    /// # let watchdog = pollwatch::Watchdog::builder().start().unwrap();
    /// let app = App::new().wrap(pollwatch_actix::Watch::new(&watchdog));
    /// let app = test::init_service(app.route("/", web::get().to(HttpResponse::Ok))).await;
    /// let response = test::call_service(&app, test::TestRequest::get().to_request()).await;
    /// let body = response.into_body().into_inner();
    /// # drop(body);
    /// # });
    /// ```
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: fmt::Debug> fmt::Debug for WatchBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<B: MessageBody> MessageBody for WatchBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        let this = self.project();
        let inner = this.inner;
        match this.request {
            Some(request) => request.poll(|| inner.poll_next(cx)),
            None => inner.poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        let WatchBody { inner, request } = self;
        inner.try_into_bytes().map_err(|inner| WatchBody { inner, request })
    }
}
