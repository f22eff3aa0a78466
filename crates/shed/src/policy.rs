//! What becomes of a request while a runtime is late.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use pollwatch::Watchdog;

use crate::admission::{Admission, AdmissionControl, Permit};
use crate::config::Shed;
use crate::monitor;
use crate::response::Rejection;
use crate::routes::{Route, Routes};

/// The paths that report a service's health. Whoever asks wants to know it now.
const HEALTH: [&str; 5] = ["/health", "/healthz", "/livez", "/readyz", "/metrics"];
/// The path prefix of gRPC's protocol for the same.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// What the services of one layer share. The monitor thread ends with it.
pub(crate) struct Policy {
    control: Arc<AdmissionControl>,
    shed: Shed,
    rejection: Rejection,
}

/// The decision about a request.
pub(crate) enum Verdict {
    Admitted(Option<FirstPoll>),
    Rejected(Response<()>),
}

/// An extension of requests that an outer layer has admitted, and may have given the last permit.
#[derive(Clone, Copy)]
struct Admitted;

/// The measurement of a request until its first poll has ended.
#[derive(Debug)]
pub(crate) struct FirstPoll {
    route: Arc<Route>,
    /// How long the service's call took.
    called: Duration,
    _permit: Option<Permit>,
}

impl FirstPoll {
    /// Calls the service.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = call();
        self.called = start.elapsed();
        result
    }

    /// Polls the response for the first time, and gives the permit back: the request has blocked its
    /// worker, or it does not.
    pub(crate) fn poll<R>(self, poll: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = poll();
        self.route.record_first_poll(self.called + start.elapsed());
        result
    }
}

impl Policy {
    pub(crate) fn new(shed: &Shed, watchdog: &Watchdog) -> Policy {
        let control = Arc::new(AdmissionControl::new(shed.watermarks(), watchdog.lag_source()));
        monitor::start(&control, shed.log);
        Policy { control, shed: shed.clone(), rejection: shed.rejection() }
    }

    /// Decides about a request. One relaxed load while no runtime is late.
    #[inline]
    pub(crate) fn judge<B>(&self, request: Request<B>) -> (Request<B>, Verdict) {
        if self.control.is_engaged() { self.judge_late(request) } else { (request, Verdict::Admitted(None)) }
    }

    #[cold]
    fn judge_late<B>(&self, mut request: Request<B>) -> (Request<B>, Verdict) {
        const ADMITTED: Verdict = Verdict::Admitted(None);
        if request.extensions().get::<Admitted>().is_some() || self.allows_path(request.uri().path()) {
            return (request, ADMITTED);
        }
        let Some(runtime) = self.control.current_runtime() else { return (request, ADMITTED) };
        let route;
        (request, route) = self.route_of(request);
        if self.allows_route(&route) {
            return (request, ADMITTED);
        }
        let permit = match self.control.admit(&runtime, route.mean_first_poll()) {
            Admission::NotOverloaded => None,
            Admission::Admitted(permit) => {
                request.extensions_mut().insert(Admitted);
                permit
            }
            Admission::Rejected => {
                route.count_rejected();
                runtime.count_rejected();
                let response = self.rejection.response(request.headers());
                return (request, Verdict::Rejected(response));
            }
        };
        let first_poll = FirstPoll { route, called: Duration::ZERO, _permit: permit };
        (request, Verdict::Admitted(Some(first_poll)))
    }

    fn route_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Route>) {
        let Some(route_by) = &self.shed.route_by else {
            let route = self.routes().of_request(&request, None);
            return (request, route);
        };
        let (parts, body) = request.into_parts();
        let given = catch_unwind(AssertUnwindSafe(|| route_by(&parts))).ok().flatten();
        let request = Request::from_parts(parts, body);
        let route = self.routes().of_request(&request, given.as_deref());
        (request, route)
    }

    fn allows_path(&self, path: &str) -> bool {
        self.shed.allowed.iter().any(|allowed| **allowed == *path)
            || self.shed.allow_health && (HEALTH.contains(&path) || path.starts_with(GRPC_HEALTH))
    }

    /// A name that did not fit stands for many, of which the allowed one would be one.
    fn allows_route(&self, route: &Arc<Route>) -> bool {
        !self.routes().is_other(route) && self.shed.allowed.contains(&route.name)
    }

    fn routes(&self) -> &Routes {
        &self.shed.routes
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.control.stop();
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn policy(shed: Shed) -> Policy {
        Policy::new(&shed, &Watchdog::builder().log(false).start().unwrap())
    }

    #[test]
    fn health_and_allowed_routes_are_admitted() {
        let policy_of = policy(Shed::new().allow("/orders/{id}").allow("/ping"));
        let route = |name: &str| policy_of.routes().of_request(&Request::new(()), Some(name));
        assert!(policy_of.allows_route(&route("/orders/{id}")) && !policy_of.allows_route(&route("/orders")));
        for path in ["/ping", "/healthz", "/readyz", "/metrics", "/grpc.health.v1.Health/Check"] {
            assert!(policy_of.allows_path(path), "{path}");
        }
        assert!(!policy_of.allows_path("/healthz/x") && !policy_of.allows_path("/"));
        assert!(!policy(Shed::new().allow_health(false)).allows_path("/healthz"));
    }

    #[test]
    fn a_name_beyond_the_limit_does_not_allow_all_of_them() {
        let policy = policy(Shed::new().allow("/late").allow("other"));
        let route = |name: &str| policy.routes().of_request(&Request::new(()), Some(name));
        (0..crate::routes::MAX_ROUTES).for_each(|i| drop(route(&i.to_string())));
        assert!(policy.routes().is_other(&route("/late")) && !policy.allows_route(&route("/late")));
        assert!(policy.allows_path("/late"));
    }

    #[test]
    fn a_first_poll_is_measured_with_its_call() {
        const LONG: Duration = Duration::from_millis(4);
        let routes = Routes::new();
        for (name, call, poll) in [("/call", LONG, Duration::ZERO), ("/poll", Duration::ZERO, LONG)] {
            let route = routes.of_request(&Request::new(()), Some(name));
            let mut first = FirstPoll { route: route.clone(), called: Duration::ZERO, _permit: None };
            first.call(|| std::thread::sleep(call));
            first.poll(|| std::thread::sleep(poll));
            assert!(route.mean_first_poll() >= LONG, "{name}: {:?}", route.mean_first_poll());
        }
    }

    #[test]
    fn a_panic_while_naming_a_route_is_caught() {
        let policy = policy(Shed::new().route_by(|_| panic!("on purpose")));
        let (_, route) = policy.route_of(Request::new(()));
        assert_eq!(&*route.name, "unmatched");
    }
}
