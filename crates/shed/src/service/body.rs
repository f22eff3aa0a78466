//! The body of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of the inner service's response, or the empty body of a rejection.
    pub struct ShedBody<B> {
        #[pin]
        inner: Option<B>,
    }
}

/// The empty body, for a middleware that answers by itself.
impl<B> Default for ShedBody<B> {
    fn default() -> Self {
        ShedBody { inner: None }
    }
}

impl<B> ShedBody<B> {
    pub(super) fn new(body: B) -> ShedBody<B> {
        ShedBody { inner: Some(body) }
    }

    /// Returns the inner service's body, or `None` for the empty body of a rejection.
    pub fn get_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// Returns the inner service's body, or `None` for the empty body of a rejection.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// Returns the inner service's body, or `None` for the empty body of a rejection.
    pub fn into_inner(self) -> Option<B> {
        self.inner
    }
}

impl<B: fmt::Debug> fmt::Debug for ShedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShedBody").field("inner", &self.inner).finish()
    }
}

impl<B: Body> Body for ShedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.as_pin_mut().map_or(Poll::Ready(None), |body| body.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
