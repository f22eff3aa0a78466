//! The future of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use crate::first_poll::FirstPoll;

pin_project! {
    /// The future of a response, made by [`ShedService`](super::ShedService).
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Inner<F>,
        first_poll: Option<FirstPoll>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<F> {
        Admitted { #[pin] future: F },
        /// The response to a request that did not reach the service, until it is returned.
        Rejected { response: Option<Response<()>> },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn admitted(future: F, first_poll: Option<FirstPoll>) -> ResponseFuture<F> {
        ResponseFuture { inner: Inner::Admitted { future }, first_poll }
    }

    pub(super) fn rejected(response: Response<()>) -> ResponseFuture<F> {
        ResponseFuture { inner: Inner::Rejected { response: Some(response) }, first_poll: None }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let future = match this.inner.project() {
            InnerProj::Admitted { future } => future,
            InnerProj::Rejected { response } => {
                // A future that is polled again after it was ready stays pending.
                let Some(response) = response.take() else { return Poll::Pending };
                return Poll::Ready(Ok(response.map(|()| B::default())));
            }
        };
        match this.first_poll.take() {
            None => future.poll(cx),
            Some(first_poll) => first_poll.poll(|| future.poll(cx)),
        }
    }
}
