use super::*;
use crate::testing::LateRuntime;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::Waker;
use std::thread::sleep;
use std::time::Duration;
use tower::service_fn;

const LONG: Duration = Duration::from_millis(4);

/// A body of some frames.
#[derive(Default)]
struct Frames(usize);

impl Body for Frames {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
        let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
        self.0 = left;
        Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::new()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Makes a request to the service, and reads the response to its end. Returns the status and the
/// number of frames.
fn request<S, B>(service: &mut S) -> (u16, usize)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut response = Box::pin(service.call(Request::new(())));
    let response = loop {
        if let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut cx) {
            break response;
        }
    };
    let (head, body) = response.into_parts();
    let mut body = Box::pin(body);
    let frames = std::iter::from_fn(|| match body.as_mut().poll_frame(&mut cx) {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("no frame waits"),
    });
    (head.status.as_u16(), frames.count())
}

#[test]
fn a_body_of_many_frames_hides_no_blocking_handler() {
    let late = LateRuntime::new(2);
    let _entered = late.tokio.enter();
    let shed = LateRuntime::blocking_shed();
    let layer = ShedLayer::new(late.policy(&shed));
    let mut service = layer.layer(service_fn(async |_: Request<()>| {
        sleep(LONG);
        // Later polls are short as well.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        Ok::<_, Infallible>(Response::new(Frames(1_000)))
    }));
    for _ in 0..4 {
        assert_eq!(request(&mut service), (200, 1_000));
    }
    let mean = shed.routes.of_request(&Request::new(()), None).mean_first_poll();
    assert!(mean >= LONG, "{mean:?}");
}

/// The inner layer rejects no request that the outer one has given the last permit, and counts none
/// for a second time.
#[test]
fn requests_below_two_layers_are_judged_once() {
    let late = LateRuntime::new(2);
    let _entered = late.tokio.enter();
    let shed = LateRuntime::blocking_shed();
    let route = shed.routes.of_request(&Request::new(()), None);
    let layer = ShedLayer::new(late.policy(&shed));
    let handler = service_fn(async |_: Request<()>| {
        sleep(LONG);
        Ok::<_, Infallible>(Response::new(Frames(0)))
    });
    let mut service = layer.layer(layer.layer(handler));
    for _ in 0..8 {
        assert_eq!(request(&mut service), (200, 0));
    }
    let mean = route.mean_first_poll();
    assert!(mean >= LONG, "{mean:?}");
    route.record_first_poll(Duration::MAX);
    late.set_level(LateRuntime::LOWEST);
    assert_eq!(request(&mut service), (200, 0));
    late.set_level(LateRuntime::LOWEST);
    let first = service.call(Request::new(()));
    assert_eq!(request(&mut service.clone()), (503, 0), "the first request has the permit");
    drop(first);
    assert_eq!((late.runtime.rejected(), request(&mut service)), (1, (200, 0)));
}
