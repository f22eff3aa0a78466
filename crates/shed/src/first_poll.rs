//! The measurement of how long a request blocks its worker before it waits for the first time.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::Permit;
use crate::routes::Route;

thread_local! {
    /// The route whose request is timed on this thread now; null for none.
    static TIMED: Cell<*const Route> = const { Cell::new(ptr::null()) };
}

/// The measurement of a request until its first poll has ended.
#[derive(Debug)]
pub(crate) struct FirstPoll {
    route: Arc<Route>,
    /// The duration of the service's call.
    called: Duration,
    _permit: Option<Permit>,
}

impl FirstPoll {
    /// Makes the measurement of a request, which holds the permit until its first poll has ended.
    pub(crate) fn new(route: Arc<Route>, permit: Option<Permit>) -> FirstPoll {
        FirstPoll { route, called: Duration::ZERO, _permit: permit }
    }

    /// Calls the service.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let (result, time) = self.time(call);
        self.called = time.unwrap_or_default();
        result
    }

    /// Polls the response for the first time, and gives the permit back: the request has blocked
    /// its worker, or it does not.
    pub(crate) fn poll<R>(self, poll: impl FnOnce() -> R) -> R {
        let (result, time) = self.time(poll);
        if let Some(time) = time {
            self.route.record_first_poll(self.called + time);
        }
        result
    }

    /// Runs `f`, and returns how long it took. The duration is `None` within the measurement of an
    /// outer layer, which contains it and counts the request.
    fn time<R>(&self, f: impl FnOnce() -> R) -> (R, Option<Duration>) {
        let route = Arc::as_ptr(&self.route);
        let guard = TimedGuard { outer: TIMED.replace(route) };
        let start = Instant::now();
        let result = f();
        (result, (guard.outer != route).then(|| start.elapsed()))
    }
}

/// Restores [`TIMED`], also when the service panics.
struct TimedGuard {
    outer: *const Route,
}

impl Drop for TimedGuard {
    fn drop(&mut self) {
        TIMED.set(self.outer);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::routes::Routes;
    use http::Request;
    use std::thread::sleep;

    const LONG: Duration = Duration::from_millis(4);

    fn route() -> Arc<Route> {
        Routes::new().of_request(&Request::new(()), Some("/"))
    }

    #[test]
    fn a_first_poll_is_measured_with_its_call() {
        for (call, poll) in [(LONG, Duration::ZERO), (Duration::ZERO, LONG)] {
            let route = route();
            let mut first = FirstPoll::new(route.clone(), None);
            first.call(|| sleep(call));
            first.poll(|| sleep(poll));
            assert!(route.mean_first_poll() >= LONG, "{:?}", route.mean_first_poll());
        }
    }

    /// Makes a request below two layers that share their routes.
    fn nested(route: &Arc<Route>, call: impl FnOnce()) -> [FirstPoll; 2] {
        let [mut outer, mut inner] = [(); 2].map(|()| FirstPoll::new(route.clone(), None));
        outer.call(|| inner.call(call));
        [outer, inner]
    }

    #[test]
    fn a_request_below_two_layers_counts_once() {
        let route = route();
        let mut shortest = Duration::MAX;
        for _ in 0..8 {
            let [outer, inner] = nested(&route, || {});
            outer.poll(|| {
                let start = Instant::now();
                sleep(LONG);
                inner.poll(|| sleep(LONG / 8));
                shortest = shortest.min(start.elapsed());
            });
        }
        // The mean of the outer layer alone: the inner one measures a small part of that.
        assert!(route.mean_first_poll() >= shortest, "{:?} of {shortest:?}", route.mean_first_poll());
    }

    /// A middleware between the layers waits before it calls the service.
    #[test]
    fn what_blocks_below_the_inner_layer_alone_counts() {
        let route = route();
        for _ in 0..8 {
            let [outer, inner] = nested(&route, || {});
            outer.poll(|| {});
            inner.poll(|| sleep(LONG));
        }
        assert!(route.mean_first_poll() >= LONG / 4, "{:?}", route.mean_first_poll());
    }

    #[test]
    fn a_panic_ends_the_measurement() {
        let route = route();
        let result = std::panic::catch_unwind({
            let route = route.clone();
            || FirstPoll::new(route, None).poll(|| panic!("on purpose"))
        });
        assert!(result.is_err());
        FirstPoll::new(route.clone(), None).poll(|| sleep(LONG));
        assert!(route.mean_first_poll() >= LONG);
    }
}
