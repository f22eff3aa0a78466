//! The decision about each request while a runtime is late.

use std::sync::Arc;

use http::{Request, Response};
use pollwatch::Watchdog;

use crate::admission::{Admission, AdmissionControl};
use crate::config::Shed;
use crate::first_poll::FirstPoll;
use crate::log::call_user;
use crate::monitor;
use crate::response::Rejection;
use crate::routes::{Route, Routes};

/// The paths that report a service's health. Load balancers and orchestrators request them to find
/// out whether the service still answers.
const HEALTH: [&str; 5] = ["/health", "/healthz", "/livez", "/readyz", "/metrics"];
/// The path prefix of gRPC's health checking protocol.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The state that all services of one layer share.
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

/// An extension of requests that an outer layer has admitted while the runtime was overloaded, with
/// the control of that layer. The outer layer may have given the request the last permit of its
/// control. A layer with another control decides for itself.
#[derive(Clone)]
struct Admitted(Arc<AdmissionControl>);

impl Policy {
    /// Makes the policy of a layer, and monitors the watchdog's runtimes until it is dropped.
    pub(crate) fn new(shed: &Shed, watchdog: &Watchdog) -> Policy {
        let control = monitor::acquire_control(shed.watermarks(), watchdog.lag_source(), shed.log);
        Policy::with_control(shed, control)
    }

    /// Makes a policy that counts as one layer of the control until it is dropped.
    pub(crate) fn with_control(shed: &Shed, control: Arc<AdmissionControl>) -> Policy {
        Policy { control, shed: shed.clone(), rejection: shed.rejection() }
    }

    /// Decides about a request. Costs one relaxed load while no runtime is late.
    #[inline]
    pub(crate) fn judge<B>(&self, request: Request<B>) -> (Request<B>, Verdict) {
        if self.control.is_engaged() { self.judge_late(request) } else { (request, Verdict::Admitted(None)) }
    }

    #[cold]
    fn judge_late<B>(&self, request: Request<B>) -> (Request<B>, Verdict) {
        const UNMEASURED: Verdict = Verdict::Admitted(None);
        if self.allows_path(request.uri().path()) {
            return (request, UNMEASURED);
        }
        let Some(runtime) = self.control.current_runtime() else { return (request, UNMEASURED) };
        let (mut request, route) = self.route_of(request);
        if self.allows_route(&route) {
            return (request, UNMEASURED);
        }
        let outer = request.extensions().get::<Admitted>();
        if outer.is_some_and(|Admitted(control)| Arc::ptr_eq(control, &self.control)) {
            return (request, Verdict::Admitted(Some(FirstPoll::new(route, None))));
        }
        let permit = match self.control.admit(&runtime, route.mean_first_poll()) {
            Admission::NotOverloaded => None,
            Admission::Admitted(permit) => {
                request.extensions_mut().insert(Admitted(self.control.clone()));
                permit
            }
            Admission::Rejected => {
                route.count_rejected();
                runtime.count_rejected();
                let response = self.rejection.response(request.headers());
                return (request, Verdict::Rejected(response));
            }
        };
        (request, Verdict::Admitted(Some(FirstPoll::new(route, permit))))
    }

    fn route_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Route>) {
        let Some(route_by) = &self.shed.route_by else {
            let route = self.routes().of_request(&request, None);
            return (request, route);
        };
        let (parts, body) = request.into_parts();
        let mut given = None;
        call_user(|| given = route_by(&parts));
        let request = Request::from_parts(parts, body);
        let route = self.routes().of_request(&request, given.as_deref());
        (request, route)
    }

    fn allows_path(&self, path: &str) -> bool {
        self.shed.allowed.iter().any(|allowed| **allowed == *path)
            || self.shed.allow_health && (HEALTH.contains(&path) || path.starts_with(GRPC_HEALTH))
    }

    /// Returns whether the route is always admitted. The route `other` never is: it stands for all
    /// names beyond the limit, of which an allowed one is only one.
    fn allows_route(&self, route: &Arc<Route>) -> bool {
        !self.routes().is_other(route) && self.shed.allowed.contains(&route.name)
    }

    fn routes(&self) -> &Routes {
        &self.shed.routes
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.control.remove_layer();
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::testing::LateRuntime;
    use std::time::Duration;

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
    fn a_panic_while_naming_a_route_is_caught() {
        let policy = policy(Shed::new().route_by(|_| panic!("on purpose")));
        let (_, route) = policy.route_of(Request::new(()));
        assert_eq!(&*route.name, "unmatched");
    }

    #[test]
    fn two_nested_layers_take_one_permit() {
        let late = LateRuntime::new(2);
        let shed = LateRuntime::blocking_shed().route_by(|request| Some(request.uri.path().to_owned().into()));
        let policy = late.policy(&shed);
        let _entered = late.tokio.enter();
        let [blocking, short] = ["/blocking", "/short"].map(|name| {
            let route = policy.routes().of_request(&Request::new(()), Some(name));
            route.record_first_poll(if name == "/blocking" { Duration::MAX } else { Duration::from_nanos(1) });
            name
        });
        let request = |path: &str| Request::builder().uri(path).body(()).unwrap();
        let judge = |request| {
            late.set_level(LateRuntime::LOWEST);
            policy.judge(request)
        };
        let (first, verdict) = policy.judge(request(blocking));
        assert!(matches!(verdict, Verdict::Admitted(Some(_))), "the runtime is not overloaded");
        let (first, Verdict::Admitted(outer)) = judge(first) else { panic!("the permit is free") };
        let (_, Verdict::Admitted(inner)) = judge(first) else { panic!("the request has its permit") };
        assert!(matches!(judge(request(blocking)).1, Verdict::Rejected(_)));
        assert!(matches!(judge(request(short)).1, Verdict::Admitted(_)));
        drop(inner);
        assert!(matches!(judge(request(blocking)).1, Verdict::Rejected(_)), "the outer layer holds the permit");
        drop(outer);
        assert!(matches!(judge(request(blocking)).1, Verdict::Admitted(Some(_))));
        assert_eq!(late.runtime.rejected(), 2);
    }

    #[test]
    fn an_outer_layer_with_other_settings_does_not_decide_for_the_inner_one() {
        let late = LateRuntime::new(2);
        let tolerant = late.policy(&LateRuntime::blocking_shed());
        let strict = late.policy(&Shed::new().high(LateRuntime::LOWEST).log(false));
        let other_tolerant = late.policy(&LateRuntime::blocking_shed());
        let _entered = late.tokio.enter();
        let judge = |policy: &Policy, request| {
            late.set_level(Duration::from_secs(1));
            policy.judge(request)
        };
        let (request, Verdict::Admitted(_)) = judge(&tolerant, Request::new(())) else { panic!("it admits all") };
        let (request, Verdict::Rejected(_)) = judge(&strict, request) else { panic!("it rejects all") };
        // The mark of the latest layer counts.
        let (request, Verdict::Admitted(_)) = judge(&other_tolerant, request) else { panic!("it admits all") };
        let mark = request.extensions().get::<Admitted>().unwrap();
        assert!(Arc::ptr_eq(&mark.0, &other_tolerant.control));
    }
}
