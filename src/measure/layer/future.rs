//! The future of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::WatchBody;
use super::name::{Claim, is_grpc};
use crate::measure::counters::routes::Status;
use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::Request;
use crate::measure::gate::Pass;

/// Where a request's poll is, as stacks tell it.
pub(crate) const FILE: &str = file!();

pin_project! {
    /// The future of a watched response; made by [`WatchService`](super::WatchService).
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Inner<F>,
        pending: Pending,
        pass: Option<Pass>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<F> {
        Called { #[pin] future: F },
        /// The answer to a request that the service was not called for.
        TurnedAway { answer: Option<Response<()>> },
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(future: F, pending: Pending, pass: Option<Pass>) -> ResponseFuture<F> {
        ResponseFuture { inner: Inner::Called { future }, pending, pass }
    }

    pub(super) fn turned_away(answer: Response<()>, pending: Pending) -> ResponseFuture<F> {
        ResponseFuture { inner: Inner::TurnedAway { answer: Some(answer) }, pending, pass: None }
    }
}

/// A request whose response is waited for; counted when that is over.
pub(super) struct Pending {
    /// Until it has a response, whose body goes on with it.
    request: Option<Request>,
    method: u8,
    claim: Option<Claim>,
    end: End,
    is_polled: bool,
    /// Nanoseconds that the service's call took, if that is known.
    called: u32,
}

/// What it means if it is dropped now.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Dropped,
    Panicked,
    Counted,
}

impl Pending {
    pub(super) fn new(request: Request, method: u8, claim: Option<Claim>) -> Pending {
        // One layer within another: the outer one counts the request.
        let end = if request.is_within_its_route() { End::Counted } else { End::Dropped };
        Pending { request: Some(request), method, claim, end, is_polled: false, called: 0 }
    }

    /// Calls the service.
    pub(super) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let Pending { request, end, called, .. } = self;
        Pending::within(request, end, RequestPhase::Call(called), call)
    }

    /// Polls the response.
    fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        let Pending { request, end, is_polled, called, .. } = self;
        let part = if std::mem::replace(is_polled, true) { RequestPhase::Later } else { RequestPhase::First(*called) };
        Pending::within(request, end, part, poll)
    }

    fn within<'a, R>(
        request: &'a mut Option<Request>,
        end: &mut End,
        what: RequestPhase<'a>,
        part: impl FnOnce() -> R,
    ) -> R {
        let before = *end;
        let within = request.as_mut().map(|request| request.enter(what));
        if before == End::Dropped {
            // Stays so if it unwinds.
            *end = End::Panicked;
        }
        let result = part();
        drop(within);
        *end = before;
        result
    }

    fn count(&mut self, status: Status) {
        if self.end != End::Counted {
            self.end = End::Counted;
            if let Some(request) = &self.request {
                request.count(self.method.into(), status);
            }
        }
    }

    /// A service that answers to a name knows it.
    fn prove<B>(&mut self, response: &Response<B>) {
        let Some(claim) = self.claim.take() else { return };
        let is_unknown = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
            || response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == UNIMPLEMENTED)
            || claim.is_path && !is_grpc(response.headers());
        if let (false, Some(request)) = (is_unknown, &mut self.request) {
            request.prove(&claim.name);
        }
    }
}

/// gRPC's status of a method that there is not.
const UNIMPLEMENTED: &[u8] = b"12";

impl Drop for Pending {
    fn drop(&mut self) {
        match self.end {
            End::Counted => {}
            End::Dropped => self.count(Status::CANCELLED),
            End::Panicked => self.count(Status::PANICKED),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<WatchBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let pending = this.pending;
        let inner = match this.inner.project() {
            InnerProj::Called { future } => future,
            InnerProj::TurnedAway { answer } => {
                // Polled after it was ready.
                let Some(answer) = answer.take() else { return Poll::Pending };
                pending.count(Status::of_code(answer.status().as_u16()));
                return Poll::Ready(Ok(answer.map(|()| WatchBody::default())));
            }
        };
        let result = pending.poll(|| inner.poll(cx));
        // It did not block, or it has.
        *this.pass = None;
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                pending.count(Status::ERROR);
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(response)) => {
                pending.prove(&response);
                pending.count(Status::of_code(response.status().as_u16()));
                let request = pending.request.take();
                Poll::Ready(Ok(response.map(|body| WatchBody::new(body, request))))
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::primitives::route::Proof;
    use crate::measure::primitives::site::SiteId;
    use crate::measure::runtime::meter::Meter;
    use std::time::Duration;

    const LONG: Duration = Duration::from_millis(4);

    fn mean(route: &str, request: impl FnOnce(&mut Pending)) -> Duration {
        let meter = Meter::of(1_000_000_000, 10);
        let route = meter.routes.intern(route, Proof::Known);
        let request_of = || Request::new(&meter, SiteId::OTHER, route);
        request(&mut Pending::new(request_of(), 0, None));
        Duration::from_nanos(request_of().mean_poll())
    }

    fn body(pending: &mut Pending) {
        let mut request = pending.request.take().unwrap();
        (0..1_000).for_each(|_| drop(request.enter(RequestPhase::Later)));
    }

    /// What a request does at once is what its route is judged by, however long its body.
    #[test]
    fn a_body_of_many_frames_does_not_hide_a_blocking_handler() {
        let in_poll = mean("/poll", |pending| {
            pending.call(|| {});
            pending.poll(|| std::thread::sleep(LONG));
            (0..10).for_each(|_| pending.poll(|| {}));
            body(pending);
        });
        let in_call = mean("/call", |pending| {
            pending.call(|| std::thread::sleep(LONG));
            pending.poll(|| {});
            body(pending);
        });
        assert!(in_poll >= LONG && in_call >= LONG, "{in_poll:?} {in_call:?}");
    }

    /// Two layers that give it the same name, around one service: one request, and all that it did.
    #[test]
    fn a_request_below_two_layers_is_one() {
        let meter = Meter::of(1_000_000_000, 10);
        let route = meter.routes.intern("/twice", Proof::Known);
        let pending = || Pending::new(Request::new(&meter, SiteId::OTHER, route), 0, None);
        let mean = || Duration::from_nanos(Request::new(&meter, SiteId::OTHER, route).mean_poll());
        for _ in 0..8 {
            let (mut outer, mut inner) = (pending(), None);
            outer.call(|| inner.insert(pending()).call(|| std::thread::sleep(LONG / 4)));
            let mut inner = inner.unwrap();
            outer.poll(|| {
                std::thread::sleep(LONG / 4);
                inner.poll(|| std::thread::sleep(LONG / 2));
            });
            (0..100).for_each(|_| outer.poll(|| inner.poll(|| {})));
        }
        assert!(mean() >= LONG, "{:?}", mean());
        let before = mean();
        // What the inner one does for the first time when the outer one does not is not lost.
        for _ in 0..8 {
            let (mut outer, mut inner) = (pending(), None);
            outer.call(|| inner.insert(pending()).call(|| {}));
            let mut inner = inner.unwrap();
            outer.poll(|| {});
            outer.poll(|| inner.poll(|| std::thread::sleep(LONG)));
        }
        assert!(mean() >= before / 4, "{:?}", mean());
    }
}
