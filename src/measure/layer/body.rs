//! The body of a response. A stream may block as well.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::ActiveRequest;

/// The file in which stacks show the poll of a body.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The body of a watched response: the unchanged inner body, each poll of which counts for the
    /// request's route.
    pub struct WatchBody<B> {
        #[pin]
        inner: Option<B>,
        request: Option<ActiveRequest>,
    }
}

/// An empty body of no request, for a middleware that answers by itself, as tower-http's time limit
/// does.
impl<B> Default for WatchBody<B> {
    fn default() -> Self {
        WatchBody { inner: None, request: None }
    }
}

impl<B> WatchBody<B> {
    pub(super) fn new(body: B, request: Option<ActiveRequest>) -> WatchBody<B> {
        WatchBody { inner: Some(body), request }
    }

    /// Returns the inner body, or `None` for an empty body that [`default`](Self::default) made.
    pub fn get_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// Returns the inner body, or `None` for an empty body that [`default`](Self::default) made.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// Returns the inner body, or `None` for an empty body that [`default`](Self::default) made.
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
        let _guard = this.request.as_mut().map(|request| request.enter(RequestPhase::Poll));
        body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
