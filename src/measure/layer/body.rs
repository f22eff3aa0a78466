//! The body of a response: streams block, too.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::Request;

/// Where a body's poll is, as stacks tell it.
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The body of a watched response: the inner one as it is, each poll of it a part of the request.
    pub struct WatchBody<B> {
        #[pin]
        inner: Inner<B>,
        request: Option<Request>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<B> {
        Body { #[pin] body: B },
        /// Of an answer that is not the service's.
        Empty,
    }
}

/// An empty body of no request: what a middleware answers by itself (tower-http's time limit) has to be of some type.
impl<B> Default for WatchBody<B> {
    fn default() -> Self {
        WatchBody { inner: Inner::Empty, request: None }
    }
}

impl<B> WatchBody<B> {
    pub(super) fn new(body: B, request: Option<Request>) -> WatchBody<B> {
        WatchBody { inner: Inner::Body { body }, request }
    }

    /// The inner body; `None` where the answer is not its service's: the request was [turned away](super::WatchLayer::shed).
    pub fn get_ref(&self) -> Option<&B> {
        match &self.inner {
            Inner::Body { body } => Some(body),
            Inner::Empty => None,
        }
    }

    /// The inner body; `None` where the answer is not its service's: the request was [turned away](super::WatchLayer::shed).
    pub fn get_mut(&mut self) -> Option<&mut B> {
        match &mut self.inner {
            Inner::Body { body } => Some(body),
            Inner::Empty => None,
        }
    }

    /// The inner body; `None` where the answer is not its service's: the request was [turned away](super::WatchLayer::shed).
    pub fn into_inner(self) -> Option<B> {
        match self.inner {
            Inner::Body { body } => Some(body),
            Inner::Empty => None,
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for WatchBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchBody").field("inner", &self.get_ref()).finish_non_exhaustive()
    }
}

impl<B: Body> Body for WatchBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        match this.inner.project() {
            InnerProj::Body { body } => {
                let _within = this.request.as_mut().map(|request| request.enter(RequestPhase::Later));
                body.poll_frame(cx)
            }
            InnerProj::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.get_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.get_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
