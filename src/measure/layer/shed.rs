//! Load shedding: requests are turned away while their runtime is late.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower_layer::Layer;

use super::name::is_grpc;
use super::{WatchLayer, WatchService};
use crate::measure::entry::request;
use crate::measure::gate::{Gate, Marks, Pass};
use crate::measure::primitives::route::{Proof, RouteId};
use crate::measure::runtime::meter::Meter;

/// How requests are turned away while their runtime is late; for [`WatchLayer::shed`].
///
/// # When
///
/// A runtime is late when a task that is ready to run waits long for its poll. A task of pollwatch's own measures that, which the
/// watchdog wakes each 20 ms while the runtime polls: it waits in the queue that all workers share, then in that of one worker,
/// behind all that is there. The lag is that of the whole runtime: a blocked worker beside an idle one is none.
///
/// It begins when the lag was above the [high mark](Self::high) each time it was measured for [some time](Self::sustain): one
/// long poll does not begin it. It ends when the lag is below the [low mark](Self::low). Meanwhile a lag counts for half 500 ms
/// after it was measured: turning requests away makes it vanish, and all at once let in again would bring it back. Requests that
/// are turned away for want of room (below) keep it from ending for two seconds in all.
///
/// # Who
///
/// While it lasts, requests are turned away
///
/// - at random, with the probability (lag - high) / high: none at the high mark, all at twice the high mark;
/// - those of blocking routes (whose latest polls took an eighth of the high mark or longer on average) while such requests are in their first poll on
///   all workers but one: one worker is left for the others. What blocks after its first `.await` is not held back by this, and a
///   current-thread runtime has only its lag.
///
/// They are answered `503 Service Unavailable` with `Retry-After`, gRPC requests `UNAVAILABLE` with `grpc-retry-pushback-ms`. Their
/// bodies are not read. Requests for the service's [health](Self::allow_health) and of [allowed](Self::allow) routes are let in.
///
/// ```
/// use std::time::Duration;
/// use pollwatch::Shed;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let layer = watchdog.layer().shed(Shed::new().high(Duration::from_millis(30)).allow("/checkout"));
/// # drop(layer);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Shed {
    high: Duration,
    low: Option<Duration>,
    sustain: Duration,
    retry_after: Duration,
    health: bool,
    allowed: Vec<Box<str>>,
}

/// Paths that tell others how the service is. Whoever asks wants to know it now.
const HEALTH: [&str; 5] = ["/health", "/healthz", "/livez", "/readyz", "/metrics"];
/// gRPC's protocol for the same.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

impl Shed {
    /// The high mark, if no other is set.
    pub const DEFAULT_HIGH: Duration = Duration::from_millis(40);
    /// How long the lag has to stay above the high mark, if nothing else is set.
    pub const DEFAULT_SUSTAIN: Duration = Duration::from_millis(100);
    /// What `Retry-After` says, if nothing else is set.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

    /// With the defaults.
    pub fn new() -> Shed {
        Shed {
            high: Shed::DEFAULT_HIGH,
            low: None,
            sustain: Shed::DEFAULT_SUSTAIN,
            retry_after: Shed::DEFAULT_RETRY_AFTER,
            health: true,
            allowed: Vec::new(),
        }
    }

    /// A lag above this turns requests away, all of them at twice of it. Under overload the lag then stays between the two.
    /// [`DEFAULT_HIGH`](Self::DEFAULT_HIGH).
    pub fn high(mut self, mark: Duration) -> Shed {
        self.high = mark;
        self
    }

    /// A lag below this lets all requests in again. Half the high mark, if not set; never above the high mark.
    pub fn low(mut self, mark: Duration) -> Shed {
        self.low = Some(mark);
        self
    }

    /// For how long the lag has to be above the high mark, each time it is measured, until the first request is turned away.
    /// [`DEFAULT_SUSTAIN`](Self::DEFAULT_SUSTAIN). Zero: one long poll is enough.
    pub fn sustain(mut self, time: Duration) -> Shed {
        self.sustain = time;
        self
    }

    /// What `Retry-After` says, in whole seconds, rounded up. [`DEFAULT_RETRY_AFTER`](Self::DEFAULT_RETRY_AFTER).
    pub fn retry_after(mut self, time: Duration) -> Shed {
        self.retry_after = time;
        self
    }

    /// Requests of this route are never turned away: its name as the metrics have it, or the path of its requests, exactly.
    pub fn allow(mut self, route: impl Into<String>) -> Shed {
        self.allowed.push(route.into().into());
        self
    }

    /// Whether requests that ask for the service's health are never turned away: the paths and routes `/health`, `/healthz`,
    /// `/livez`, `/readyz` and `/metrics`, and gRPC's `grpc.health.v1.Health`. They are, if not set.
    pub fn allow_health(mut self, yes: bool) -> Shed {
        self.health = yes;
        self
    }

    fn marks(&self) -> Marks {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (high, low) = (nanos(self.high), nanos(self.low.unwrap_or(self.high / 2)));
        Marks { high, low: low.min(high), sustain: nanos(self.sustain) }
    }
}

impl Default for Shed {
    fn default() -> Shed {
        Shed::new()
    }
}

/// A [`WatchLayer`] that turns requests away while their runtime is late; made by [`WatchLayer::shed`].
///
/// A request that is turned away is not given to the inner service. That service was ready for it, and may hold something for
/// it until it is called or dropped (a permit of tower's `ConcurrencyLimit`, a place in a `Buffer`). It is therefore replaced by
/// a clone of itself, so it has to be `Clone`; `tower::buffer::Buffer` makes one of any service.
#[derive(Clone)]
pub struct ShedLayer(WatchLayer);

impl fmt::Debug for ShedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShedLayer").field(&self.0).finish()
    }
}

impl ShedLayer {
    pub(super) fn new(mut layer: WatchLayer, shed: &Shed) -> ShedLayer {
        layer.context.turnstile = Some(Arc::new(Turnstile::new(&layer.context.meter, shed)));
        ShedLayer(layer)
    }
}

impl<S: Clone> Layer<S> for ShedLayer {
    type Service = WatchService<S>;

    fn layer(&self, inner: S) -> WatchService<S> {
        WatchService::new(inner, self.0.context.clone(), Some(S::clone))
    }
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// With the place that it takes, if it has to have one.
    LetIn(Option<Pass>),
    TurnedAway(Response<()>),
}

/// In a request's extensions: a layer further out has let it in, and may have given it the last place.
#[derive(Clone, Copy)]
struct LetIn;

/// What a service needs to turn requests away.
pub(super) struct Turnstile {
    gate: Arc<Gate>,
    health: bool,
    allowed: Vec<Box<str>>,
    allowed_routes: Vec<RouteId>,
    retry_after: HeaderValue,
    /// gRPC's way to say it: in milliseconds.
    pushback: HeaderValue,
}

impl Turnstile {
    fn new(meter: &Meter, shed: &Shed) -> Turnstile {
        let seconds = shed.retry_after.as_secs().saturating_add(u64::from(shed.retry_after.subsec_nanos() > 0));
        let routes = shed.allowed.iter().map(|name| meter.routes.intern(name, Proof::Known));
        Turnstile {
            gate: meter.gates.get(shed.marks()),
            health: shed.health,
            allowed: shed.allowed.clone(),
            allowed_routes: routes.filter(|route| *route != RouteId::OTHER).collect(),
            retry_after: seconds.into(),
            pushback: u64::try_from(shed.retry_after.as_millis()).unwrap_or(u64::MAX).into(),
        }
    }

    /// Whether any request is turned away: all that a request costs while there is no overload.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    /// What becomes of a request.
    pub(super) fn judge<B>(&self, request: &mut Request<B>, route: RouteId, frame: &mut request::Request) -> Verdict {
        const LET_IN: Verdict = Verdict::LetIn(None);
        if request.extensions().get::<LetIn>().is_some() {
            return LET_IN;
        }
        let Some(runtime) = frame.runtime() else { return LET_IN };
        if self.allows(request.uri().path(), route) {
            return LET_IN;
        }
        match self.gate.turns_away(&frame.meter().clock, runtime) {
            None => return LET_IN,
            Some(true) => {}
            Some(false) => {
                let pass = self.gate.blocks(frame.mean_poll()).then(|| self.gate.pass(runtime));
                if !matches!(pass, Some(None)) {
                    request.extensions_mut().insert(LetIn);
                    return Verdict::LetIn(pass.flatten());
                }
            }
        }
        frame.count_shed();
        self.gate.count(runtime);
        Verdict::TurnedAway(self.answer(request))
    }

    fn allows(&self, path: &str, route: RouteId) -> bool {
        self.allowed_routes.contains(&route)
            || self.allowed.iter().any(|allowed| **allowed == *path)
            || self.health && (HEALTH.contains(&path) || path.starts_with(GRPC_HEALTH))
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<()> {
        const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
        const MESSAGE: HeaderValue = HeaderValue::from_static("overloaded");
        let mut response = Response::new(());
        if is_grpc(request.headers()) {
            let headers = response.headers_mut();
            let kind =
                request.headers().get(CONTENT_TYPE).filter(|kind| kind.as_bytes().starts_with(b"application/grpc-web"));
            headers.insert(CONTENT_TYPE, kind.cloned().unwrap_or(HeaderValue::from_static("application/grpc")));
            headers.insert(HeaderName::from_static("grpc-status"), UNAVAILABLE);
            headers.insert(HeaderName::from_static("grpc-message"), MESSAGE);
            headers.insert(HeaderName::from_static("grpc-retry-pushback-ms"), self.pushback.clone());
        } else {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(RETRY_AFTER, self.retry_after.clone());
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        response
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::primitives::site::SiteId;
    use crate::measure::runtime::OTHER;

    fn turnstile(shed: Shed) -> Turnstile {
        Turnstile::new(&Meter::of(10_000_000, 10), &shed)
    }

    fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn answers_503_with_retry_after() {
        let answer = turnstile(Shed::new().retry_after(Duration::from_millis(2_001))).answer(&Request::new(()));
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, Some("3")));
        assert_eq!((header(&answer, "content-length"), header(&answer, "grpc-status")), (Some("0"), None));
    }

    #[test]
    fn answers_grpc_with_unavailable() {
        for (asked, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc"),
            ("application/grpc-web+proto", "application/grpc-web+proto"),
        ] {
            let request = Request::builder().header("content-type", asked).body(()).unwrap();
            let answer = turnstile(Shed::new()).answer(&request);
            assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (200, None));
            assert_eq!(header(&answer, "content-type"), Some(answered));
            assert_eq!(
                (header(&answer, "grpc-status"), header(&answer, "grpc-message")),
                (Some("14"), Some("overloaded"))
            );
            assert_eq!(header(&answer, "grpc-retry-pushback-ms"), Some("1000"));
        }
    }

    #[test]
    fn lets_health_and_allowed_routes_in() {
        let meter = Meter::of(10_000_000, 10);
        let route = |name: &str| meter.routes.intern(name, Proof::Known);
        let turnstile = Turnstile::new(&meter, &Shed::new().allow("/orders/{id}").allow("/ping"));
        assert!(
            turnstile.allows("/orders/7", route("/orders/{id}")) && !turnstile.allows("/orders/7", route("/orders"))
        );
        for path in ["/ping", "/healthz", "/readyz", "/metrics", "/grpc.health.v1.Health/Check"] {
            assert!(turnstile.allows(path, RouteId::UNMATCHED), "{path}");
        }
        assert!(!turnstile.allows("/healthz/x", RouteId::UNMATCHED) && !turnstile.allows("/", RouteId::OTHER));
        let strict = Turnstile::new(&meter, &Shed::new().allow_health(false));
        assert!(!strict.allows("/healthz", RouteId::UNMATCHED));
    }

    #[test]
    fn a_name_that_does_not_fit_does_not_allow_all_that_do_not() {
        let meter = Meter::of(10_000_000, 10);
        let full = (0..10).all(|i| meter.routes.intern(&format!("/{i}"), Proof::Known) != RouteId::OTHER);
        assert!(full);
        let turnstile = Turnstile::new(&meter, &Shed::new().allow("/late"));
        assert!(!turnstile.allows("/x", RouteId::OTHER) && turnstile.allows("/late", RouteId::OTHER));
    }

    #[test]
    fn blocking_routes_have_one_place_and_two_layers_take_it_once() {
        let meter = Meter::of(10_000_000, 10);
        let [blocks, quick] = ["/blocks", "/quick"].map(|name| meter.routes.intern(name, Proof::Known));
        let thread = crate::measure::thread::attached(&meter).unwrap();
        thread.state.routes.cell(blocks).unwrap().first_poll(Shed::DEFAULT_HIGH.as_nanos() as u64);
        let turnstile = Turnstile::new(&meter, &Shed::new());
        let judge = |request: &mut Request<()>, route| {
            let mut frame = request::Request::new(&meter, SiteId::OTHER, route);
            turnstile.judge(request, route, &mut frame)
        };
        let [mut first, mut second, mut third] = [(); 3].map(Request::new);
        assert!(matches!(judge(&mut first, blocks), Verdict::LetIn(None)), "not late");
        // Late, but by so little that the odds are 0.
        turnstile.gate.set(OTHER, 1, &Arc::default(), u64::MAX);
        let Verdict::LetIn(Some(place)) = judge(&mut first, blocks) else { panic!("the place is free") };
        assert!(matches!(judge(&mut first, blocks), Verdict::LetIn(None)), "it has its place");
        assert!(matches!(judge(&mut second, blocks), Verdict::TurnedAway(_)));
        assert!(matches!(judge(&mut third, quick), Verdict::LetIn(None)));
        drop(place);
        assert!(matches!(judge(&mut second, blocks), Verdict::LetIn(Some(_))));
        assert_eq!(meter.sum_of_routes()[&blocks].shed, 1);
    }

    #[test]
    fn marks_make_sense() {
        let marks = |shed: Shed| (shed.marks().high, shed.marks().low, shed.marks().sustain);
        assert_eq!(marks(Shed::default()), (40_000_000, 20_000_000, 100_000_000));
        let ms = Duration::from_millis;
        assert_eq!(marks(Shed::new().high(ms(10)).low(ms(30)).sustain(Duration::ZERO)), (10_000_000, 10_000_000, 0));
        assert_eq!(marks(Shed::new().high(Duration::MAX)).0, u64::MAX);
    }
}
