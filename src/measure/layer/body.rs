//! The body of a response: streams block, too.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::measure::route::frame::Request;

/// Where a body's poll is, as stacks tell it.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The body of a watched response: the inner one as it is, each poll of it a part of the request.
    pub struct WatchBody<B> {
        #[pin]
        inner: B,
        request: Option<Request>,
    }
}

/// An empty body of no request: what a middleware answers by itself (tower-http's time limit) has to be of some type.
impl<B: Default> Default for WatchBody<B> {
    fn default() -> Self {
        WatchBody { inner: B::default(), request: None }
    }
}

impl<B> WatchBody<B> {
    pub(super) fn new(inner: B, request: Request) -> WatchBody<B> {
        WatchBody { inner, request: Some(request) }
    }

    /// The inner body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }

    /// The inner body.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// The inner body.
    pub fn into_inner(self) -> B {
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
        let _within = this.request.as_mut().map(Request::enter);
        this.inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
